"""Attention: masks, rotary embeddings, and the product, in blocks of queries where rows are long.

Axis letters in shapes are those of `selfadapt.models.decoder`.
"""

from __future__ import annotations

import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import products, splash
from selfadapt.models.config import ModelConfig
from selfadapt.models.reductions import softmax

Array = jax.Array

MASKED = -1e30  # finite, so that a row that may attend to nothing gives a mean and not a NaN
# Longer rows attend in blocks of queries, whose scores are recomputed in the backward pass: memory then grows with the
# length and not with its square. Shorter rows are faster at once.
LONGEST_AT_ONCE = 1024
QUERY_BLOCK = 256


@flax.struct.dataclass
class Visibility:
    """Which keys each query of a row may see: those before it in the same segment.

    Attributes:
      positions: the position of each token, `[1 or N, T]`.
      segments: the segment of each query, `[N, T]`, or `None` if a row is one sequence.
      key_segments: the segment that may see each key, `[N, T]`, likewise.
    """

    positions: Array
    segments: Array | None
    key_segments: Array | None

    def mask(self, window: Array | None, start: Array | int = 0, count: int | None = None) -> Array:
        """Returns the additive mask of `count` queries from `start` (all by default), `[1 or N, count, T]`.

        Args:
          window: the layer's sliding window, 0 for none; `None` if no layer has one.
          start: the first query.
          count: number of queries.
        """
        order = jnp.arange(self.positions.shape[-1])

        def queries(values):
            return values if count is None else jax.lax.dynamic_slice_in_dim(values, start, count, axis=-1)

        visible = (queries(order)[:, None] >= order[None, :])[None]
        if self.segments is not None and self.key_segments is not None:
            visible = visible & (queries(self.segments)[:, :, None] == self.key_segments[:, None, :])
        distance = None
        if window is not None:
            distance = queries(self.positions)[:, :, None] - self.positions[:, None, :]
        return additive_mask(visible, distance, window)


def attention(q: Array, k: Array, v: Array, bias: Array) -> Array:
    """Grouped-query attention. q `[N, H, T, E]`; k, v `[N, J, S, E]`; bias `[N or 1, T, S]`."""
    rows, num_heads, time, features = q.shape
    groups = num_heads // k.shape[1]
    # The query heads of a group are concatenated along time, so that each key-value head is one product.
    q = q.reshape(rows, k.shape[1], groups * time, features)
    scores = products.scores(q, k) / math.sqrt(features)
    scores = scores.reshape(rows, k.shape[1], groups, time, -1) + bias[:, None, None]
    weights = softmax(scores).astype(v.dtype).reshape(rows, k.shape[1], groups * time, -1)
    return products.weighted(weights, v).reshape(rows, num_heads, time, features)


def attention_of_long_rows(q: Array, k: Array, v: Array, visibility: Visibility, window: Array | None) -> Array:
    """Returns what `attention` returns, in memory that grows with the length; arguments as for `attention_in_blocks`.

    A kernel computes it where there is one (`selfadapt.models.splash`).
    """
    if splash.suits(q, k, window):
        queries, keys = visibility.segments, visibility.key_segments
        return splash.splash_attention(q, k, v, None if queries is None or keys is None else (queries, keys))
    return attention_in_blocks(q, k, v, visibility, window)


@jax.custom_vjp
def attention_in_blocks(q: Array, k: Array, v: Array, visibility: Visibility, window: Array | None) -> Array:
    """Returns what `attention` returns, while only the scores of one block of queries exist at a time.

    The backward pass computes the scores of each block again.

    Args:
      q: queries, `[N, H, T, E]` with T at least `QUERY_BLOCK`.
      k: keys, `[N, J, T, E]`.
      v: values, `[N, J, T, E]`.
      visibility: which keys each query may see.
      window: the layer's sliding window, 0 for none; `None` if no layer has one.
    """
    # The masks are made to depend on the queries; otherwise JAX computes those of all blocks once, for all layers.
    q, visibility, indices = jax.lax.optimization_barrier((q, visibility, jnp.arange(_blocks(q))))

    def block(index):
        start = _start(index, q)
        return attention(_queries(q, start), k, v, visibility.mask(window, start, QUERY_BLOCK))

    return _joined(jax.lax.map(block, indices), q)


def _in_blocks_forward(q, k, v, visibility, window):
    return attention_in_blocks(q, k, v, visibility, window), (q, k, v, visibility, window)


def _in_blocks_backward(residuals, gradient):
    q, k, v, visibility, window = residuals
    gradient, visibility, indices = jax.lax.optimization_barrier((gradient, visibility, jnp.arange(_blocks(q))))

    def block(sums, index):
        start = _start(index, q)
        mask = visibility.mask(window, start, QUERY_BLOCK)
        first = (start + jnp.arange(QUERY_BLOCK) >= index * QUERY_BLOCK)[:, None]  # not in the block before
        _, pull = jax.vjp(lambda q, k, v: attention(q, k, v, mask), _queries(q, start), k, v)
        to_q, *to_keys = pull(jnp.where(first, _queries(gradient, start), 0))
        return tuple(total + part for total, part in zip(sums, to_keys, strict=True)), to_q

    zeros = tuple(jnp.zeros(side.shape, jnp.float32) for side in (k, v))
    (to_k, to_v), to_q = jax.lax.scan(block, zeros, indices)
    return _joined(to_q, q), to_k.astype(k.dtype), to_v.astype(v.dtype), None, None


attention_in_blocks.defvjp(_in_blocks_forward, _in_blocks_backward)


def _blocks(q: Array) -> int:
    return -(-q.shape[2] // QUERY_BLOCK)


def _start(index: Array, q: Array) -> Array:
    """Returns the first query of a block; the last block may overlap the one before it."""
    return jnp.minimum(index * QUERY_BLOCK, q.shape[2] - QUERY_BLOCK)


def _queries(x: Array, start: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, QUERY_BLOCK, axis=2)


def _joined(blocks: Array, q: Array) -> Array:
    """Joins blocks of queries, `[blocks, N, H, QUERY_BLOCK, E]`, to the shape of `q`."""
    rows, heads, time, features = q.shape
    whole = jnp.moveaxis(blocks[:-1], 0, 2).reshape(rows, heads, (len(blocks) - 1) * QUERY_BLOCK, features)
    return jnp.concatenate([whole, blocks[-1, :, :, whole.shape[2] - time :]], axis=2)


def score_bytes(config: ModelConfig, time: int) -> int:
    """Returns the bytes of attention scores and weights of one layer that exist at a time, for each token of a row."""
    return 2 * 4 * config.num_heads * (time if time <= LONGEST_AT_ONCE else 2 * QUERY_BLOCK)


def additive_mask(visible: Array, distance: Array | None, window: Array | None) -> Array:
    """Turns what a query may see into an additive mask, with a sliding window where the layer has one."""
    if window is not None and distance is not None:
        visible = visible & ((window == 0) | (distance < window))
    return jnp.where(visible, 0.0, MASKED).astype(jnp.float32)


def rotations(config: ModelConfig, positions: Array | np.ndarray) -> tuple[Array, Array]:
    """Returns the cosines and sines of rotary embeddings, each `[N, 1, T, E / 2]`, for positions `[N, T]`.

    For positions in a numpy array they are constants of the program that is traced.
    """
    xp: Any = np if isinstance(positions, np.ndarray) else jnp
    half = xp.arange(0, config.head_dim, 2, dtype=xp.float32)
    frequencies = 1.0 / config.rope_theta ** (half / config.head_dim)
    if (scaling := config.rope_scaling) is not None:
        # Llama 3: wavelengths longer than the original context are stretched by `factor`, short ones
        # are kept, and those between are mixed.
        wavelengths = 2 * math.pi / frequencies
        original = scaling.original_max_position
        mix = (original / wavelengths - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        mix = xp.clip(mix, 0.0, 1.0)
        frequencies = (1 - mix) * frequencies / scaling.factor + mix * frequencies
    angles = positions[..., None].astype(xp.float32) * frequencies
    return jnp.asarray(xp.cos(angles))[:, None], jnp.asarray(xp.sin(angles))[:, None]


def rotate(x: Array, rope: tuple[Array, Array]) -> Array:
    """Applies rotary embeddings to `[N, heads, T, E]`, pairing feature i with i + E / 2 as Hugging Face does."""
    cos, sin = rope
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
