"""`episode`: edits of many contexts, an adapter trained on each, and its reward, in one program."""

from __future__ import annotations

import dataclasses

import flax
import jax
import jax.numpy as jnp

from selfadapt.errors import InvalidValueError
from selfadapt.functional.arrays import of_edits
from selfadapt.functional.encoding import Contexts, Vocabulary
from selfadapt.functional.lines import packed_rows, split_lines, training_rows
from selfadapt.functional.sampling import Sampled, sample
from selfadapt.functional.scoring import score
from selfadapt.functional.training import Inner, adapt
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora

Array = jax.Array

REWARDS = ("log_likelihood", "exact")


@flax.struct.dataclass
class Rewards:
    """What S edits of each of C contexts with Q questions are worth.

    Attributes:
      rewards: the mean over the context's questions of `logprobs` or `exact`, `[C, S]`.
      logprobs: the log-probability of each answer in nats, `[C, S, Q]`.
      exact: whether the adapted model answers with exactly these tokens, `[C, S, Q]`.
      losses: the loss of each optimizer step in nats, `[C, S, steps]`.
      valid: whether the adapter could be trained; if not, the edit is scored as the model as it is, `[C, S]`.
      cut: whether lines were left out or shortened to fit into the static shapes, `[C, S]`.
    """

    rewards: Array
    logprobs: Array
    exact: Array
    losses: Array
    valid: Array
    cut: Array


def episode(
    params: decoder.Params,
    config: ModelConfig,
    contexts: Contexts,
    vocabulary: Vocabulary,
    keys: Array,
    inner: Inner,
    *,
    new_tokens: int,
    line_tokens: int,
    policy: Lora | None = None,
    temperature: Array | float = 1.0,
    top_p: Array | float | None = None,
    reward: str = "log_likelihood",
    remat: bool = False,
) -> tuple[Sampled, Rewards]:
    """Samples edits and computes their rewards: the phases sample, apply and score of the loop.

    Args:
      params: the parameters of the model, which writes the edits and is adapted to them.
      config: the architecture.
      contexts: C contexts with their questions.
      vocabulary: what tokens are to lines and answers.
      keys: the random key of each edit, `[C, S, 2]` (`sample_keys`).
      inner: how adapters are trained. They have as many rows as its steps are for, one of them the passage.
      new_tokens: the most tokens of an edit.
      line_tokens: the most tokens of a line of an edit.
      policy: the adapter of the model that writes; `None` for the model as it is.
      temperature: of sampling, as for `sample`, like the next.
      top_p: likewise.
      reward: "log_likelihood", or "exact".
      remat: as for `adapt`.

    Returns:
      The edits, and their rewards.

    Raises:
      InvalidValueError: the reward is unknown, or something is longer than the model's context.
    """
    edits = sample(
        params,
        config,
        contexts.prompts.tokens,
        contexts.prompts.lengths,
        keys,
        new_tokens=new_tokens,
        lora=policy,
        temperature=temperature,
        top_p=top_p,
    )
    rewards = edit_rewards(
        params,
        config,
        contexts,
        vocabulary,
        edits.tokens,
        edits.lengths,
        inner,
        line_tokens=line_tokens,
        reward=reward,
        remat=remat,
    )
    return edits, rewards


def edit_rewards(
    params: decoder.Params,
    config: ModelConfig,
    contexts: Contexts,
    vocabulary: Vocabulary,
    tokens: Array,
    lengths: Array,
    inner: Inner,
    *,
    line_tokens: int,
    reward: str = "log_likelihood",
    remat: bool = False,
) -> Rewards:
    """Trains an adapter on each edit and scores it on the questions of its context.

    An adapter's rows are the lines of the edit, each after the context's prefix, and the passage. An edit of length 0
    is training on the passage alone, the baseline.

    Args:
      params: the parameters of the model that is adapted.
      config: the architecture.
      contexts: C contexts with their questions.
      vocabulary: what tokens are to lines and answers.
      tokens: the edits, `[C, S, N]`.
      lengths: the tokens of each edit, `[C, S]`.
      inner: as for `episode`, like the rest.
      line_tokens: likewise.
      reward: likewise.
      remat: likewise.

    Raises:
      InvalidValueError: as for `episode`.
    """
    if reward not in REWARDS:
        raise InvalidValueError(f"reward is {reward!r}; it must be one of {', '.join(REWARDS)}")
    count, samples = lengths.shape
    most = inner.steps.rate.shape[0] - 2  # lines, beside the passage
    end = jnp.asarray(vocabulary.row_end)
    line_width = contexts.prefixes.tokens.shape[-1] + line_tokens + len(end)
    width = max(line_width, contexts.passages.tokens.shape[-1])
    if most < 1 or width > config.max_position_embeddings:
        raise InvalidValueError(
            f"inner has steps for {most + 1} rows, of {width} tokens with their padding; there must be one for a line "
            f"besides that of the passage, and the model has {config.max_position_embeddings} positions"
        )
    lines = split_lines(
        tokens.reshape(count * samples, -1), lengths.reshape(-1), jnp.asarray(vocabulary.kinds), most, line_tokens
    )
    each = of_edits(contexts, samples)
    prefixes, passages = each.prefixes, each.passages
    rows, row_lengths = training_rows(lines, prefixes.tokens, prefixes.lengths, end, line_width)
    counts = lines.counts + (passages.lengths > 0)
    steps = jax.tree.map(lambda leaf: jnp.asarray(leaf)[counts], inner.steps)
    # Where each step learns from all sequences, short ones share rows.
    together = max(1, width // line_width) if steps.rows.shape[-1] > most else 1
    given = packed_rows(rows, row_lengths, passages.tokens, passages.lengths, together, width)
    if together > 1:
        every = jnp.arange(given["tokens"].shape[1])
        steps = dataclasses.replace(steps, rows=jnp.where((steps.rows >= 0).any(-1, keepdims=True), every, -1))
    else:  # the steps are for sequences without gaps, and the passage comes after the last line
        steps = dataclasses.replace(steps, rows=jnp.where(steps.rows == lines.counts[:, None, None], most, steps.rows))
    adapted = adapt(
        params,
        config,
        inner.lora,
        steps=steps,
        **given,
        weight_decay=inner.weight_decay,
        max_grad_norm=inner.max_grad_norm,
        change_scale=inner.change_scale,
        optimizer=inner.optimizer,
        remat=remat,
    )
    scores = score(
        params,
        config,
        adapted.lora,
        each.questions.tokens,
        each.questions.lengths,
        each.answers.tokens,
        each.answers.lengths,
        vocabulary.answer_ends,
    )
    values = scores.logprobs if reward == "log_likelihood" else scores.exact
    questions = (each.answers.lengths > 0).sum(-1)

    def by_edit(leaf):
        return leaf.reshape(count, samples, *leaf.shape[1:])

    return Rewards(
        rewards=by_edit(values.sum(-1) / jnp.maximum(questions, 1)),
        logprobs=by_edit(scores.logprobs),
        exact=by_edit(scores.exact),
        losses=by_edit(adapted.losses),
        valid=by_edit(adapted.valid),
        cut=by_edit(lines.cut),
    )
