"""The projection to the vocabulary in chunks of tokens, so that the logits of all tokens are never in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfadapt.models import decoder, reductions
from selfadapt.models.config import ModelConfig
from selfadapt.parallel import sharding

Array = jax.Array

LOGITS_BYTES = 64 * 2**20  # the most that a chunk of logits takes; chunks are recomputed in the backward pass
# Each chunk reads the projection three times, in both passes and for the recomputed logits. An accelerator computes
# with a weight for several hundred tokens in the time that it takes to read it, so there a chunk has as many.
ACCELERATOR_TOKENS = 1024


def chunk_bytes(config: ModelConfig, platform: str) -> int:
    """Returns the most bytes of the logits of a chunk on each data-parallel shard, on a platform such as "tpu"."""
    return LOGITS_BYTES if platform == "cpu" else max(LOGITS_BYTES, 4 * ACCELERATOR_TOKENS * config.vocab_size)


def over_tokens(
    function: Callable[[Array, Array], Any],
    params: decoder.Params,
    config: ModelConfig,
    hidden: Array,
    targets: Array,
    logits_bytes: int | None = None,
    sets: int = 1,
) -> Any:
    """Returns what a function makes of the logits of each token, in float32.

    The projection to the vocabulary is done in chunks of tokens, whose logits are recomputed in the backward pass, if
    the logits of all tokens would take more than a chunk.

    Args:
      function: maps logits `[..., vocab]` and the targets of their tokens to a pytree of arrays `[...]`.
      params: the parameters.
      config: the architecture.
      hidden: the decoder's output, `[adapters, rows, time, hidden]`.
      targets: token ids, `[adapters, rows, time]`, or features of each token, `[adapters, rows, time, ...]`.
      logits_bytes: the size of a chunk's logits on each data-parallel shard, in bytes; `chunk_bytes` by default.
      sets: how many logits the function has of each token, its own included.

    Returns:
      The function's pytree, with arrays `[adapters, rows, time]`.
    """

    def projected(hidden, targets):
        return function(decoder.logits(params, config, hidden), targets)

    shards = sharding.current_num_shards()  # a chunk has as many tokens of each
    whole = hidden.shape[:3]
    count = math.prod(whole) // shards
    limit = chunk_bytes(config, sharding.current_platform()) if logits_bytes is None else logits_bytes
    chunks = math.ceil(sets * count * config.vocab_size * 4 / limit)
    if chunks <= 1:
        return projected(hidden, targets)
    size = math.ceil(count / chunks)

    def cut(x):  # to [chunks, shards, 1, size, ...], the layout of [adapters, rows, time] in each chunk
        features = x.shape[3:]
        padding = [(0, 0), (0, size * chunks - count), *[(0, 0)] * len(features)]
        x = jnp.pad(x.reshape(shards, count, *features), padding).reshape(shards, chunks, 1, size, *features)
        return sharding.shard(x.swapaxes(0, 1), None, "adapters", *[None] * (2 + len(features)))

    def join(result):
        return result.swapaxes(0, 1).reshape(shards, -1)[:, :count].reshape(whole)

    parts = (cut(hidden), cut(targets))
    return jax.tree.map(join, jax.lax.map(jax.checkpoint(lambda part: projected(*part)), parts))


def gold_logits(logits: Array, targets: Array) -> Array:
    """Returns the logit of each target, `[...]`, of logits `[..., vocab]`."""
    # A comparison instead of a gather: its gradient is elementwise and not a scatter.
    return reductions.total(jnp.where(jnp.arange(logits.shape[-1]) == targets[..., None], logits, 0.0))
