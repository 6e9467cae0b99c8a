"""The decoder: one pure function of parameters, adapters and tokens for every supported architecture.

Activations are `[adapters, rows, time, features]`. The frozen base has no adapter axis, so XLA folds
adapters, rows and time into one large matrix product; LoRA is a batched product beside it. Layer
parameters are stacked on a leading axis and scanned, so compile time does not grow with depth.

Axis letters in shapes: K adapters, R rows per adapter, N = K * R, T time, S cache slots, D hidden
features, H query heads, J key-value heads, E features per head, L layers, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from selfadapt.models.attention import (
    LONGEST_AT_ONCE,
    Visibility,
    additive_mask,
    attention,
    attention_of_long_rows,
    rotate,
    rotations,
)
from selfadapt.models.cache import Cache, oriented, slot_axes, write
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.lora import Lora, factor_axes
from selfadapt.models.products import full_precision, low_rank_product
from selfadapt.parallel import sharding, tensor
from selfadapt.parallel.sharding import lookup, product, shard

Array = jax.Array
Params = dict[str, Any]

# A scan over very few layers costs more than it saves: XLA cannot fuse across its iterations
# (30% of a step at 4 tiny layers on CPU), while compile time only grows noticeably past this depth.
UNROLL_UP_TO_LAYERS = 4
# On a GPU each iteration copies the layer's weights out of the stacked ones, and what is kept for the backward pass or
# the cache into stacked arrays: 40% of the memory traffic of a training step of a 7B model, half of that of writing
# texts. Programs that run hundreds of times therefore unroll more layers there, and compile for two to five times as
# long; those that write texts hold the sliced weights a second time (`copied_layers`).
GPU_UNROLL_UP_TO_LAYERS = 48
KEPT = "kept"  # the name of results that the backward pass keeps (`_is_kept`)


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
    often: bool = False,
) -> Array:
    """Runs the decoder over rows of tokens.

    Args:
      params: the base parameters.
      config: the architecture.
      tokens: token ids, `[K, R, T]`; K is 1 when there are no adapters.
      lora: K adapters, or `None` for the base model. A tuple of stacks of K: the sum of their changes.
      positions: position of each token, below T, `[K, R, T]`; counted from 0 when absent.
      segments: sequences packed into one row are kept apart: a token sees only earlier tokens of its
        own segment, `[K, R, T]`.
      key_segments: the segment that may see each token as a key, where it differs from its own
        (0 hides a token from all when segments count from 1).
      remat: recompute each layer in the backward pass instead of storing its activations.
      often: whether the program runs so often that a faster one is worth longer compilation.

    Returns:
      The last layer's normalised output, `[K, R, T, D]`.
    """
    visible = (positions, segments, key_segments)
    return _full(params, config, tokens, lora, *visible, remat=remat, keep_cache=False, often=often)[0]


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
    hidden, (k, v) = _full(params, config, tokens, lora, None, None, None, remat=False, keep_cache=True, often=False)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[..., None, None], axis=2)[:, :, 0]
    slots = jnp.arange(tokens.shape[-1])
    positions = jnp.where(slots < lengths.reshape(-1, 1), slots, -1)
    axes = slot_axes()
    sides = (oriented(side, axis) for side, axis in zip((k, v), axes, strict=True))
    k, v = (tuple(side) if _unrolled(config, often=True) else (side,) for side in sides)
    return last, Cache(k=k, v=v, positions=positions, slot_axes=axes)


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
    axes = cache.slot_axes

    def layer(x, sides, inputs, index=None):  # sides: the layer's keys and values, or with an index those of all layers
        weights, stacks, window = inputs
        own: tuple[Array, ...] = ()

        def attend(q, *given):
            nonlocal sides, own
            own = given
            sides = tuple(write(*each, slot, index) for each in zip(sides, own, axes, strict=True))
            read = sides if index is None else (side[index] for side in sides)
            k, v = (oriented(side, axis) for side, axis in zip(read, axes, strict=True))
            return attention(q, k, v, additive_mask(visible, distance, window))

        return _block(config, x, weights, stacks, rope, attend), sides, own

    def in_place(carry, inputs):
        x, sides, index = carry
        x, sides, _ = layer(x, sides, inputs, index)
        return (x, sides, index + 1), None

    def by_layer(x, inputs):
        *sides, inputs = inputs
        x, _, own = layer(x, sides, inputs)
        return x, own

    whole = (*cache.k, *cache.v)
    if _unrolled(config, often=True):
        written = []
        for *sides, inputs in zip(cache.k, cache.v, layers, strict=True):
            x, sides, _ = layer(x, sides, inputs)
            written.append(sides)
        ks, vs = zip(*written, strict=True)
    elif sharding.current_platform() == "tpu":
        (x, (k, v), _), _ = jax.lax.scan(in_place, (x, whole, 0), layers[0])
        ks, vs = (k,), (v,)
    else:  # a CPU would copy the whole cache for each layer
        x, own = jax.lax.scan(by_layer, x, (*whole, layers[0]))
        ks, vs = ((write(*each, slot),) for each in zip(whole, own, axes, strict=True))
    x = rms_norm(x, params["norm"], config.rms_norm_eps)
    return x.reshape(adapters, rows, -1), dataclasses.replace(cache, k=ks, v=vs, positions=key_positions)


def layer_inputs(config: ModelConfig, params: Params, lora: Lora | None) -> list[tuple]:
    """Returns what differs between layers (weights, adapters, window), for `decode`.

    Returns:
      One tuple for each layer where layers are unrolled, else a single one with a leading layer axis.
    """
    stacked = _stacked_inputs(config, params, lora)
    if not _unrolled(config, often=True):
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


def _full(params, config, tokens, lora, positions, segments, key_segments, *, remat, keep_cache, often):
    adapters, rows, time = tokens.shape
    # All rows have the same positions unless sequences are packed into them; their rotations are then shared.
    flat = jnp.arange(time)[None] if positions is None else positions.reshape(-1, time)  # [1 or N, T]
    own = None if segments is None else segments.reshape(-1, time)
    visibility = Visibility(flat, own, own if key_segments is None else key_segments.reshape(-1, time))
    long = time > LONGEST_AT_ONCE
    shared = None if long or config.windows is not None else visibility.mask(None)  # by all layers
    unrolled = _unrolled(config, often)
    # XLA computes cosines again in every head and unrolled layer unless they are constants, 9% of a training step of 4
    # tiny layers on a CPU. A scan over layers takes them as they are.
    rope = rotations(config, np.arange(time)[None] if unrolled else flat)
    if unrolled and positions is not None:
        cos, sin = (jnp.take(side[0, 0], flat, axis=0)[:, None] for side in rope)
        rope = cos, sin
    x = shard(lookup(params["embed_tokens"], tokens), *tensor.HIDDEN)

    def layer(x, inputs):
        weights, stacks, window = inputs
        kept = None

        def attend(q, k, v):
            nonlocal kept
            kept = (k, v) if keep_cache else None
            if long:
                return attention_of_long_rows(q, k, v, visibility, window)
            return attention(q, k, v, visibility.mask(window) if shared is None else shared)

        return _block(config, x, weights, stacks, rope, attend), kept

    if remat:
        layer = jax.checkpoint(layer)
    elif sharding.in_use() or sharding.current_platform() != "cpu":  # on one CPU computing again takes longer
        layer = jax.checkpoint(layer, policy=_is_kept, prevent_cse=False)
    x, kept = jax.lax.scan(
        layer,
        x,
        _stacked_inputs(config, params, lora),
        unroll=config.num_layers if unrolled else 1,
    )
    hidden = rms_norm(x, params["norm"], config.rms_norm_eps)
    return shard(hidden, "adapters", "rows", "time", "hidden"), kept


def _is_kept(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Whether the backward pass keeps a result of the forward pass, or computes it again from those that it keeps.

    What projections and kernels return is kept, and what adapters multiply. The rest is cheap to compute: norms,
    rotations, attention of short rows and the MLP's elementwise part. So are copies of weights for their sharding.
    """
    return parameters.get("name") == KEPT or primitive.name == "pallas_call"


def copied_layers(params: Params, config: ModelConfig, mesh: sharding.Mesh | None) -> Params:
    """Returns the weights of layers that a program of `decode` steps holds a second time, sliced from the stacks.

    None but on a GPU: elsewhere a model whose layers are unrolled is very small.
    """
    return params["layers"] if _unrolled_often(config, sharding.platform(mesh)) else {}


def _unrolled(config: ModelConfig, often: bool = False) -> bool:
    """Whether a program, perhaps one that runs often, has its layers one after the other instead of in a scan."""
    if often and _unrolled_often(config, sharding.current_platform()):
        return True
    return config.num_layers <= UNROLL_UP_TO_LAYERS


def _unrolled_often(config: ModelConfig, platform: str) -> bool:
    return platform == "gpu" and config.num_layers <= GPU_UNROLL_UP_TO_LAYERS


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

    def divided(function, x, *names):  # between the inputs of the first projection and the outputs of the last
        operands, axes = zip(*(_operands(weights, stacks, name) for name in names), strict=True)
        tokens = x.size // x.shape[-1]
        if any(sharding.keeps_weight_sharded(tokens, *weights[name].shape) for name in names):
            return function(tensor.Part(), x, operands)
        ends = PROJECTION_AXES[names[0]][0], PROJECTION_AXES[names[-1]][1]
        from_hidden, to_hidden = (axis == "hidden" for axis in ends)
        return tensor.divided(function, x, operands, axes, from_hidden=from_hidden, to_hidden=to_hidden)

    def project(part, pieces, names, operands, joined=False):  # projections that share their input
        to_hidden = PROJECTION_AXES[names[0]][1] == "hidden"
        own = [checkpoint_name(x if to_hidden else part.own(x), KEPT) for x in pieces]
        # As in PEFT, in the adapter's dtype: float32 beside a bfloat16 base too.
        dtypes = {a.dtype for _, _, factors in operands for a, _, _ in factors}
        low_rank_inputs = {dtype: [x.astype(dtype) for x in own] for dtype in dtypes}

        def linear(name, weight, bias, factors):
            multiply = functools.partial(jnp.matmul, precision=full_precision(pieces[0]))
            ys = [product(piece, weight, *PROJECTION_AXES[name], multiply) for piece in pieces]
            if joined:  # before the adapters' change, for which XLA would let the products wait
                ys = [part.joined(ys)]
            if bias is not None and not to_hidden:
                ys = [y + bias for y in ys]
            for a, b, scale in factors:
                low = part.total([low_rank_product(each, a) for each in low_rank_inputs[a.dtype]])
                low = checkpoint_name(low, KEPT) * scale.astype(a.dtype)[:, None, None, None]
                changes = [low_rank_product(each, b) for each in ([low] if joined else part.pieces(low))]
                changes = [part.placed(each) for each in changes] if to_hidden else changes
                ys = [(y + change).astype(y.dtype) for y, change in zip(ys, changes, strict=True)]
            return [checkpoint_name(y, KEPT) for y in ys]

        return [linear(name, *parts) for name, parts in zip(names, operands, strict=True)]

    def to_hidden(part, pieces, name, operands):
        y = part.scattered(project(part, pieces, [name], [operands])[0])
        bias = operands[1]
        return checkpoint_name(y if bias is None else y + bias, KEPT)

    def attention_inputs(part, x, operands):
        ys = project(part, part.whole(x), ("q_proj", "k_proj", "v_proj"), operands, joined=True)
        return [y for (y,) in ys]

    def attention_output(part, x, operands):
        return to_hidden(part, part.pieces(x), "o_proj", *operands)

    def mlp(part, x, operands):
        *inputs, output = operands
        gates, ups = project(part, part.whole(x), ("gate_proj", "up_proj"), inputs)
        pieces = [jax.nn.silu(gate) * up for gate, up in zip(gates, ups, strict=True)]
        return to_hidden(part, pieces, "down_proj", output)

    def heads(y, count, axis):  # [K, R, T, count * E] -> [N, count, T, E]
        if time == 1 and sharding.current_platform() == "tpu":
            # XLA would apply the reshape to the weight, and copy all layers' weights for it.
            y = jax.lax.optimization_barrier(y)
        y = y.reshape(adapters * rows, time, count, config.head_dim).swapaxes(1, 2)
        return shard(y, "batch", axis, "time", None)

    h = rms_norm(x, weights["input_layernorm"], config.rms_norm_eps)
    q, k, v = divided(attention_inputs, h, "q_proj", "k_proj", "v_proj")
    q = heads(q, config.num_heads, "heads")
    k, v = (heads(y, config.num_kv_heads, "kv_heads") for y in (k, v))
    if config.qk_norm:
        q = rms_norm(q, weights["q_norm"], config.rms_norm_eps)
        k = rms_norm(k, weights["k_norm"], config.rms_norm_eps)
    out = attend(rotate(q, rope), rotate(k, rope), v)  # [N, H, T, E]
    out = out.swapaxes(1, 2).reshape(adapters, rows, time, config.num_heads * config.head_dim)
    x = shard(x + divided(attention_output, out, "o_proj"), *tensor.HIDDEN)
    h = rms_norm(x, weights["post_attention_layernorm"], config.rms_norm_eps)
    return shard(x + divided(mlp, h, "gate_proj", "up_proj", "down_proj"), *tensor.HIDDEN)


def _operands(weights: Params, stacks: tuple[dict, ...], name: str) -> tuple[tuple, tuple]:
    """Returns a projection's weight, bias and adapters' factors with scales, and the logical axes of each."""
    inside, outside = PROJECTION_AXES[name]
    a_axes, b_axes = (axes[1:] for axes in factor_axes(name))  # of one layer
    bias = weights.get(f"{name}_bias")
    factors = tuple((stack["a"][name], stack["b"][name], stack["scale"]) for stack in stacks if name in stack["a"])
    axes = (inside, outside), None if bias is None else (outside,), ((a_axes, b_axes, ("adapters",)),) * len(factors)
    return (weights[name], bias, factors), axes
