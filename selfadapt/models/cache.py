"""The keys and values that decoding keeps of all tokens so far.

Axis letters in shapes are those of `selfadapt.models.decoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from selfadapt.parallel import sharding

Array = jax.Array


@flax.struct.dataclass
class Cache:
    """Keys and values of the positions seen so far.

    Attributes:
      k: rotated keys: one array `[layers, N, key-value heads, slots, head features]`, or where layers are
        unrolled an array for each, without the first axis. A program for a CPU that writes to a stacked array and
        reads one layer of it copies all of it (attention 8 times slower at 4 tiny layers).
      v: values, likewise.
      positions: the position that each slot holds, `[N, slots]`; -1 where a slot holds nothing.
      slot_axes: the axis of slots in keys and in values, `slot_axes()` of the platform.
    """

    k: tuple[Array, ...]
    v: tuple[Array, ...]
    positions: Array
    slot_axes: tuple[int, int] = flax.struct.field(pytree_node=False)

    def repeat(self, times: int) -> Cache:
        """Returns the cache with each row `times` times in succession."""
        k, v = jax.tree.map(lambda side: jnp.repeat(side, times, axis=-4), (self.k, self.v))
        return dataclasses.replace(self, k=k, v=v, positions=jnp.repeat(self.positions, times, axis=0))

    def sharded(self) -> Cache:
        """Constrains the sharding of the cache inside a program."""
        return self.map(lambda leaf, axes: sharding.shard(leaf, *axes))

    def map(self, function: Callable[[Any, tuple[str | None, ...]], Any]) -> Cache:
        """Returns the cache with a function applied to each array and its logical axes (`parallel.sharding`)."""
        k, v = jax.tree.map(lambda side: function(side, _axes(side)), (self.k, self.v))
        return dataclasses.replace(self, k=k, v=v, positions=function(self.positions, ("batch", None)))

    def grow(self, slots: int) -> Cache:
        """Returns the cache with empty slots added, up to `slots`."""
        more = (0, slots - self.positions.shape[1])

        def pad(side, axis):
            return jnp.pad(side, [more if i == side.ndim + axis else (0, 0) for i in range(side.ndim)])

        keys, values = self.slot_axes
        return dataclasses.replace(
            self,
            k=tuple(pad(side, keys) for side in self.k),
            v=tuple(pad(side, values) for side in self.v),
            positions=jnp.pad(self.positions, [(0, 0), more], constant_values=-1),
        )


def slot_axes() -> tuple[int, int]:
    """Returns the axis of slots in keys and in values, -1 or -2, that suits the platform a program is traced for.

    With keys `[..., head features, slots]` the products of a CPU take half the time. A TPU pads the last axis to
    multiples of 128, which head features often are.
    """
    return (-2 if sharding.current_platform() == "tpu" else -1), -2


def oriented(side: Array, axis: int) -> Array:
    """Turns `[..., slots, head features]` into the array whose slots are on an axis, -1 or -2, or back."""
    return side.swapaxes(-1, -2) if axis == -1 else side


def write(side: Array, own: Array, axis: int, slot: Array, layer: Array | None = None) -> Array:
    """Writes the keys or values of one token of each row to a slot, in place where the program carries the array.

    Args:
      side: keys or values of one layer, or of all layers.
      own: the token's, of one layer `[N, J, 1, E]` or of all layers `[L, N, J, 1, E]`.
      axis: the axis of slots in `side`.
      slot: the slot.
      layer: the layer to write of those in `side`; `None` for all of them.
    """
    own = oriented(own if layer is None else own[None], axis)
    start: list[Any] = [0] * side.ndim
    start[0], start[axis] = 0 if layer is None else layer, slot
    # A TPU's compiler would choose a layout for the loop over tokens in which a slot is contiguous, and copy the cache
    # before and after the loop.
    return sharding.row_major(jax.lax.dynamic_update_slice(side, own, start), *_axes(side))


def _axes(side: Any) -> tuple[str | None, ...]:
    return (*("layers",)[: side.ndim - 4], "batch", "kv_heads", None, None)
