"""The program of `adapt`: one item of each of several adapters, forward, backward, and AdamW.

It is one jitted, pure function for each shape. What differs between adapters (rate, schedule, steps, rank,
alpha, targets, masks) is data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from selfadapt.engine import runtime
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora
from selfadapt.parallel import sharding

Array = jax.Array

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # AdamW's, as in torch and in Hugging Face's Trainer
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_
LOGITS_BYTES = 64 * 2**20  # a chunk of logits; above it the projection is recomputed in the backward pass


@flax.struct.dataclass
class State:
    """K adapters in training; every leaf has the adapters first, so that each one lies together in memory.

    Attributes:
      factors: the adapters' two factors, `[K, layers, in, rank]` and `[K, layers, rank, out]` for each target.
      scale: alpha / rank, `[K]`.
      mu: Adam's first moments, shaped like the factors.
      nu: its second moments.
      gradient: the accumulated gradient of unfinished steps; `None` when every item is a whole step.
      alive: false from the first non-finite loss or gradient on, `[K]`.
    """

    factors: tuple[dict[str, Array], dict[str, Array]]
    scale: Array
    mu: Any
    nu: Any
    gradient: Any
    alive: Array


def token_losses(params: decoder.Params, config: ModelConfig, hidden: Array, targets: Array) -> Array:
    """Cross-entropy in nats of `targets` `[..., T]` under hidden states `[..., T, D]`, in float32.

    The projection to the vocabulary is done in chunks, so that logits never take more than about
    `LOGITS_BYTES`.
    """

    def losses(hidden, targets):
        scores = decoder.logits(params, config, hidden)
        # A comparison instead of a gather: its gradient is elementwise and not a scatter.
        gold = jnp.where(jnp.arange(config.vocab_size) == targets[..., None], scores, 0.0).sum(-1)
        return jax.nn.logsumexp(scores, axis=-1) - gold

    shards = sharding.current_shards()  # each has chunks of its own tokens
    count = math.prod(targets.shape) // shards
    chunks = math.ceil(count * config.vocab_size * 4 / LOGITS_BYTES)
    if chunks <= 1:
        return losses(hidden, targets)
    size = math.ceil(count / chunks)

    def cut(x, *features):  # to [chunks, shards, size, ...]
        x = jnp.pad(
            x.reshape(shards, count, *features), [(0, 0), (0, size * chunks - count), *[(0, 0)] * len(features)]
        )
        return x.reshape(shards, chunks, size, *features).swapaxes(0, 1)

    result = jax.lax.map(jax.checkpoint(lambda chunk: losses(*chunk)), (cut(hidden, hidden.shape[-1]), cut(targets)))
    return result.swapaxes(0, 1).reshape(shards, -1)[:, :count].reshape(targets.shape)


def adapter_losses(lora: Lora, params: decoder.Params, config: ModelConfig, batch: dict, remat: bool) -> Array:
    """Weighted loss of each adapter's rows, `[K]`; `batch` is what `schedule.arrays` builds."""
    hidden = decoder.forward(
        params,
        config,
        batch["tokens"],
        lora=lora,
        positions=batch.get("positions"),
        segments=batch.get("segments"),
        key_segments=batch.get("key_segments"),
        remat=remat,
    )
    losses = token_losses(params, config, hidden[:, :, :-1], batch["tokens"][:, :, 1:])
    return (losses * batch["weights"][:, :, 1:]).sum((1, 2))


def tick(
    params: decoder.Params, state: State, batch: dict, *, config: ModelConfig, remat: bool, shards: int = 1
) -> tuple[State, Array]:
    """Runs one item of each adapter named in `batch["adapter"]`.

    On a mesh every shard has K / shards of the adapters and as many of the slots, and gathers and scatters
    among its own: nothing crosses from shard to shard, except that the fsdp axis brings weights together.

    Args:
      params: the frozen base.
      state: all K adapters.
      batch: token arrays `[slots, rows, time]` and, for each slot, `adapter` (its place among those of its
        shard; past the last one: an empty slot), `apply` (whether the step ends here), `rate`, `decay`, `clip`,
        and Adam's bias corrections `correction1`, `correction2`.
      config: the architecture.
      remat: whether to recompute activations in the backward pass.
      shards: shards that divide the adapters; 1 where a single adapter's rows are divided instead.

    Returns:
      The new state, and each slot's share of its step's loss, `[slots]`.
    """
    tokens = ("tokens", "weights", "positions", "segments", "key_segments")
    batch = {
        name: sharding.shard(x, *("adapters", "rows", "time")[: x.ndim]) if name in tokens or shards > 1 else x
        for name, x in batch.items()
    }
    index = batch["adapter"]

    def by_shard(function):  # of arrays with the adapters or slots of one shard first
        def apply(*arrays):
            result = jax.vmap(function)(*(x.reshape(shards, -1, *x.shape[1:]) for x in arrays))
            return result.reshape(-1, *result.shape[2:])

        return function if shards == 1 else apply

    def gather(tree):
        take = by_shard(lambda leaf, index: jnp.take(leaf, index, axis=0, mode="clip"))
        return jax.tree.map(lambda leaf: take(leaf, index), tree)

    def scatter(tree, index, new):
        put = by_shard(lambda leaf, index, value: leaf.at[index].set(value, mode="drop", unique_indices=True))
        return jax.tree.map(lambda leaf, value: put(leaf, index, value), tree, new)

    def slotwise(values, leaf):  # [slots] against [slots, layers, ., .]
        return values.reshape(-1, *[1] * (leaf.ndim - 1))

    factors, scale, alive = gather((state.factors, state.scale, state.alive))

    def total(factors):
        losses = adapter_losses(stacked(factors, scale), params, config, batch, remat)
        return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(factors)
    if state.gradient is not None:
        gradient = jax.tree.map(jnp.add, gather(state.gradient), gradient)
    norm = jnp.sqrt(sum(jnp.sum(g * g, axis=(1, 2, 3)) for g in jax.tree.leaves(gradient)))
    alive = alive & jnp.isfinite(losses) & jnp.isfinite(norm)
    step = alive & batch["apply"]
    shrink = jnp.minimum(1.0, batch["clip"] / (norm + CLIP_EPSILON))

    mu, nu = gather(state.mu), gather(state.nu)
    clipped = jax.tree.map(lambda g: g * slotwise(shrink, g), gradient)
    new_mu = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, mu, clipped)
    new_nu = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, nu, clipped)

    def adamw(p, m, v):
        denominator = jnp.sqrt(v) / jnp.sqrt(slotwise(batch["correction2"], v)) + EPSILON
        rate = slotwise(batch["rate"], p)
        return p * (1 - rate * slotwise(batch["decay"], p)) - rate / slotwise(batch["correction1"], m) * m / denominator

    new_factors = jax.tree.map(adamw, factors, new_mu, new_nu)
    # A slot that takes no step writes past the end, where writes are dropped: cheaper than selecting the old values.
    stepping = jnp.where(step, index, len(state.scale) // shards + jnp.arange(len(index)))
    accumulated = state.gradient
    if accumulated is not None:
        unfinished = jax.tree.map(lambda g: jnp.where(slotwise(batch["apply"], g), 0.0, g), gradient)
        accumulated = scatter(accumulated, index, unfinished)
    state = State(
        factors=scatter(state.factors, stepping, new_factors),
        scale=state.scale,
        mu=scatter(state.mu, stepping, new_mu),
        nu=scatter(state.nu, stepping, new_nu),
        gradient=accumulated,
        alive=scatter(state.alive, index, alive),
    )
    return laid_out(state), losses


def laid_out(state: State) -> State:
    """Says inside a program where a state's arrays lie."""
    return with_axes(lambda leaf, axes: sharding.shard(leaf, *axes), state)


def with_axes(function: Callable[[Any, tuple[str, ...]], Any], state: State) -> State:
    """Returns a state with a function applied to each array and its logical axes (`selfadapt.parallel.sharding`)."""

    def factors(tree):
        if tree is None:
            return None
        lora = Lora(*tree, scale=None).map(lambda x, axes: x if x is None else function(x, _adapters_first(axes)))
        return lora.a, lora.b

    return State(
        factors=factors(state.factors),
        scale=function(state.scale, ("adapters",)),
        mu=factors(state.mu),
        nu=factors(state.nu),
        gradient=factors(state.gradient),
        alive=function(state.alive, ("adapters",)),
    )


def _adapters_first(axes: tuple[str, ...]) -> tuple[str, ...]:
    return axes[1], axes[0], *axes[2:]


@functools.cache
def program(platform: str | None = None) -> Any:
    """Returns `tick` jitted for a platform, by default the one at hand; it updates its state in place."""
    return jax.jit(
        tick,
        static_argnames=("config", "remat", "shards"),
        donate_argnames=("state",),
        compiler_options=runtime.compiler_options(platform or jax.default_backend()),
    )


@functools.partial(jax.jit, static_argnames="accumulate")
def initial_state(lora: Lora, accumulate: bool) -> State:
    """Returns the state of training from these adapters; `accumulate` if a step may have several parts."""
    factors = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (lora.a, lora.b))

    def zeros():
        return jax.tree.map(jnp.zeros_like, factors)

    state = State(
        factors=factors,
        scale=jnp.copy(lora.scale),  # a jit may return its argument, which the first tick would overwrite
        mu=zeros(),
        nu=zeros(),
        gradient=zeros() if accumulate else None,
        alive=jnp.ones(len(lora.scale), bool),
    )
    return laid_out(state)


def stacked(factors: tuple[dict, dict], scale: Array) -> Lora:
    """Returns the adapters as the decoder takes them, layers first."""
    return Lora(*jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), factors), scale)


@jax.jit
def finished(state: State) -> Lora:
    """Returns a state's adapters as the decoder takes them."""
    return stacked(state.factors, state.scale).map(lambda leaf, axes: sharding.shard(leaf, *axes))
