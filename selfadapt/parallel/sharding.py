"""The mesh of devices, and how every array is sharded over it: one table from logical axes to mesh axes.

The mesh has three axes. `data` is data parallelism: adapters or rows are sharded over it, weights are replicated, and a
training step has no communication over it. `fsdp` shards adapters and rows too, and also the weights: a layer's weights
are gathered over it when they are used (ZeRO-3). `tensor` shards heads and MLP features, as in Megatron.

Programs name the logical axes of their arrays with `shard`; outside `using(mesh)` that does nothing, and
the same programs run on one device. Nor does it inside `jax.shard_map`, for the axes that it has divided already.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfadapt.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # adapters, or rows, are sharded over these

# Logical axis -> the mesh axes that it is sharded over. An axis is not sharded if it is absent here, if its size is not
# a multiple of the mesh axes' sizes, or if an earlier axis of the array uses the same mesh axes: several adapters are
# sharded themselves, and of a single one the rows are.
RULES: dict[str, tuple[str, ...]] = {
    # Parameters. Layers are not sharded: they are scanned.
    "vocab": ("tensor",),
    "embed": ("fsdp",),  # the hidden features, as an axis of a weight
    # Parameters, adapters' features, activations
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    # Adapters, optimiser state, activations, caches, batches
    "adapters": BATCH_AXES,
    "rows": BATCH_AXES,
    "batch": BATCH_AXES,  # adapters and their rows as one axis
    # The same where activations have been gathered over `fsdp` and their features are sharded over it instead
    "data_adapters": ("data",),
    "data_rows": ("data",),
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Makes a mesh of all devices (of all processes), or of some of them.

    Args:
      data: devices along `data`. One of the three sizes may be -1: all devices that the others leave.
      fsdp: devices along `fsdp`.
      tensor: devices along `tensor`.
      devices: the devices, all by default. A single process may use fewer than it has: the first ones.

    Returns:
      The mesh, or `None` for a single device.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise UserError(f"config.mesh.{name} is {size}; it must be at least 1, or -1 for what the others leave")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(f"config.mesh.{open_axes[0]} and .{open_axes[1]} are both -1; only one can take what is left")
    asked = math.prod(size for size in sizes.values() if size != -1)
    shown = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if open_axes:
        if len(devices) % asked:
            raise UserError(f"config.mesh ({shown}) needs a multiple of {asked} devices, and there are {len(devices)}")
        sizes[open_axes[0]] = len(devices) // asked
        asked = len(devices)
    if asked > len(devices) or (asked < len(devices) and jax.process_count() > 1):
        raise UserError(
            f"config.mesh ({shown}) needs {asked} devices, and there are {len(devices)}; set one size to -1 to use all"
        )
    if asked == 1 and jax.process_count() == 1:
        return None
    shape = tuple(sizes[name] for name in AXES)
    grid = np.asarray(devices[:asked]).reshape(shape)
    if len(devices) == asked:
        # Neighbours on a TPU's torus become neighbours on the mesh; a side of the torus may be split into two axes.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def num_shards(mesh: Any) -> int:
    """Returns the number of data-parallel shards, which adapters, or rows, are divided over; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in BATCH_AXES)


def current_num_shards() -> int:
    """Returns the number of data-parallel shards of the mesh in use while a program is traced."""
    sizes = _current_sizes()
    return math.prod(sizes.get(name, 1) for name in BATCH_AXES)


def in_use() -> bool:
    """Returns whether a mesh is in use while a program is traced, so that `shard` constrains arrays."""
    return bool(_current_sizes())


def _current_sizes() -> dict[str, int]:
    """Returns the sizes of the axes that XLA divides over while a program is traced; empty if there is no mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if name in AXES and kind != AxisType.Manual}


def product(x: jax.Array, weight: jax.Array, inside: str, outside: str, multiply: Any = jnp.matmul) -> jax.Array:
    """Multiplies activations with a weight whose hidden features are sharded over `fsdp`, inside a program.

    For many tokens, as in training and prefill, the weight is gathered. For few tokens (a step of decoding) the
    activations are gathered instead, multiplied with the weight's parts, and the sums are scattered again: that moves
    fewer bytes.

    Args:
      x: `[adapters, rows, time, in]`.
      weight: `[in, out]`.
      inside: the logical axis of `in`, as an axis of activations.
      outside: that of `out`.
      multiply: the product.

    Returns:
      `[adapters, rows, time, out]`.
    """
    if not _keeps_weight_sharded(x.size // x.shape[-1], *weight.shape):
        return multiply(x, shard(weight, inside, outside))
    stored = {"hidden": "embed"}  # the axis of a weight as it is stored
    x = shard(x, "data_adapters", "data_rows", "time", stored.get(inside, inside))
    y = multiply(x, shard(weight, stored.get(inside, inside), stored.get(outside, outside)))
    if outside in stored:  # without this, XLA gathers the weight
        y = shard(y, "data_adapters", "data_rows", "time", stored[outside])
    return shard(y, "adapters", "rows", "time", outside)


def lookup(table: jax.Array, index: jax.Array) -> jax.Array:
    """Returns rows of a table whose features are sharded over `fsdp`, inside a program.

    Args:
      table: `[vocab, hidden]`.
      index: `[adapters, rows, time]`.

    Returns:
      `[adapters, rows, time, hidden]`.
    """
    if _keeps_weight_sharded(index.size, *table.shape):
        index = shard(index, "data_adapters", "data_rows", "time")
        found = shard(table[index], "data_adapters", "data_rows", "time", "embed")
    else:
        found = shard(table, "vocab", "hidden")[index]
    return shard(found, "adapters", "rows", "time", "hidden")


def _keeps_weight_sharded(tokens: int, inside: int, outside: int) -> bool:
    """Returns whether gathering the activations over `fsdp` moves fewer bytes than gathering the weight."""
    sizes = _current_sizes()
    if sizes.get("fsdp", 1) == 1:
        return False
    return tokens // sizes.get("data", 1) * (inside + outside) < inside * outside


def round_up(count: int, multiple: int) -> int:
    """Rounds up to a multiple."""
    return -(-count // multiple) * multiple


@contextlib.contextmanager
def using(mesh: Mesh | None) -> Iterator[None]:
    """Sets the mesh that `shard` and `replicate` refer to in programs called inside; `None` for no mesh."""
    if mesh is None:
        yield
    else:
        with jax.set_mesh(mesh):
            yield


def spec(mesh: Any, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """Returns the partition of an array of a shape with logical axes.

    >>> mesh = jax.sharding.AbstractMesh((2, 2, 2), AXES)
    >>> tuple(spec(mesh, (28, 3584, 512), ("layers", "embed", "kv_heads")))
    (None, 'fsdp', 'tensor')
    >>> tuple(spec(mesh, (8, 3, 64), ("adapters", "rows", "time")))
    (('data', 'fsdp'), None, None)
    >>> tuple(spec(mesh, (1, 12, 64), ("adapters", "rows", "time")))
    (None, ('data', 'fsdp'), None)
    """
    return _partition(mesh.shape, shape, axes)


def _partition(sizes: Mapping[str, int], shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    taken: set[str] = set()
    parts: list[str | tuple[str, ...] | None] = []
    for size, axis in zip(shape, axes, strict=True):
        names = tuple(name for name in RULES.get(axis or "", ()) if name in sizes)
        if names and not taken & set(names) and size % math.prod(sizes[name] for name in names) == 0:
            taken |= set(names)
            parts.append(names if len(names) > 1 else names[0])
        else:
            parts.append(None)
    return PartitionSpec(*parts)


def sharding(mesh: Mesh | None, shape: Sequence[int], axes: Sequence[str | None]) -> jax.sharding.Sharding:
    """Returns the sharding of an array with logical axes; that of the default device without a mesh."""
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)
    return NamedSharding(mesh, spec(mesh, shape, axes))


def abstract(mesh: Mesh | None, shape: Sequence[int], dtype: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
    """Returns an abstract array: shape, dtype and sharding."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding(mesh, shape, axes))


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an array with these logical axes inside a program; `None` is an unsharded axis."""
    if not (sizes := _current_sizes()):
        return x
    return jax.lax.with_sharding_constraint(x, _partition(sizes, x.shape, axes))


def replicate(tree: Any) -> Any:
    """Constrains arrays inside a program to be replicated, so that every process can read them."""
    if not _current_sizes():
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)


def make_array(
    mesh: Mesh | None, shape: Sequence[int], axes: Sequence[str | None], read: Callable[[tuple[slice, ...]], np.ndarray]
) -> jax.Array:
    """Makes a sharded array of which each process computes only the parts that its devices hold.

    Args:
      mesh: the mesh, or `None`.
      shape: the array's global shape.
      axes: its logical axes.
      read: returns a part of the array, given its slices.
    """
    if mesh is None:
        return jnp.asarray(read(tuple(slice(0, size) for size in shape)))

    def part(index):
        return read(tuple(slice(*each.indices(size)[:2]) for each, size in zip(index, shape, strict=True)))

    return jax.make_array_from_callback(tuple(shape), sharding(mesh, shape, axes), part)


def put(mesh: Mesh | None, value: Any, axes: Sequence[str | None]) -> jax.Array:
    """Returns an array with the sharding of its logical axes, moved if it has another."""
    if mesh is None:
        return jnp.asarray(value)
    wanted = sharding(mesh, value.shape, axes)
    if isinstance(value, jax.Array):
        if value.sharding.is_equivalent_to(wanted, value.ndim):
            return value
        if value.sharding.device_set == wanted.device_set:
            return _reshard(wanted)(value)
    value = np.asarray(value)
    return make_array(mesh, value.shape, axes, lambda index: value[index])


def to_host(tree: Any) -> Any:
    """Returns arrays as NumPy arrays, complete on every process.

    Where processes hold only parts, all of them must call this at the same point.
    """

    def gathered(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        # One after another: many concurrent collectives on a CPU can deadlock for want of threads.
        assert isinstance(leaf.sharding, NamedSharding), "an array of several processes is on a mesh"
        return np.asarray(_reshard(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf))

    return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(gathered, tree)))


@functools.lru_cache(maxsize=256)
def _reshard(wanted: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=wanted)
