"""Communication between devices in a compiled XLA program."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from selfadapt.plan.hlo.instruction import Instruction

PERMUTE = "collective-permute"
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    PERMUTE,
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between devices: what one run transfers, and how often it runs.

    Attributes:
      kind: XLA's name, such as "all-gather".
      bytes: the larger of input and output of one run on a device.
      times: how often it runs.
      groups: the devices that communicate with each other, as indices into the flattened mesh; pairs for a
        collective-permute.
    """

    kind: str
    bytes: float
    times: float
    groups: tuple[tuple[int, ...], ...]

    def sent(self) -> float:
        """Returns the bytes that a device sends in one run of a bandwidth-optimal ring algorithm."""
        size = max(map(len, self.groups), default=1)
        if self.kind == PERMUTE:
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (size - 1) / size

    def axes(self, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
        """Returns the mesh axes along which the members of its groups differ."""
        sizes = tuple(mesh_shape.values())
        found = set()
        for group in self.groups:
            places = np.asarray(np.unravel_index(np.asarray(group), sizes))
            found |= {name for name, row in zip(mesh_shape, places, strict=True) if len(set(row.tolist())) > 1}
        return tuple(name for name in mesh_shape if name in found)


def device_groups(instruction: Instruction, partitions: int) -> tuple[tuple[int, ...], ...]:
    """Returns which devices communicate, from any of the forms in which XLA writes them.

    Args:
      instruction: the collective.
      partitions: devices of the program, all of which communicate where no groups are written.
    """
    if (pairs := instruction.attribute(r"source_target_pairs=\{((?:\{[\d,]+\},?)+)\}")) is not None:
        return tuple(tuple(map(int, pair.split(","))) for pair in re.findall(r"\{([\d,]+)\}", pairs))
    if (listed := instruction.attribute(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}")) is not None:
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed))
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", instruction.rest)
    if named is not None:
        return _named_groups(*named.groups())
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=(\S+)", instruction.rest)
    if iota is None:
        return (tuple(range(partitions)),)
    shape = tuple(map(int, iota[1].split(",")))
    return tuple(tuple(row) for row in _device_order(iota[2]).reshape(shape).tolist())


def _device_order(text: str) -> np.ndarray:
    """Reads an order of devices: counted in a shape, and perhaps transposed.

    >>> _device_order("[2,3]T(1,0)").ravel().tolist()
    [0, 3, 1, 4, 2, 5]
    """
    found = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert found is not None, f"an order of devices is [sizes]T(axes), not {text}"
    dims = tuple(map(int, found[1].split(",")))
    devices = np.arange(math.prod(dims)).reshape(dims)
    return devices.transpose(tuple(map(int, found[2].split(",")))) if found[2] else devices


def _named_groups(mesh: str, order: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Reads groups given as a mesh, `'a'=2,'b'=4`, and the axes they span, `'b'`; `'b':(2)2` is a part of one.

    >>> _named_groups("'a'=2,'b'=4", None, "'b':(2)2")
    ((0, 1), (2, 3), (4, 5), (6, 7))
    >>> _named_groups("'a'=1,'b'=2,'c'=4", "[2,2,2]T(1,0,2)", "'b'")
    ((0, 2), (1, 3), (4, 6), (5, 7))
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh)}
    inside = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", axes)
    }
    shape, spanned = [], []
    for name, size in sizes.items():
        before, span = inside.get(name, (1, 1))
        shape += [before, span, size // before // span]
        spanned.append(len(shape) - 2)
    others = [axis for axis in range(len(shape)) if axis not in spanned]
    devices = np.arange(math.prod(shape)) if order is None else _device_order(order)
    devices = devices.reshape(shape).transpose(others + spanned)
    members = math.prod(span for _, span in inside.values())
    return tuple(tuple(row) for row in devices.reshape(-1, members).tolist())
