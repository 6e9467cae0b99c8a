"""`adapt`: K adapters trained on K sets of rows, all optimizer steps in one loop on the device."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfadapt.engine.adapt import schedule, training_step
from selfadapt.engine.adapt.optimizers import find_optimizer
from selfadapt.engine.adapt.train import LOSS_RISE, OUTWEIGHED, epoch_steps, initial_adapters, relative_norm
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora
from selfadapt.parallel import sharding
from selfadapt.types import Update

Array = jax.Array


@flax.struct.dataclass
class Steps:
    """The optimizer steps of adapters.

    Attributes:
      rows: the rows that each step learns from, -1 for none, `[K, steps, batch]`. A step without rows is not taken.
      rate: the learning rate of each step, `[K, steps]`.
      last: which steps are those of the last epoch, `[K, steps]`; their losses tell whether training has diverged.
    """

    rows: Any
    rate: Any
    last: Any


@flax.struct.dataclass
class Adapted:
    """K trained adapters.

    Attributes:
      lora: the adapters, zeros where training failed.
      losses: the mean loss of each optimizer step in nats, 0 where none was taken, `[K, steps]`.
      valid: whether the training succeeded, by the rules of `selfadapt.adapt`, `[K]`.
    """

    lora: Lora
    losses: Array
    valid: Array


def adapt(
    params: decoder.Params,
    config: ModelConfig,
    lora: Lora,
    tokens: Array,
    mask: Array,
    steps: Steps,
    *,
    positions: Array | None = None,
    segments: Array | None = None,
    weight_decay: Array | float = 0.0,
    max_grad_norm: Array | float | None = 1.0,
    change_scale: Lora | None = None,
    optimizer: str | optax.GradientTransformation = "adamw",
    remat: bool = False,
) -> Adapted:
    """Trains K adapters; each gets the result that it would get alone, and that of `selfadapt.adapt`.

    It can be differentiated with respect to `lora`, `steps.rate`, `change_scale` and the parameters (MAML, arXiv
    1703.03400; Meta-SGD, arXiv 1707.09835). The backward pass keeps the adapters and the optimizer's state before each
    step, and computes the rest again. Where B is zero the gradient of A is zero, and there Adam's step has no
    derivative: differentiate "sgd", or `optax.adamw(..., eps_root=...)`.

    Args:
      params: the frozen base.
      config: the architecture.
      lora: the K adapters to start from, or one that all start from.
      tokens: the rows of each adapter, one sequence in each, right-padded, `[K, R, T]`.
      mask: which tokens count in the loss as targets, `[K, R, T]`; the first of a sequence never does.
      steps: which rows each step learns from, and its learning rate.
      positions: the position of each token in its sequence, `[K, R, T]`, where rows have several sequences.
      segments: the sequence of its row that each token belongs to, from 1, likewise.
      weight_decay: the weight decay, a number or `[K]`.
      max_grad_norm: the norm that gradients are clipped to, likewise; `None` for no clipping.
      change_scale: what the change of each parameter is multiplied with, arrays that broadcast to those of `lora`: a
        learning rate for each parameter, relative to that of the step. Its `scale` is not used.
      optimizer: a name as in `Update.optimizer`, or a transformation. `steps.rate` and `weight_decay` act on one that
        injects hyper-parameters of these names, as those of `Update` do.
      remat: whether each layer is computed again in the backward pass of a step.

    Raises:
      InvalidValueError: there are no steps, or the leading axes differ.
    """
    adapters, _, time = tokens.shape
    if steps.rate.shape[1] < 1 or len(steps.rate) != adapters or len(lora.scale) not in (1, adapters):
        raise InvalidValueError(
            f"tokens has the rows of {adapters} adapters, steps {steps.rate.shape[1]} optimizer steps of "
            f"{len(steps.rate)}, and lora {len(lora.scale)} adapters; all must be of one number (lora may have one), "
            "and there must be a step"
        )
    transformation = find_optimizer(optimizer)
    first = jnp.arange(time) == 0 if positions is None else positions == 0
    given: dict[str, Any] = {"tokens": tokens, "mask": mask & ~first, "positions": positions, "segments": segments}
    rows = {
        name: sharding.shard(jnp.asarray(x), "adapters", "rows", "time") for name, x in given.items() if x is not None
    }
    decay = jnp.broadcast_to(jnp.asarray(weight_decay, jnp.float32), (adapters,))
    scale = None
    if change_scale is not None:
        every = change_scale.repeated(adapters)
        scale = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (every.a, every.b))
    state = training_step.initial_state(lora.repeated(adapters), optimizer=transformation, accumulate=False)

    def step(state, inputs):
        chosen, rate = inputs  # [K, batch], [K]
        place = jnp.maximum(chosen, 0)[:, :, None]
        batch = {name: jnp.take_along_axis(x, place, axis=1) for name, x in rows.items()}
        targets = batch.pop("mask") & (chosen >= 0)[:, :, None]
        count = targets.sum((1, 2))
        batch["weights"] = targets / jnp.maximum(count, 1)[:, None, None]

        def total(factors):
            losses = training_step.adapter_losses(
                training_step.stacked(factors, state.scale), params, config, batch, remat
            )
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(state.factors)
        norms = training_step.gradient_norms(gradient)
        alive = state.alive & jnp.isfinite(losses) & jnp.isfinite(norms)
        shrink = (
            jnp.ones_like(norms) if max_grad_norm is None else training_step.clipping(norms, jnp.asarray(max_grad_norm))
        )
        after = training_step.optimizer_step(
            transformation,
            state.factors,
            state.optimizer,
            gradient,
            shrink,
            {"learning_rate": rate, "weight_decay": decay},
            scale,
        )
        taken = alive & (count > 0)

        def select(new, old):
            return jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        factors, inner = jax.tree.map(select, after, (state.factors, state.optimizer))
        state = dataclasses.replace(state, factors=factors, optimizer=inner, alive=alive)
        state = training_step.with_axes(lambda leaf, axes: sharding.shard(leaf, *axes), state)
        return state, (losses, count > 0)

    state, (losses, taken) = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False), state, (jnp.moveaxis(steps.rows, 1, 0), steps.rate.T)
    )
    trained = training_step.finished(state)
    fine = state.alive & _sound(params, config, jax.lax.stop_gradient(trained), losses.T, taken.T, steps.last)
    return Adapted(trained.without(~fine), losses.T, fine)


def _sound(params: decoder.Params, config: ModelConfig, lora: Lora, losses: Array, taken: Array, last: Array) -> Array:
    """Returns whether adapters were trained and have not diverged, by the rules of `selfadapt.adapt`, `[K]`."""
    last = last & taken
    final = (losses * last).sum(1) / jnp.maximum(last.sum(1), 1)
    risen = final > jnp.maximum(losses[:, 0], math.log(config.vocab_size)) + LOSS_RISE
    return taken.any(1) & (relative_norm(params["layers"], lora) <= OUTWEIGHED) & ~risen


def steps_of(update: Update, most: int) -> Steps:
    """Returns the optimizer steps of an update with 0, 1, ... up to `most` sequences, as `selfadapt.adapt` takes them.

    Sequence i of an update is row i. Entry n of the arrays' first axis has the steps for n sequences: order, batches,
    schedule and warm-up of each epoch. Inside a program, `jax.tree.map(lambda leaf: leaf[counts], steps)` chooses those
    of each adapter.

    Raises:
      InvalidValueError: there are no sequences or epochs.
    """
    if most < 1 or update.epochs < 1:
        raise InvalidValueError(f"most is {most} and Update.epochs {update.epochs}; both must be at least 1")
    every = [schedule.optimizer_steps(update, count) for count in range(most + 1)]
    longest = max(map(len, every))
    batch = max(len(chosen) for chosen in every[-1])
    rows = np.full((most + 1, longest, batch), -1, np.int32)
    rate, last = np.zeros((most + 1, longest), np.float32), np.zeros((most + 1, longest), bool)
    for count, steps in enumerate(every):
        for number, chosen in enumerate(steps):
            rows[count, number, : len(chosen)] = chosen
            rate[count, number] = schedule.learning_rate(update, number, len(steps))
        if steps:
            last[count, len(steps) - epoch_steps(len(steps), update.epochs) : len(steps)] = True
    return Steps(rows, rate, last)


@flax.struct.dataclass
class Inner:
    """How the adapters of edits are trained; `inner_update` makes it of an `Update`.

    Attributes:
      lora: the adapter that all start from.
      steps: for each number of sequences the optimizer steps (`steps_of`).
      weight_decay: as for `adapt`, like the others.
      max_grad_norm: likewise.
      change_scale: likewise.
      optimizer: likewise; not an array.
    """

    lora: Lora
    steps: Steps
    weight_decay: Any
    max_grad_norm: Any
    change_scale: Lora | None = None
    optimizer: str | optax.GradientTransformation = flax.struct.field(pytree_node=False, default="adamw")


def inner_update(config: ModelConfig, update: Update, most: int) -> Inner:
    """Returns the hyper-parameters of an update as arrays, with the adapter that it starts from.

    Args:
      config: the architecture.
      update: the update; its sequences are not used.
      most: the most sequences that it will have.

    Raises:
      InvalidValueError: it has a field that `adapt` has no counterpart of, or `steps_of` cannot use it.
    """
    if update.loss != "all" or update.orthogonality or update.divergence:
        raise InvalidValueError(
            f"Update.loss is {update.loss!r}, Update.orthogonality {update.orthogonality} and Update.divergence "
            f"{update.divergence}; an edit's lines are trained with 'all' and without a penalty"
        )
    clip = None if update.max_grad_norm is None else np.float32(update.max_grad_norm)
    return Inner(
        lora=initial_adapters(config, [update]).lora,
        steps=steps_of(update, most),
        weight_decay=np.float32(update.weight_decay),
        max_grad_norm=clip,
        optimizer=update.optimizer,
    )
