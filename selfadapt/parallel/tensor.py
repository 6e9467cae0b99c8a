"""Products of a transformer block on a mesh's `tensor` axis, with the communication between devices written out.

As in Megatron-LM (arXiv 1909.08053) a projection of hidden features divides its outputs and a projection to them its
inputs. Outside of such products hidden activations are divided by tokens, where their number allows it (sequence
parallelism, arXiv 2205.05198): they are gathered before the first kind, partial sums are scattered after the second.

A function given to `divided` computes with the parts of one device. All that belongs to one sum is added there before
it is communicated; XLA's partitioner would sum the gradients of queries, keys and values one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from selfadapt.parallel import sharding

Array = jax.Array

AXIS = "tensor"
# With fewer tokens a product takes as long as reading its weight: at the roofline below 240 on v5e and 560 on v6e.
PRODUCT_TOKENS = 384
TIME, FEATURES = 2, 3  # axes of activations, `[adapters, rows, time, features]`
HIDDEN = ("adapters", "rows", "sequence", "hidden")  # the logical axes of hidden activations between products


@dataclasses.dataclass(frozen=True)
class Part:
    """What one of the devices along `tensor` does with activations; nothing where there is only one.

    Activations of all tokens are a list of pieces, one for each product with a weight, so that products run beside
    communication: a collective matmul (Wang et al. 2023, doi 10.1145/3567955.3567959). A single piece has all tokens
    in their order. Otherwise a piece is one or several chunks, each with as many tokens as a device has outside. Chunks
    are sent around the ring of devices, one half in each direction: of chunk i of a device one half comes from the i-th
    device before it, the other from the i-th after it.

    Attributes:
      devices: devices along the axis.
      by_tokens: whether hidden activations are divided by tokens outside.
      products: how many pieces there are; it divides the number of devices, and is 1 unless divided by tokens.
    """

    devices: int = 1
    by_tokens: bool = False
    products: int = 1

    def whole(self, x: Array) -> list[Array]:
        """Returns the hidden activations of all tokens, to be multiplied with parts of weights."""
        if self.devices == 1:
            return [x]
        if not self.by_tokens:
            return [_summed(lambda x: jax.lax.pcast(x, AXIS, to="varying"), x)]
        if self.products == 1:
            return [_summed(lambda x: jax.lax.all_gather(x, AXIS, axis=TIME, tiled=True), x)]
        chunks = [x]
        for _ in range(1, self.devices):
            chunks.append(self._sent(chunks[-1], 1))
        return self._grouped(chunks)

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

    def total(self, pieces: list[Array]) -> Array:
        """Returns the sum of the devices' activations, on each of them, as an array of all tokens in their order."""
        y = self.joined(pieces)
        return y if self.devices == 1 else _added(y)

    def scattered(self, pieces: list[Array]) -> Array:
        """Returns the sum of the devices' hidden activations, divided as it is outside."""
        if self.devices == 1:
            return pieces[0]
        if not self.by_tokens:
            return _added(pieces[0])
        if self.products == 1:
            return _summed(lambda y: jax.lax.psum_scatter(y, AXIS, scatter_dimension=TIME, tiled=True), pieces[0])
        *others, y = self._chunks(pieces)
        for each in reversed(others):
            y = self._sent(y, -1) + each
        return y

    def joined(self, pieces: list[Array]) -> Array:
        """Returns an array of all tokens in their order."""
        if self.products == 1:
            return pieces[0]
        return jnp.concatenate(self._reordered(self._chunks(pieces), -1), TIME)

    def pieces(self, x: Array) -> list[Array]:
        """Returns the pieces of an array of all tokens in their order."""
        if self.products == 1:
            return [x]
        return self._grouped(self._reordered(jnp.split(x, self.devices, TIME), 1))

    def _sent(self, chunk: Array, way: int) -> Array:
        """Sends one half of a chunk to the next device, the other to the one before; returns the halves that arrive."""
        axis = _halved(chunk.shape)
        arrived = [
            jax.lax.ppermute(half, AXIS, [(i, (i + step) % self.devices) for i in range(self.devices)])
            for half, step in zip(jnp.split(chunk, 2, axis), (way, -way), strict=True)
        ]
        return jnp.concatenate(arrived, axis)

    def _reordered(self, chunks: list[Array], way: int) -> list[Array]:
        """Reorders chunks from the order of the devices to that of their arrival, or if `way` is -1 back."""
        axis, place = _halved(chunks[0].shape), jax.lax.axis_index(AXIS)
        before, after = zip(*(jnp.split(chunk, 2, axis) for chunk in chunks), strict=True)
        time = before[0].shape[TIME]
        # The first half of chunk i is of device `place - i`, so that of device i is in chunk `place - i`.
        ordered = (
            jnp.roll(jnp.concatenate(before[::-1], TIME), (place + 1) * time, TIME),
            jnp.roll(jnp.concatenate(after, TIME), -way * place * time, TIME),
        )
        halves = zip(*(jnp.split(each, self.devices, TIME) for each in ordered), strict=True)
        return [jnp.concatenate(each, axis) for each in halves]

    def _grouped(self, chunks: list[Array]) -> list[Array]:
        size = self.devices // self.products
        return [jnp.concatenate(chunks[i : i + size], TIME) for i in range(0, self.devices, size)]

    def _chunks(self, pieces: list[Array]) -> list[Array]:
        return [chunk for piece in pieces for chunk in jnp.split(piece, self.devices // self.products, TIME)]


def divided(
    function: Callable[..., Any], x: Array, operands: Any, axes: Any, *, from_hidden: bool, to_hidden: bool
) -> Any:
    """Applies a function to activations and operands, on each device to its parts.

    Where the axis `tensor` does not divide an operand, or has one device, the function is applied to whole arrays.

    Args:
      function: called with a `Part`, activations and operands.
      x: activations.
      operands: a pytree of arrays.
      axes: the logical axes of each operand (`selfadapt.parallel.sharding`).
      from_hidden: whether the activations are hidden ones; otherwise their features are divided.
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
    by_tokens = hidden[TIME] is not None
    # The links are busy with weights where these are gathered over `fsdp`; GPUs gain nothing (docs/performance.md).
    in_pieces = by_tokens and sharding.axis_size("fsdp") == 1 and sharding.current_platform() != "gpu"

    def on_device(x, operands):
        part = Part(devices, by_tokens, _products(devices, x.shape, from_hidden) if in_pieces else 1)
        return function(part, x, operands)

    return jax.shard_map(
        on_device,
        axis_names=sharding.current_axes(),
        in_specs=(
            hidden if from_hidden else wide,
            jax.tree.map(lambda leaf, own: sharding.current_spec(leaf.shape, own), operands, axes),
        ),
        out_specs=hidden if to_hidden else wide,
    )(x, operands)


def _on_tensor(axis: str | None) -> bool:
    return sharding.RULES.get(axis or "") == (AXIS,)


def _products(devices: int, shape: tuple[int, ...], from_hidden: bool) -> int:
    """Returns how many products to divide tokens into, of which a device has activations of a shape."""
    adapters, rows, time, _ = shape
    time = time if from_hidden else time // devices
    if all(size % 2 for size in (adapters, rows, time)):
        return 1
    most = devices * adapters * rows * time // PRODUCT_TOKENS
    return max(count for count in range(1, devices + 1) if devices % count == 0 and count <= max(1, most))


def _halved(shape: tuple[int, ...]) -> int:
    """Returns the axis along which a chunk has two halves; features stay whole."""
    return next(axis for axis in range(FEATURES) if shape[axis] % 2 == 0)


def _added(y: Array) -> Array:
    return _summed(lambda y: jax.lax.psum(y, AXIS), y)


def _summed(communicate: Callable[[Array], Array], x: Array) -> Array:
    """Applies a sum over devices, or what has one as its gradient; on a CPU, where XLA fails otherwise, in float32."""
    if x.dtype != jnp.bfloat16 or sharding.current_platform() != "cpu":
        return communicate(x)
    return communicate(x.astype(jnp.float32)).astype(x.dtype)
