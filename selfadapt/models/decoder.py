"""The decoder: one pure function of parameters, adapters and tokens for every supported architecture.

Activations are `[adapters, rows, time, features]`. The frozen base has no adapter axis, so XLA folds
adapters, rows and time into one large matrix product; LoRA is a batched product beside it. Layer
parameters are stacked on a leading axis and scanned, so compile time does not grow with depth.

Axis letters in shapes: K adapters, R rows per adapter, N = K * R, T time, S cache slots, D hidden
features, H query heads, J key-value heads, E features per head, L layers, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from selfadapt.models.attention import (
    LONGEST_AT_ONCE,
    Visibility,
    additive_mask,
    attention,
    attention_in_blocks,
    full_precision,
    rotate,
    rotations,
)
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.lora import Lora
from selfadapt.parallel import sharding
from selfadapt.parallel.sharding import lookup, product, shard

Array = jax.Array
Params = dict[str, Any]

# A scan over very few layers costs more than it saves: XLA cannot fuse across its iterations
# (30% of a step at 4 tiny layers on CPU), while compile time only grows noticeably past this depth.
UNROLL_UP_TO_LAYERS = 4


@flax.struct.dataclass
class Cache:
    """Keys and values of the positions seen so far.

    Attributes:
      k: rotated keys: one array `[layers, N, key-value heads, head features, slots]`, or where layers are
        unrolled an array for each, without the first axis. A program that writes to a stacked array and
        reads one layer of it copies all of it (attention 8 times slower at 4 tiny layers on CPU).
      v: values, `[layers, N, key-value heads, slots, head features]`, likewise.
      positions: the position that each slot holds, `[N, slots]`; -1 where a slot holds nothing.
    """

    k: tuple[Array, ...]
    v: tuple[Array, ...]
    positions: Array

    def repeat(self, times: int) -> Cache:
        """Returns the cache with each row `times` times in succession."""
        k, v = jax.tree.map(lambda side: jnp.repeat(side, times, axis=-4), (self.k, self.v))
        return Cache(k=k, v=v, positions=jnp.repeat(self.positions, times, axis=0))

    def sharded(self) -> Cache:
        """Constrains the sharding of the cache inside a program."""
        return self.map(lambda leaf, axes: shard(leaf, *axes))

    def map(self, function: Callable[[Any, tuple[str | None, ...]], Any]) -> Cache:
        """Returns the cache with a function applied to each array and its logical axes (`parallel.sharding`)."""
        axes = ("batch", "kv_heads", None, None)
        k, v = jax.tree.map(lambda side: function(side, (*("layers",)[: side.ndim - 4], *axes)), (self.k, self.v))
        return Cache(k=k, v=v, positions=function(self.positions, ("batch", None)))

    def grow(self, slots: int) -> Cache:
        """Returns the cache with empty slots added, up to `slots`."""
        more = (0, slots - self.positions.shape[1])

        def pad(side, axis):
            return jnp.pad(side, [more if i == side.ndim + axis else (0, 0) for i in range(side.ndim)])

        return Cache(
            k=tuple(pad(side, -1) for side in self.k),
            v=tuple(pad(side, -2) for side in self.v),
            positions=jnp.pad(self.positions, [(0, 0), more], constant_values=-1),
        )


def forward(
    params: Params,
    config: ModelConfig,
    tokens: Array,
    *,
    lora: Lora | tuple[Lora, ...] | None = None,
    positions: Array | None = None,
    segments: Array | None = None,
    key_segments: Array | None = None,
    remat: bool = False,
) -> Array:
    """Runs the decoder over rows of tokens.

    Args:
      params: the base parameters.
      config: the architecture.
      tokens: token ids, `[K, R, T]`; K is 1 when there are no adapters.
      lora: K adapters, or `None` for the base model. A tuple of stacks of K: the sum of their changes.
      positions: position of each token, `[K, R, T]`; counted from 0 when absent.
      segments: sequences packed into one row are kept apart: a token sees only earlier tokens of its
        own segment, `[K, R, T]`.
      key_segments: the segment that may see each token as a key, where it differs from its own
        (0 hides a token from all when segments count from 1).
      remat: recompute each layer in the backward pass instead of storing its activations.

    Returns:
      The last layer's normalised output, `[K, R, T, D]`.
    """
    return _full(params, config, tokens, lora, positions, segments, key_segments, remat, keep_cache=False)[0]


def prefill(
    params: Params, config: ModelConfig, tokens: Array, lengths: Array, *, lora: Lora | None = None
) -> tuple[Array, Cache]:
    """Runs right-padded prompts and keeps their keys and values.

    Args:
      params: the base parameters.
      config: the architecture.
      tokens: `[K, R, T]`, right-padded.
      lengths: number of tokens of each row, `[K, R]`.
      lora: K adapters, or `None` for the base model.

    Returns:
      The output at each row's last token, `[K, R, D]`, and a cache of T slots.
    """
    hidden, (k, v) = _full(params, config, tokens, lora, None, None, None, False, keep_cache=True)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[..., None, None], axis=2)[:, :, 0]
    slots = jnp.arange(tokens.shape[-1])
    positions = jnp.where(slots < lengths.reshape(-1, 1), slots, -1)
    k, v = (tuple(side) if _unrolled(config) else (side,) for side in (k.swapaxes(-1, -2), v))
    return last, Cache(k=k, v=v, positions=positions)


def decode(
    params: Params,
    config: ModelConfig,
    layers: list[tuple],
    tokens: Array,
    positions: Array,
    cache: Cache,
    slot: Array,
) -> tuple[Array, Cache]:
    """Runs one more token of every row, written to one cache slot common to all rows.

    Args:
      params: the base parameters, for the embedding and the last norm.
      config: the architecture.
      layers: `layer_inputs` of these parameters and the adapters, made outside the loop over tokens: inside
        it the weights of unrolled layers would be sliced (copied) again for each token.
      tokens: `[K, R]`.
      positions: the position of each token, `[K, R]`; rows of different length share the slot but
        not the position.
      cache: the cache; it is updated in place when the caller's program donates or carries it.
      slot: scalar, the slot to write.

    Returns:
      The output, `[K, R, D]`, and the new cache.
    """
    adapters, rows = tokens.shape
    x = lookup(params["embed_tokens"], tokens[..., None])
    flat = positions.reshape(-1, 1)
    key_positions = jax.lax.dynamic_update_slice(cache.positions, flat, (0, slot))
    visible = (key_positions >= 0)[:, None, :]
    distance = flat[:, :, None] - key_positions[:, None, :]
    rope = rotations(config, flat)

    def layer(x, inputs):  # the layer's keys and values come in, and go out with the token in its slot
        k, v, (weights, stacks, window) = inputs

        def attend(q, own_k, own_v):
            nonlocal k, v
            k = jax.lax.dynamic_update_slice(k, own_k.swapaxes(-1, -2), (0, 0, 0, slot))
            v = jax.lax.dynamic_update_slice(v, own_v, (0, 0, slot, 0))
            return attention(q, k.swapaxes(-1, -2), v, additive_mask(visible, distance, window))

        return _block(config, x, weights, stacks, rope, attend), k, v

    def scanned(x, inputs):
        x, k, v = layer(x, inputs)
        return x, (jax.lax.dynamic_slice_in_dim(k, slot, 1, axis=3), jax.lax.dynamic_slice_in_dim(v, slot, 1, axis=2))

    if _unrolled(config):
        ks, vs = [], []
        for inputs in zip(cache.k, cache.v, layers, strict=True):
            x, k, v = layer(x, inputs)
            ks.append(k)
            vs.append(v)
    else:
        x, (own_k, own_v) = jax.lax.scan(scanned, x, (cache.k[0], cache.v[0], layers[0]))
        ks = [jax.lax.dynamic_update_slice(cache.k[0], own_k, (0, 0, 0, 0, slot))]
        vs = [jax.lax.dynamic_update_slice(cache.v[0], own_v, (0, 0, 0, slot, 0))]
    x = rms_norm(x, params["norm"], config.rms_norm_eps)
    return x.reshape(adapters, rows, -1), Cache(k=tuple(ks), v=tuple(vs), positions=key_positions)


def layer_inputs(config: ModelConfig, params: Params, lora: Lora | None) -> list[tuple]:
    """Returns what differs between layers (weights, adapters, window), for `decode`.

    Returns:
      One tuple for each layer where layers are unrolled, else a single one with a leading layer axis.
    """
    stacked = _stacked_inputs(config, params, lora)
    if not _unrolled(config):
        return [stacked]
    return [jax.tree.map(lambda leaf, index=index: leaf[index], stacked) for index in range(config.num_layers)]


def logits(params: Params, config: ModelConfig, hidden: Array) -> Array:
    """Returns the next-token logits in float32, `[..., V]`, of hidden states `[..., D]`."""
    head = params["embed_tokens"] if config.tie_word_embeddings else params["lm_head"]

    def multiply(hidden, head):
        precision = full_precision(hidden)
        return jnp.einsum("...d,dv->...v", hidden, head, precision=precision, preferred_element_type=jnp.float32)

    if hidden.ndim == 3:  # a position of each row
        return product(hidden[:, :, None], head.T, "hidden", "vocab", multiply)[:, :, 0]
    return multiply(hidden, shard(head, "vocab", "hidden").T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Normalises the last axis by its root mean square, in float32."""
    return _rms_norm_forward(x, weight, eps)[0]


def _rms_norm_forward(x, weight, eps):
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1) + eps)
    normal = (wide * scale[..., None]).astype(x.dtype)
    return weight * normal, (normal, scale, weight)


def _rms_norm_backward(eps, residuals, gradient):
    # By hand, since the reduction that differentiation makes is ten times slower than this one on a CPU.
    normal, scale, weight = residuals
    wide, towards = normal.astype(jnp.float32), (gradient * weight).astype(jnp.float32)
    along = jnp.sum(towards * wide, axis=-1) / normal.shape[-1]
    to_x = scale[..., None] * (towards - along[..., None] * wide)
    to_weight = jnp.sum(gradient * normal, axis=tuple(range(normal.ndim - 1)))
    return to_x.astype(normal.dtype), to_weight


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def _full(params, config, tokens, lora, positions, segments, key_segments, remat, keep_cache):
    adapters, rows, time = tokens.shape
    # All rows have the same positions unless sequences are packed into them; their rotations are then shared.
    flat = jnp.arange(time)[None] if positions is None else positions.reshape(-1, time)  # [1 or N, T]
    own = None if segments is None else segments.reshape(-1, time)
    visibility = Visibility(flat, own, own if key_segments is None else key_segments.reshape(-1, time))
    long = time > LONGEST_AT_ONCE
    shared = None if long or config.windows is not None else visibility.mask(None)  # by all layers
    rope = rotations(config, flat)
    x = lookup(params["embed_tokens"], tokens)

    def layer(x, inputs):
        weights, stacks, window = inputs
        kept = None

        def attend(q, k, v):
            nonlocal kept
            kept = (k, v) if keep_cache else None
            if long:
                return attention_in_blocks(q, k, v, visibility, window)
            return attention(q, k, v, visibility.mask(window) if shared is None else shared)

        return _block(config, x, weights, stacks, rope, attend), kept

    if remat:
        layer = jax.checkpoint(layer)
    elif sharding.in_use():
        layer = jax.checkpoint(layer, policy=_is_computed, prevent_cse=False)
    x, kept = jax.lax.scan(
        layer,
        x,
        _stacked_inputs(config, params, lora),
        unroll=config.num_layers if _unrolled(config) else 1,
    )
    return rms_norm(x, params["norm"], config.rms_norm_eps), kept


def _is_computed(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether the backward pass keeps a result: not if it is its operand with another sharding.

    Such are a layer's weights, of which it would keep a second copy, gathered over `fsdp`.
    """
    return primitive.name != "sharding_constraint"


def _unrolled(config: ModelConfig) -> bool:
    return config.num_layers <= UNROLL_UP_TO_LAYERS


def _stacked_inputs(config: ModelConfig, params: Params, lora: Lora | tuple[Lora, ...] | None) -> tuple:
    windows = None if config.windows is None else jnp.asarray(config.windows)
    stacks = lora if isinstance(lora, tuple) else () if lora is None else (lora,)
    return params["layers"], tuple(stack.layers() for stack in stacks), windows


def _block(
    config: ModelConfig,
    x: Array,
    weights: Params,
    stacks: tuple[dict, ...],
    rope: tuple[Array, Array],
    attend: Callable,
) -> Array:
    """One pre-norm transformer block; x is `[K, R, T, D]`."""
    adapters, rows, time, _ = x.shape

    def linear(x, name):
        multiply = functools.partial(jnp.matmul, precision=full_precision(x))
        y = product(x, weights[name], *PROJECTION_AXES[name], multiply)
        if (bias := weights.get(f"{name}_bias")) is not None:
            y = y + bias
        for stack in stacks:
            if name in stack["a"]:
                y = (y + low_rank(x, stack["a"][name], stack["b"][name], stack["scale"])).astype(y.dtype)
        return y

    def low_rank(x, a, b, scale):
        # As in PEFT, in the adapter's dtype: float32 beside a bfloat16 base too.
        precision = full_precision(a)
        low = jnp.einsum("krti,kic->krtc", x.astype(a.dtype), a, precision=precision)
        low = low * scale.astype(a.dtype)[:, None, None, None]
        return jnp.einsum("krtc,kco->krto", low, b, precision=precision)

    def heads(y, count, axis):  # [K, R, T, count * E] -> [N, count, T, E]
        y = y.reshape(adapters * rows, time, count, config.head_dim).swapaxes(1, 2)
        return shard(y, "batch", axis, "time", None)

    h = rms_norm(x, weights["input_layernorm"], config.rms_norm_eps)
    q = heads(linear(h, "q_proj"), config.num_heads, "heads")
    k = heads(linear(h, "k_proj"), config.num_kv_heads, "kv_heads")
    v = heads(linear(h, "v_proj"), config.num_kv_heads, "kv_heads")
    if config.qk_norm:
        q = rms_norm(q, weights["q_norm"], config.rms_norm_eps)
        k = rms_norm(k, weights["k_norm"], config.rms_norm_eps)
    out = attend(rotate(q, rope), rotate(k, rope), v)  # [N, H, T, E]
    out = out.swapaxes(1, 2).reshape(adapters, rows, time, config.num_heads * config.head_dim)
    x = shard(x + linear(out, "o_proj"), "adapters", "rows", "time", "hidden")
    h = rms_norm(x, weights["post_attention_layernorm"], config.rms_norm_eps)
    x = x + linear(jax.nn.silu(linear(h, "gate_proj")) * linear(h, "up_proj"), "down_proj")
    return shard(x, "adapters", "rows", "time", "hidden")
