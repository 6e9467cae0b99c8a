"""Attention of long rows on TPUs, by a kernel that keeps no scores in memory: JAX's splash attention.

Axis letters in shapes are those of `selfadapt.models.decoder`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfadapt.parallel import sharding

Array = jax.Array

BLOCK = 512  # queries, and keys, of a block of scores
NOWHERE = -1  # the segment of padding, which no token has


def suits(q: Array, k: Array, window: Array | None) -> bool:
    """Returns whether the kernel computes the attention of a program that is traced.

    It does on TPUs for bfloat16 and heads as wide as a TPU's vectors, which on a mesh are divided as the keys' are. A
    window that differs between layers is data, and the kernel's masks are not.
    """
    parts = sharding.current_spec(q.shape, ("batch", "heads", None, None))
    return (
        sharding.current_platform() == "tpu"
        and window is None
        and q.dtype == jnp.bfloat16
        and q.shape[-1] % sharding.TPU_LANES == 0
        and parts == sharding.current_spec(k.shape, ("batch", "kv_heads", None, None))
    )


def splash_attention(
    q: Array,
    k: Array,
    v: Array,
    segments: tuple[Array, Array] | None,
    *,
    block: int = BLOCK,
    interpret: bool = False,
) -> Array:
    """Returns causal grouped-query attention, `[N, H, T, E]`; anything finite for queries that see no key.

    Args:
      q: queries, `[N, H, T, E]`.
      k: keys, `[N, J, T, E]`.
      v: values, `[N, J, T, E]`.
      segments: the segment of each query, and the segment that may see each key, `[N, T]` each; `None` if a row is one
        sequence.
      block: queries, and keys, of a block of scores.
      interpret: run the kernel as JAX operations, on any platform.
    """
    # Imported here, since it takes half a second and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    rows, _, time, features = q.shape
    padding = -time % block
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dq=block,
        block_kv_dq=block,
        block_q_dkv=block,
        block_kv_dkv=block,
    )
    sides = [jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0))) for x in (q * features**-0.5, k, v)]
    given = (jnp.zeros((rows, time), jnp.int32),) * 2 if segments is None else segments
    tokens = [jnp.pad(each, ((0, 0), (0, padding)), constant_values=NOWHERE) for each in given]

    def own(q: Array, k: Array, v: Array, queries: Array, keys: Array) -> Array:  # of one device
        rows, heads, time, features = q.shape
        groups = heads // k.shape[1]
        mask = splash.MultiHeadMask([splash.CausalMask((time, time))] * groups)
        kernel = splash.make_splash_mqa_single_device(mask, block_sizes=sizes, interpret=interpret)
        of_row = jax.vmap(kernel, (0, 0, 0, None))  # over the heads of keys
        grouped = q.reshape(rows, k.shape[1], groups, time, features)
        return jax.vmap(of_row)(grouped, k, v, splash.SegmentIds(queries, keys)).reshape(q.shape)

    axes = [("batch", "heads", None, None), *[("batch", "kv_heads", None, None)] * 2, *[("batch", None)] * 2]
    return sharding.on_each_device(own, axes, (*sides, *tokens))[:, :, :time]
