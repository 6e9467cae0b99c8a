"""Products of a transformer block on a mesh's `tensor` axis, with the communication between devices written out.

As in Megatron-LM (arXiv 1909.08053) a projection of hidden features divides its outputs and a projection to them its
inputs. Outside of such products hidden activations are divided by tokens, where their number allows it (sequence
parallelism, arXiv 2205.05198): they are gathered before the first kind, partial sums are scattered after the second.

A function given to `divided` computes with the parts of one device. All that belongs to one sum is added there before
it is communicated; XLA's partitioner would sum the gradients of queries, keys and values one by one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from selfadapt.parallel import sharding

Array = jax.Array

AXIS = "tensor"
TIME, FEATURES = 2, 3  # axes of activations, `[adapters, rows, time, features]`
HIDDEN = ("adapters", "rows", "sequence", "hidden")  # the logical axes of hidden activations between products


@dataclasses.dataclass(frozen=True)
class Part:
    """What one of the devices along `tensor` does with activations; nothing where there is only one.

    Attributes:
      devices: devices along the axis.
      by_tokens: whether hidden activations are divided by tokens outside.
    """

    devices: int = 1
    by_tokens: bool = False

    def whole(self, x: Array) -> Array:
        """Returns the hidden activations of all tokens, to be multiplied with parts of weights."""
        if self.devices == 1:
            return x
        if self.by_tokens:
            return _summed(lambda x: jax.lax.all_gather(x, AXIS, axis=TIME, tiled=True), x)
        return _summed(lambda x: jax.lax.pcast(x, AXIS, to="varying"), x)

    def own(self, x: Array) -> Array:
        """Returns this device's part of the features."""
        if self.devices == 1:
            return x
        size = x.shape[FEATURES] // self.devices
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size, FEATURES)

    def placed(self, y: Array) -> Array:
        """Returns features of which this device has a part, with zeros in place of the others, as a summand."""
        if self.devices == 1:
            return y
        size = y.shape[FEATURES]
        zeros = jnp.zeros((*y.shape[:FEATURES], size * self.devices), y.dtype)
        return jax.lax.dynamic_update_slice_in_dim(zeros, y, jax.lax.axis_index(AXIS) * size, FEATURES)

    def total(self, y: Array) -> Array:
        """Returns the sum of the devices' arrays, on each of them."""
        return y if self.devices == 1 else _summed(lambda y: jax.lax.psum(y, AXIS), y)

    def scattered(self, y: Array) -> Array:
        """Returns the sum of the devices' hidden activations, divided as it is outside."""
        if self.by_tokens:
            return _summed(lambda y: jax.lax.psum_scatter(y, AXIS, scatter_dimension=TIME, tiled=True), y)
        return self.total(y)


def divided(function: Callable[..., Any], x: Array, operands: Any, axes: Any, *, to_hidden: bool) -> Any:
    """Applies a function to activations and operands, on each device to its parts.

    Where the axis `tensor` does not divide an operand, or has one device, the function is applied to whole arrays.

    Args:
      function: called with a `Part`, activations and operands.
      x: hidden activations; if the function returns these, activations whose features are divided.
      operands: a pytree of arrays.
      axes: the logical axes of each operand (`selfadapt.parallel.sharding`).
      to_hidden: whether the function returns hidden activations; otherwise their features are divided.

    Returns:
      What the function returns: activations, or a pytree of them.
    """
    devices = sharding.axis_size(AXIS)

    def divides(leaf, own):
        return all(size % devices == 0 for size, axis in zip(leaf.shape, own, strict=True) if _on_tensor(axis))

    if devices == 1 or not all(jax.tree.leaves(jax.tree.map(divides, operands, axes))):
        return function(Part(), x, operands)
    hidden = sharding.current_spec(x.shape, HIDDEN)
    wide = PartitionSpec(*hidden[:TIME], None, AXIS)
    part = Part(devices, hidden[TIME] is not None)
    return jax.shard_map(
        functools.partial(function, part),
        axis_names=sharding.current_axes(),
        in_specs=(
            wide if to_hidden else hidden,
            jax.tree.map(lambda leaf, own: sharding.current_spec(leaf.shape, own), operands, axes),
        ),
        out_specs=hidden if to_hidden else wide,
    )(x, operands)


def _on_tensor(axis: str | None) -> bool:
    return sharding.RULES.get(axis or "") == (AXIS,)


def _summed(communicate: Callable[[Array], Array], x: Array) -> Array:
    """Applies a sum over devices, or what has one as its gradient; on a CPU, where XLA fails otherwise, in float32."""
    if x.dtype != jnp.bfloat16 or sharding.current_platform() != "cpu":
        return communicate(x)
    return communicate(x.astype(jnp.float32)).astype(x.dtype)
