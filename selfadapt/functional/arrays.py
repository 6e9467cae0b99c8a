"""Token sequences as padded arrays, inside a program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from selfadapt.parallel import sharding

Array = jax.Array


def of_edits(tree: Any, samples: int) -> Any:
    """Returns arrays of contexts, `[C, ...]`, as those of each context's edits, `[C * samples, ...]`, sharded."""

    def repeated(leaf):
        leaf = jnp.repeat(jnp.asarray(leaf), samples, axis=0)
        return sharding.shard(leaf, "adapters", *[None] * (leaf.ndim - 1))

    return jax.tree.map(repeated, tree)


def valid(lengths: Array, width: int) -> Array:
    """Returns which of `width` positions belong to sequences of some lengths, `[..., width]`."""
    return jnp.arange(width) < lengths[..., None]


def join(
    first: Array, first_lengths: Array, second: Array, second_lengths: Array, width: int | None = None
) -> tuple[Array, Array]:
    """Joins right-padded sequences, each with its successor.

    Args:
      first: token ids, `[..., A]`.
      first_lengths: their lengths, `[...]`.
      second: the token ids that follow, `[..., B]`.
      second_lengths: their lengths, `[...]`.
      width: positions of the result, A + B by default; what does not fit is cut.

    Returns:
      The joined sequences, `[..., width]`, 0 where there is none, and their lengths, `[...]`.
    """
    spaces = first.shape[-1], second.shape[-1]
    width = sum(spaces) if width is None else width
    lengths = jnp.minimum(first_lengths + second_lengths, width)
    if not spaces[1]:
        second = jnp.zeros((*second.shape[:-1], 1), first.dtype)
    place = jnp.broadcast_to(jnp.arange(width), (*first_lengths.shape, width))
    after = place - first_lengths[..., None]
    head = jnp.take_along_axis(first, jnp.minimum(place, spaces[0] - 1), axis=-1)
    tail = jnp.take_along_axis(second, jnp.clip(after, 0, second.shape[-1] - 1), axis=-1)
    joined = jnp.where(after < 0, head, tail)
    return jnp.where(valid(lengths, width), joined, 0), lengths
