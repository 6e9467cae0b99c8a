"""`score`: how well adapted models know the answers to questions, in one forward pass."""

from __future__ import annotations

import flax
import jax
import jax.numpy as jnp

from selfadapt.engine.score import over_targets
from selfadapt.errors import InvalidValueError
from selfadapt.functional.arrays import join, valid
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora

Array = jax.Array


@flax.struct.dataclass
class Scores:
    """The scores of K adapters on Q questions each.

    Attributes:
      logprobs: the log-probability of each answer after its question in nats, `[K, Q]`.
      exact: whether greedy decoding writes the answer's tokens and then one that ends an answer, `[K, Q]`.
    """

    logprobs: Array
    exact: Array


def score(
    params: decoder.Params,
    config: ModelConfig,
    lora: Lora | None,
    questions: Array,
    question_lengths: Array,
    answers: Array,
    answer_lengths: Array,
    ends: Array,
) -> Scores:
    """Scores answers; the log-probabilities are those of `selfadapt.log_likelihood`, and can be differentiated.

    Greedy decoding writes an answer if and only if each of its tokens, and then one that ends it, is the most probable
    one after the question and the tokens before: one forward pass decides this, and nothing is generated.

    Args:
      params: the base parameters.
      config: the architecture.
      lora: K adapters; `None` for the base model (K is 1).
      questions: token ids, right-padded, `[K, Q, T]`.
      question_lengths: at least 1, `[K, Q]`.
      answers: token ids, right-padded, `[K, Q, A]`.
      answer_lengths: `[K, Q]`; 0 where there is no question, whose scores are 0 and false.
      ends: for each token whether it ends an answer, `[vocab]`.

    Raises:
      InvalidValueError: a question and its answer could exceed the model's positions.
    """
    most = answers.shape[-1]
    if (width := questions.shape[-1] + most + 1) > config.max_position_embeddings:
        raise InvalidValueError(
            f"questions, answers and the token after them have {width} tokens with their padding; the model has "
            f"{config.max_position_embeddings} positions"
        )
    tokens, _ = join(questions, question_lengths, answers, answer_lengths, width)

    def of_token(logits, wanted):
        gold = jnp.take_along_axis(logits, wanted[:, None], axis=-1)[:, 0]
        return gold - jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1)

    logprobs, best = over_targets(of_token, params, lora, tokens, question_lengths, config, most + 1)
    inside = valid(answer_lengths, most)
    right = ((best[..., :most] == answers) | ~inside).all(-1)
    after = jnp.take_along_axis(best, answer_lengths[..., None], axis=-1)[..., 0]
    total = jnp.where(inside, logprobs[..., :most], 0.0).sum(-1)
    return Scores(total, right & jnp.asarray(ends)[after] & (answer_lengths > 0))
