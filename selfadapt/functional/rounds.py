"""`outer_round`: an episode and a policy gradient on a LoRA adapter of the policy, in one program."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from selfadapt.engine.adapt.optimizers import find_optimizer
from selfadapt.engine.policy import Loss, Rows, Trainable, Trained, programs
from selfadapt.errors import InvalidValueError
from selfadapt.functional.arrays import join, of_edits, valid
from selfadapt.functional.encoding import Contexts, Vocabulary
from selfadapt.functional.episodes import Rewards, episode
from selfadapt.functional.sampling import Sampled
from selfadapt.functional.training import Inner
from selfadapt.models import decoder
from selfadapt.models.policy import Policy
from selfadapt.outer.losses import PolicyLoss
from selfadapt.types import Update

Array = jax.Array

BASELINES = ("leave_one_out", "running")


@flax.struct.dataclass
class Writer:
    """The policy's adapter in training.

    Attributes:
      trained: its factors.
      optimizer: the optimizer's state.
      mean: the moving average of the rounds' mean rewards.
      rounds: the rounds so far.
    """

    trained: Trained
    optimizer: Any
    mean: Array
    rounds: Array


@dataclasses.dataclass(frozen=True)
class Outer:
    """How the policy is trained; hashable, hence static in a program.

    Attributes:
      trainable: the policy's adapter.
      optimizer: a name as in `Update.optimizer`, or a transformation.
      learning_rate: of an optimizer that injects it, like the next.
      weight_decay: likewise.
      max_grad_norm: the norm that the gradient is clipped to.
      baseline: what a reward is compared with: "leave_one_out", the mean of the context's other edits (RLOO, arXiv
        2402.14740), or "running", the moving average of earlier rounds (REINFORCE; of the round itself in the first).
      decay: how much of the moving average remains in a round.
      steps: optimizer steps of a round, each on the edits of as many contexts.
      loss: the loss of written tokens, a sum weighted by `Rows.data["weight"]`, so that it is a mean over the tokens of
        a step; `Rows.data` also has "advantage" and "old", the log-probabilities when they were sampled.
    """

    trainable: Trainable
    optimizer: str | optax.GradientTransformation = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    baseline: str = "leave_one_out"
    decay: float = 0.5
    steps: int = 1
    loss: Loss = PolicyLoss()

    def __post_init__(self):
        if self.baseline not in BASELINES:
            raise InvalidValueError(f"Outer.baseline is {self.baseline!r}; it must be one of {', '.join(BASELINES)}")
        if self.trainable.spec is None:
            raise InvalidValueError("Outer.trainable is all weights; here an adapter of the policy is trained")


def writer(policy: Policy, training: Update, **options: Any) -> tuple[Writer, Outer]:
    """Returns a policy's adapter before its training, and how it is trained.

    Args:
      policy: the policy. After the rounds `outer.trainable.policy(policy, writer.trained.policy)` is its next version.
      training: the adapter, if the policy has none, the optimizer and its hyper-parameters.
      **options: further fields of `Outer`.

    Raises:
      InvalidValueError: a target is no projection of the policy's architecture, or an option is out of range.
    """
    trainable = Trainable.of(policy, training, "lora")
    clip = float("inf") if training.max_grad_norm is None else training.max_grad_norm
    options = {"learning_rate": training.learning_rate, "weight_decay": training.weight_decay} | options
    outer = Outer(trainable, training.optimizer, max_grad_norm=clip, **options)
    trained = Trained(trainable.weights(policy, training))
    optimizer = find_optimizer(training.optimizer)
    state = programs.initial_optimizer(trained, trainable=trainable, optimizer=optimizer)
    return Writer(trained, state, jnp.zeros(()), jnp.zeros((), jnp.int32)), outer


def outer_round(
    params: decoder.Params,
    state: Writer,
    contexts: Contexts,
    vocabulary: Vocabulary,
    keys: Array,
    inner: Inner,
    *,
    outer: Outer,
    remat: bool = False,
    **options: Any,
) -> tuple[Writer, Sampled, Rewards, dict[str, Array]]:
    """Runs a round: edits and their rewards under the policy as it is, then the policy's gradient on them.

    The model that is adapted is the base without the policy's adapter. `lax.scan` over contexts and keys makes one
    program of any number of rounds.

    Args:
      params: the base parameters, of the policy and of the model that is adapted.
      state: the policy's adapter.
      contexts: C contexts with their questions.
      vocabulary: as for `episode`, like keys, inner and remat.
      keys: likewise, `[C, S, 2]`.
      inner: likewise.
      outer: how the policy is trained.
      remat: likewise.
      **options: those of `episode`: `new_tokens`, `line_tokens`, `temperature`, `top_p`, `reward`.

    Returns:
      The policy's adapter after the round, the edits, their rewards, and scalars: "reward" (the mean), "gradient_norm",
      "change_norm" and the loss's own ("loss" among them), each the mean over the round's steps.

    Raises:
      InvalidValueError: "leave_one_out" has a single edit of each context, the steps do not divide the contexts, or as
        for `episode`.
    """
    trainable, count, samples = outer.trainable, *keys.shape[:2]
    if count % outer.steps or (outer.baseline == "leave_one_out" and samples < 2):
        raise InvalidValueError(
            f"Outer.steps is {outer.steps} and its baseline {outer.baseline!r}, for {count} contexts with {samples} "
            "edits each; the steps must divide the contexts, and 'leave_one_out' needs two edits of each"
        )
    _, policy = trainable.assemble(state.trained.policy, params)
    edits, rewards = episode(
        params, trainable.config, contexts, vocabulary, keys, inner, policy=policy, remat=remat, **options
    )
    state, advantages = _advantages(state, rewards.rewards, outer)
    rows = _rows(contexts, edits, advantages)
    cut = jax.tree.map(lambda leaf: leaf.reshape(outer.steps, -1, *leaf.shape[1:]), rows)
    optimizer = find_optimizer(outer.optimizer)
    rates = {name: jnp.float32(getattr(outer, name)) for name in ("learning_rate", "weight_decay", "max_grad_norm")}

    def step(carry, rows):
        trained, optimizer_state = carry
        weight = rows.mask / jnp.maximum(rows.mask.sum(), 1)
        rows = dataclasses.replace(rows, data=rows.data | {"weight": weight})
        slope, numbers = programs.gradient(
            trained,
            params,
            rows,
            programs.zeros(trained, trainable=trainable),
            trainable=trainable,
            loss=outer.loss,
            remat=remat,
        )
        trained, optimizer_state, norms = programs.step(
            trained, optimizer_state, slope, rates, trainable=trainable, optimizer=optimizer
        )
        return (trained, optimizer_state), numbers | {
            "gradient_norm": norms["policy"],
            "change_norm": norms["change"],
        }

    (trained, optimizer_state), numbers = jax.lax.scan(step, (state.trained, state.optimizer), cut)
    metrics = {name: values.mean() for name, values in numbers.items()} | {"reward": rewards.rewards.mean()}
    return dataclasses.replace(state, trained=trained, optimizer=optimizer_state), edits, rewards, metrics


def _advantages(state: Writer, rewards: Array, outer: Outer) -> tuple[Writer, Array]:
    """Returns the state with the round in its moving average, and the advantage of each edit, `[C, S]`."""
    now, first = rewards.mean(), state.rounds == 0
    if outer.baseline == "running":
        advantages = rewards - jnp.where(first, now, state.mean)
    else:
        samples = rewards.shape[1]
        advantages = (rewards - rewards.mean(1, keepdims=True)) * samples / (samples - 1)
        advantages = jnp.where(jnp.ptp(rewards, axis=1, keepdims=True) == 0, 0.0, advantages)
    mean = jnp.where(first, now, outer.decay * state.mean + (1 - outer.decay) * now)
    return dataclasses.replace(state, mean=mean, rounds=state.rounds + 1), advantages


def _rows(contexts: Contexts, edits: Sampled, advantages: Array) -> Rows:
    """Returns a row for each edit: its prompt and its tokens."""
    samples, new_tokens = edits.tokens.shape[1:]
    prompts = of_edits(contexts.prompts, samples)
    start = prompts.lengths
    tokens, lengths = join(prompts.tokens, start, edits.tokens.reshape(-1, new_tokens), edits.lengths.reshape(-1))
    width = tokens.shape[-1]
    mask = valid(lengths, width) & ~valid(start, width)
    place = jnp.clip(jnp.arange(width) - start[:, None], 0, new_tokens - 1)
    old = jnp.take_along_axis(edits.logprobs.reshape(-1, new_tokens), place, axis=-1)
    data = {"advantage": jnp.broadcast_to(advantages.reshape(-1, 1), mask.shape), "old": old}
    return Rows(tokens, mask, {name: jnp.where(mask, each, 0.0) for name, each in data.items()})
