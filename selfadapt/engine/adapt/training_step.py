"""The program of `adapt`: a micro-batch of each of several adapters, forward, backward, and an optimizer step.

It is one jitted, pure function, compiled for each shape and optimizer. What differs between adapters (learning rate,
schedule, number of steps, rank, alpha, targets, masks) is data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from selfadapt.engine import runtime
from selfadapt.engine.adapt.optimizers import HYPERPARAMETERS, with_hyperparameters, with_parameter_axes
from selfadapt.engine.vocabulary import gold_logits, over_tokens
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora, factor_axes
from selfadapt.models.reductions import logsumexp
from selfadapt.parallel import sharding

Array = jax.Array

Frozen = tuple[tuple[dict[str, Array], dict[str, Array]], Array]  # factors and scale, see `adapters_first`
CLIP_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@flax.struct.dataclass
class TrainingState:
    """The state of K adapters in training. Every leaf has the adapters as its first axis.

    Attributes:
      factors: the two factors of the adapters, `[K, layers, in, rank]` and `[K, layers, rank, out]` for each target.
      scale: alpha / rank, `[K]`.
      optimizer: the optimizer's state, `[K, ...]`.
      gradient: the accumulated gradient of unfinished steps; `None` if every micro-batch is a whole step.
      alive: whether all losses and gradients so far were finite, `[K]`.
    """

    factors: tuple[dict[str, Array], dict[str, Array]]
    scale: Array
    optimizer: Any
    gradient: Any
    alive: Array


def token_losses(
    params: decoder.Params, config: ModelConfig, hidden: Array, targets: Array, logits_bytes: int | None = None
) -> Array:
    """Returns the cross-entropy in nats of target tokens, in float32, `[adapters, rows, time]`.

    Args:
      params: the base parameters.
      config: the architecture.
      hidden: the decoder's output, `[adapters, rows, time, hidden]`.
      targets: token ids, `[adapters, rows, time]`.
      logits_bytes: as for `over_tokens`.
    """

    def losses(logits, targets):
        return logsumexp(logits) - gold_logits(logits, targets)

    return over_tokens(losses, params, config, hidden, targets, logits_bytes)


def adapter_losses(
    lora: Lora | tuple[Lora, ...], params: decoder.Params, config: ModelConfig, batch: dict, remat: bool
) -> Array:
    """Returns the weighted loss of each adapter's rows, `[K]`; `batch` is what `arrays.Table.token_arrays` returns."""
    hidden = decoder.forward(
        params,
        config,
        batch["tokens"],
        lora=lora,
        positions=batch.get("positions"),
        segments=batch.get("segments"),
        key_segments=batch.get("key_segments"),
        remat=remat,
        often=True,
    )
    losses = token_losses(params, config, hidden[:, :, :-1], batch["tokens"][:, :, 1:])
    return (losses * batch["weights"][:, :, 1:]).sum((1, 2))


def overlap(first: dict[str, Array], second: dict[str, Array]) -> Array:
    """Returns the sum of the squared entries of A' B, `[K]`, for down-projections A and B of K adapters each.

    It is zero if the two read orthogonal directions of every input.

    Args:
      first: the down-projections of each target, `[K, layers, in, rank]`.
      second: others, of any rank; targets that only one of them has do not count.
    """
    products = [jnp.einsum("klir,klis->klrs", a, second[name]) for name, a in first.items() if name in second]
    return sum((jnp.square(product).sum((1, 2, 3)) for product in products), jnp.zeros(len(next(iter(first.values())))))


def divergences(
    lora: Lora | tuple[Lora, ...], params: decoder.Params, config: ModelConfig, batch: dict, remat: bool
) -> Array:
    """Returns the weighted divergence from the base on each adapter's anchors, `[K]`.

    It is KL(base || adapted) of the next token in nats; the base is the model without any adapter.

    Args:
      lora: the adapters, frozen ones included.
      params: the base parameters.
      config: the architecture.
      batch: what `arrays.Table.anchor_arrays` returns.
      remat: whether to recompute activations in the backward pass.
    """
    tokens = batch["anchors"]
    adapted = decoder.forward(params, config, tokens, lora=lora, remat=remat)
    base = decoder.forward(params, config, tokens)

    def divergence(logits, base):
        before, after = (jax.nn.log_softmax(each) for each in (decoder.logits(params, config, base), logits))
        return (jnp.exp(before) * (before - after)).sum(-1)

    found = over_tokens(divergence, params, config, adapted[:, :, :-1], base[:, :, :-1], sets=2)
    return (found * batch["anchor_weights"][:, :, 1:]).sum((1, 2))


def training_step(
    params: decoder.Params,
    state: TrainingState,
    batch: dict,
    frozen: Frozen | None = None,
    *,
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    remat: bool,
    shards: int = 1,
) -> tuple[TrainingState, Array]:
    """Runs one micro-batch of each adapter named in `batch["adapter"]`.

    On a mesh every shard has K / shards of the adapters and as many of the slots, and gathers and scatters
    among its own: nothing crosses from shard to shard, except that the fsdp axis brings weights together.

    Args:
      params: the frozen base.
      state: all K adapters.
      batch: token arrays `[slots, rows, time]` and, for each slot, `adapter` (its index among those of its
        shard; past the last one: an empty slot; where there is a slot for each adapter, an adapter is in its own),
        `apply` (whether the optimizer step is taken), `max_grad_norm`, `orthogonality` (the weight of `overlap` with
        the frozen adapters), and the optimizer's `HYPERPARAMETERS`. It may have arrays of anchors (`divergences`).
      frozen: adapters under those in training, K as well: part of each one's base, with no gradient.
      config: the architecture.
      optimizer: turns clipped gradients into changes of the parameters.
      remat: whether to recompute activations in the backward pass.
      shards: shards that divide the adapters; 1 where a single adapter's rows are divided instead.

    Returns:
      The new state, and each slot's share of the loss of its optimizer step, `[slots]`.
    """
    tokens = ("tokens", "weights", "positions", "segments", "key_segments", "anchors", "anchor_weights")
    batch = {
        name: sharding.shard(x, *("adapters", "rows", "time")[: x.ndim]) if name in tokens or shards > 1 else x
        for name, x in batch.items()
    }
    index = batch["adapter"]
    per_shard = len(state.scale) // shards
    in_place = len(index) == len(state.scale)  # each adapter is in its own slot

    def by_shard(function):  # of arrays with the adapters or slots of one shard first
        def apply(*arrays):
            result = jax.vmap(function)(*(x.reshape(shards, -1, *x.shape[1:]) for x in arrays))
            return result.reshape(-1, *result.shape[2:])

        return function if shards == 1 else apply

    def several(index, leaf):
        # XLA makes slices of a gather and a scatter of one index, fuses them with what reads them, and then has to
        # copy all adapters at each step. Of two indices they stay; the second is out of range.
        return index if len(index) > 1 else jnp.append(index, leaf.shape[0] + 1)

    def gather(tree):
        if in_place:
            return tree

        @by_shard
        def take(leaf, index):
            return jnp.take(leaf, several(index, leaf), axis=0, mode="clip")[: len(index)]

        return jax.tree.map(lambda leaf: take(leaf, index), tree)

    def scatter(tree, written, new):
        if in_place:
            return jax.tree.map(lambda leaf, value: jnp.where(slotwise(written, leaf), value, leaf), tree, new)
        # A slot that is not written goes past the end, where writes are dropped: cheaper than selecting the old values.
        places = jnp.where(written, index, per_shard + jnp.arange(len(index)))

        @by_shard
        def put(leaf, index, value):
            at = several(index, leaf)
            value = jnp.pad(value, [(0, len(at) - len(index))] + [(0, 0)] * (value.ndim - 1))
            return leaf.at[at].set(value, mode="drop", unique_indices=True)

        return jax.tree.map(lambda leaf, value: put(leaf, places, value), tree, new)

    def slotwise(values, leaf):  # [slots] against [slots, layers, ., .]
        return values.reshape(-1, *[1] * (leaf.ndim - 1))

    factors, scale, alive = gather((state.factors, state.scale, state.alive))
    below = None if frozen is None else gather(frozen)
    under = () if below is None else (stacked(*below),)

    def total(factors):
        lora = (*under, stacked(factors, scale))
        losses = adapter_losses(lora, params, config, batch, remat)
        penalized = losses.sum()
        if below is not None:
            weights = jnp.where(batch["apply"], batch["orthogonality"], 0.0)  # once for each optimizer step
            penalized += (weights * overlap(below[0][0], factors[0])).sum()
        if "anchors" in batch:
            penalized += divergences(lora, params, config, batch, remat).sum()
        return penalized, losses

    gradient, losses = jax.grad(total, has_aux=True)(factors)
    if state.gradient is not None:
        gradient = jax.tree.map(jnp.add, gather(state.gradient), gradient)
    norm = gradient_norms(gradient)
    alive = alive & jnp.isfinite(losses) & jnp.isfinite(norm)
    step = alive & batch["apply"]
    hyperparameters = {name: batch[name] for name in HYPERPARAMETERS}
    gradient_scale = clipping(norm, batch["max_grad_norm"])
    factors, optimizer_state = optimizer_step(
        optimizer, factors, gather(state.optimizer), gradient, gradient_scale, hyperparameters
    )
    filled = index < per_shard
    accumulated = state.gradient
    if accumulated is not None:
        unfinished = jax.tree.map(lambda g: jnp.where(slotwise(batch["apply"], g), 0.0, g), gradient)
        accumulated = scatter(accumulated, filled, unfinished)
    state = TrainingState(
        factors=scatter(state.factors, step, factors),
        scale=state.scale,
        optimizer=scatter(state.optimizer, step, optimizer_state),
        gradient=accumulated,
        alive=scatter(state.alive, filled, alive),
    )
    return with_axes(lambda leaf, axes: sharding.shard(leaf, *axes), state), losses


def gradient_norms(gradient: Any) -> Array:
    """Returns the norm of each adapter's gradient, `[K]`, of arrays `[K, layers, ., .]`."""
    squares = sum((jnp.sum(g * g, axis=(1, 2, 3)) for g in jax.tree.leaves(gradient)), jnp.zeros(()))
    # The derivative of the root at zero is infinite, and that of an adapter without a gradient should be zero.
    return jnp.where(squares == 0, 0.0, jnp.sqrt(jnp.where(squares == 0, 1.0, squares)))


def clipping(norms: Array, most: Array) -> Array:
    """Returns what gradients of these norms are multiplied with to have at most the norm `most`, `[K]`."""
    return jnp.minimum(1.0, most / (norms + CLIP_EPSILON))


def optimizer_step(
    optimizer: optax.GradientTransformation,
    factors: Any,
    state: Any,
    gradient: Any,
    gradient_scale: Array,
    hyperparameters: dict[str, Array],
    change_scale: Any = None,
) -> tuple[Any, Any]:
    """Takes an optimizer step of each of K adapters; every array has them as its first axis.

    Args:
      optimizer: turns gradients into changes of the parameters.
      factors: the adapters' parameters.
      state: the optimizer's state.
      gradient: the gradient.
      gradient_scale: what each adapter's gradient is multiplied with first, `[K]`.
      hyperparameters: the values of `HYPERPARAMETERS`, `[K]` each.
      change_scale: what the change of each parameter is multiplied with; `None` for 1.

    Returns:
      The new parameters, and the new state.
    """

    def stepped(factors, state, gradient, scale, hyperparameters, change_scale):  # of one adapter
        scaled = jax.tree.map(lambda g: g * scale, gradient)
        changes, state = optimizer.update(scaled, with_hyperparameters(state, hyperparameters), factors)
        if change_scale is not None:
            changes = jax.tree.map(jnp.multiply, changes, change_scale)
        return optax.apply_updates(factors, changes), state

    with jax.default_matmul_precision("highest"):  # some optimizers multiply matrices; parameters are float32
        return jax.vmap(stepped)(factors, state, gradient, gradient_scale, hyperparameters, change_scale)


program = runtime.jit(
    training_step,
    static_argnames=("config", "optimizer", "remat", "shards"),
    donate_argnames=("state",),
)
"""`training_step` as a program; it updates its state in place."""


def lower(
    params: decoder.Params,
    state: TrainingState,
    batch: dict,
    mesh: sharding.Mesh | None,
    frozen: Frozen | None = None,
    *,
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    remat: bool,
    shards: int,
) -> jax.stages.Lowered:
    """Lowers `training_step` for a mesh, as `adapt` would; arrays may be `jax.ShapeDtypeStruct`s.

    The arguments are those of `training_step`; see `abstract_state`, `abstract_adapters_first` and
    `selfadapt.engine.adapt.work`.
    """
    with sharding.using(mesh):
        return program.lower(
            params, state, batch, frozen, config=config, optimizer=optimizer, remat=remat, shards=shards
        )


def with_axes(function: Callable[[Any, tuple[str | None, ...]], Any], state: TrainingState) -> TrainingState:
    """Returns a state with a function applied to each array and its logical axes (`selfadapt.parallel.sharding`)."""
    axes: tuple[dict, ...] = ({}, {})
    for side, factors in enumerate(state.factors):
        for name in factors:
            axes[side][name] = _adapters_first(factor_axes(name)[side])
    return with_parameter_axes(function, state, state.factors, axes, ("adapters",))


@functools.partial(jax.jit, static_argnames=("optimizer", "accumulate"))
def initial_state(lora: Lora, *, optimizer: optax.GradientTransformation, accumulate: bool) -> TrainingState:
    """Returns the state at the start of training.

    Args:
      lora: the adapters to start from.
      optimizer: the optimizer.
      accumulate: whether an optimizer step may have several micro-batches.
    """
    factors = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (lora.a, lora.b))
    state = TrainingState(
        factors=factors,
        scale=jnp.copy(lora.scale),  # a jit may return its argument, which the first training step would overwrite
        optimizer=jax.vmap(optimizer.init)(factors),
        gradient=jax.tree.map(jnp.zeros_like, factors) if accumulate else None,
        alive=jnp.ones(len(lora.scale), bool),
    )
    return with_axes(lambda leaf, axes: sharding.shard(leaf, *axes), state)


def abstract_state(
    lora: Lora, mesh: sharding.Mesh | None, *, optimizer: optax.GradientTransformation, accumulate: bool
) -> TrainingState:
    """Returns `initial_state` as `jax.ShapeDtypeStruct`s with their sharding on a mesh, without computing it."""
    shapes = jax.eval_shape(functools.partial(initial_state, optimizer=optimizer, accumulate=accumulate), lora)
    return with_axes(lambda leaf, axes: sharding.abstract(mesh, leaf.shape, leaf.dtype, axes), shapes)


def stacked(factors: tuple[dict, dict], scale: Array) -> Lora:
    """Returns the adapters in the decoder's layout, layers first."""
    a, b = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), factors)
    return Lora(a, b, scale)


@jax.jit
def adapters_first(lora: Lora) -> Frozen:
    """Returns the two factors of adapters, and their scale, in the layout of a `TrainingState`."""

    def moved(leaf, axes):
        return sharding.shard(jnp.moveaxis(leaf, axes.index("adapters"), 0), *_adapters_first(axes))

    first = lora.map(moved)
    return (first.a, first.b), first.scale


def abstract_adapters_first(lora: Lora, mesh: sharding.Mesh | None) -> Frozen:
    """Returns `adapters_first` as `jax.ShapeDtypeStruct`s with their sharding on a mesh, without computing it."""

    def moved(leaf, axes):
        sizes = dict(zip(axes, leaf.shape, strict=True))
        first = _adapters_first(axes)
        return sharding.abstract(mesh, [sizes[axis] for axis in first], leaf.dtype, first)

    first = lora.map(moved)
    return (first.a, first.b), first.scale


def _adapters_first(axes: Sequence[str | None]) -> tuple[str | None, ...]:
    return ("adapters", *(axis for axis in axes if axis != "adapters"))


@jax.jit
def finished(state: TrainingState) -> Lora:
    """Returns the adapters of a state in the decoder's layout."""
    return stacked(state.factors, state.scale).map(lambda leaf, axes: sharding.shard(leaf, *axes))
