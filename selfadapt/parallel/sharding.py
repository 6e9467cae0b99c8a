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
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfadapt.errors import UserError
from selfadapt.parallel import chips

AXES = ("data", "fsdp", "tensor")
TPU_LANES = 128  # elements of a TPU's vectors
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
    "features": ("tensor",),  # the hidden features, as an axis of an adapter's factor
    "sequence": ("tensor",),  # time, of hidden activations between the products of a block
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
        grid = _grid(shape, devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def platform(mesh: Any) -> str:
    """Returns the platform of a mesh, or of the default device without one, such as "cpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def current_platform() -> str:
    """Returns the platform that a program is traced for: that of the mesh in use, or of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Returns devices as an array of a shape, so that neighbours on a TPU's torus are neighbours on the mesh.

    In a torus of two dimensions `tensor` gets rectangles two chips wide, whose chips form a ring: twice the links of a
    row, whose ends are not joined unless it is a whole side of the torus.
    """
    chip, width = chips.of(devices[0]), shape[-1] // 2
    if chip is not None and chip.torus == 2 and 2 <= width < chip.ring // 2 and shape[-1] % 2 == 0:
        places = np.asarray([device.coords[:2] for device in devices])
        places -= places.min(axis=0)
        rows, columns = places.max(axis=0) + 1
        if rows * columns == len(devices) and rows % 2 == 0 and columns % width == 0:
            plane = np.empty((rows, columns), object)
            plane[tuple(places.T)] = devices
            pairs = plane.reshape(rows // 2, 2, columns // width, width).swapaxes(1, 2)
            rings = np.concatenate([pairs[..., 0, :], pairs[..., 1, ::-1]], axis=-1)
            return rings.reshape(shape)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def num_shards(mesh: Any) -> int:
    """Returns the number of data-parallel shards, which adapters, or rows, are divided over; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in BATCH_AXES)


def current_num_shards() -> int:
    """Returns the number of data-parallel shards of the mesh in use while a program is traced."""
    sizes = _current_sizes()
    return math.prod(sizes.get(name, 1) for name in BATCH_AXES)


def axis_size(name: str) -> int:
    """Returns the size of an axis of the mesh in use while a program is traced; 1 without a mesh."""
    return _current_sizes().get(name, 1)


def current_axes() -> frozenset[str]:
    """Returns the axes of the mesh in use that XLA divides over while a program is traced."""
    return frozenset(_current_sizes())


def current_spec(shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """Returns the partition over `current_axes` of an array of a shape with logical axes: how `shard` divides it."""
    return _partition(_current_sizes(), shape, axes)


def in_use() -> bool:
    """Returns whether a mesh is in use while a program is traced, so that `shard` constrains arrays."""
    return bool(_current_sizes())


def on_one_cpu() -> bool:
    """Returns whether a program is traced for one CPU device: without a mesh, and not inside `shard_map`."""
    return jax.sharding.get_abstract_mesh().empty and current_platform() == "cpu"


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
    if not keeps_weight_sharded(x.size // x.shape[-1], *weight.shape):
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
    if keeps_weight_sharded(index.size, *table.shape):
        index = shard(index, "data_adapters", "data_rows", "time")
        found = shard(table[index], "data_adapters", "data_rows", "time", "embed")
    else:
        found = shard(table, "vocab", "hidden")[index]
    return shard(found, "adapters", "rows", "time", "hidden")


def keeps_weight_sharded(tokens: int, inside: int, outside: int) -> bool:
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


def device_bytes(tree: Any) -> int:
    """Returns how many bytes of a tree of (abstract) arrays each device holds."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an array with these logical axes inside a program; `None` is an unsharded axis."""
    return jax.lax.with_sharding_constraint(x, current_spec(x.shape, axes)) if in_use() else x


def row_major(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an array with these logical axes to row-major layout inside a program for TPUs.

    Without effect where the last axis would be padded to a TPU's vectors, and on other platforms, where all arrays have
    this layout.
    """
    if current_platform() != "tpu" or x.shape[-1] % TPU_LANES:
        return x

    def constrain(x):
        return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))

    return on_each_device(constrain, [axes], [x])  # XLA would gather the operand of a layout constraint


def on_each_device(
    function: Callable[..., jax.Array], axes: Sequence[Sequence[str | None]], arrays: Sequence[jax.Array]
) -> jax.Array:
    """Applies a function to each device's parts of arrays inside a program.

    Args:
      function: maps parts of the arrays to a part of the result, which has the axes of the first.
      axes: the logical axes of each array.
      arrays: the arrays.
    """
    if not in_use():
        return function(*arrays)
    parts = tuple(current_spec(array.shape, each) for array, each in zip(arrays, axes, strict=True))
    return jax.shard_map(function, in_specs=parts, out_specs=parts[0], axis_names=current_axes(), check_vma=False)(
        *arrays
    )


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
