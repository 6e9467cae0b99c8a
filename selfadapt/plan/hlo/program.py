"""Reads a compiled XLA program: how often each instruction runs, its FLOPs, its memory traffic, its collectives.

XLA's own cost analysis counts the body of a loop once, however often it runs, and does not report collectives.
This reads the text of the compiled program of one device, multiplies loops by their trip counts, and adds up the cost
of each instruction.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from selfadapt.plan.hlo.collective import COLLECTIVES, Collective, device_groups
from selfadapt.plan.hlo.instruction import Array, Instruction, read_instruction
from selfadapt.plan.hlo.kernels import kernel_cost

# Opcodes without memory traffic: they name values, or their work is counted in the computations that they call.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_FREE |= {"after-all", "iota", "partition-id", "replica-id", "async-start", "async-update", "opt-barrier"}
_FREE |= {"add-dependency", "custom-call"}
_KERNEL = 'custom_call_target="tpu_custom_call"'
_CONTRACTED = '"lhs_contracting_dimensions"'  # of a custom call that is a matrix product of a library, such as cuBLAS


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction or a fusion of several: what a device does before the next one, as far as nothing overlaps.

    Attributes:
      times: how often it runs.
      flops: of its matrix products, in one run.
      bytes: that it reads from and writes to main memory, in one run.
    """

    times: float
    flops: float
    bytes: float


class Program:
    """A compiled program, read from `compiled.as_text()`.

    Args:
      text: the program's text.
      trips: the trip count of loops where the text does not state it, such as one that ends when every row is done.
    """

    def __init__(self, text: str, trips: int = 1):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, self.trips = "", trips
        self.partitions = int(found[1]) if (found := re.search(r"num_partitions=(\d+)", text)) else 1
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and ("->" in line) and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%").split("(")[0]
                current = self.computations[name] = {}
                if line.startswith("ENTRY"):
                    self.entry = name
            elif " = " in line and (instruction := read_instruction(line)) is not None:
                current[instruction.name] = instruction
        self.times: dict[str, float] = collections.defaultdict(float)
        self.fused: set[str] = set()  # computations whose values never reach main memory
        self._visit(self.entry, 1.0, False)

    def _visit(self, computation: str, times: float, fused: bool) -> None:
        self.times[computation] += times
        if fused:
            self.fused.add(computation)
        for instruction in self.computations[computation].values():
            inside = fused or instruction.opcode not in ("while", "conditional", "call", "async-start")
            count = times * self._trip_count(instruction) if instruction.opcode == "while" else times
            for name in instruction.called:
                if name in self.computations:
                    self._visit(name, count, inside)

    def _trip_count(self, loop: Instruction) -> int:
        if (known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"')) is not None:
            return int(known)
        # A counted loop compares its counter, which starts at 0, with a constant; the comparison may be wrapped.
        condition = self.computations[loop.attribute(r"condition=%?([\w.\-]+)") or ""]
        compare = _root(condition)
        given: dict[str, Instruction] = {}
        if compare.opcode == "fusion":
            outside = [condition[name] for name in compare.operands]
            condition = self.computations[compare.called[0]]
            compare = _root(condition)
            parameters = [i for i in condition.values() if i.opcode == "parameter"]
            given = {i.name: outside[int(i.rest.split(")")[0])] for i in parameters}
        if compare.opcode == "compare" and "direction=LT" in compare.rest:
            limit = given.get(compare.operands[1], condition[compare.operands[1]])
            if limit.opcode == "constant" and limit.arrays[0].dtype in ("s32", "s64", "u32"):
                return int(limit.rest.split(")")[0])
        return self.trips

    def instructions(self) -> Iterator[tuple[Instruction, float, str]]:
        """Yields each instruction that runs, how often it runs, and the computation that it belongs to."""
        for name, times in self.times.items():
            for instruction in self.computations[name].values():
                yield instruction, times, name

    def operation(self, instruction: Instruction, place: str) -> Operation:
        """Returns the work of an instruction of a computation that is not fused."""
        return Operation(self.times[place], self._flops(instruction, place), self._bytes(instruction, place))

    def operations(self) -> Iterator[Operation]:
        """Yields what one device does, but for waiting for others."""
        for instruction, _, place in self.instructions():
            if place not in self.fused:
                yield self.operation(instruction, place)
        for collective, times, place in self._communication():
            if place in self.fused:  # an asynchronous one; the fusions that contain its steps do not count it
                yield Operation(times, 0.0, _moved(collective, self.computations[place]))

    def flops(self) -> float:
        """Returns the FLOPs of one device's matrix products; elementwise work is not counted."""
        return sum(each.times * each.flops for each in self.operations())

    def bytes(self) -> float:
        """Returns the bytes that one device reads from and writes to its main memory.

        What is fused stays in registers; a slice of an array counts as the slice.
        """
        return sum(each.times * each.bytes for each in self.operations())

    def _flops(self, instruction: Instruction, place: str) -> float:
        """FLOPs of an instruction and of what is fused in it."""
        if instruction.opcode in ("dot", "convolution") or _CONTRACTED in instruction.rest:
            return self._product_flops(instruction, self.computations[place])
        if _KERNEL in instruction.rest:
            return kernel_cost(instruction.name, self._operands(instruction, place))[0]
        inside = [name for name in instruction.called if name in self.fused]
        return sum(self._flops(each, name) for name in inside for each in self.computations[name].values())

    def within(self, instruction: Instruction, place: str) -> Iterator[tuple[Instruction, str]]:
        """Yields an instruction of a computation and those of the computations that it calls, each with its place."""
        yield instruction, place
        for name in instruction.called:
            for inner in self.computations.get(name, {}).values():
                yield from self.within(inner, name)

    @staticmethod
    def _product_flops(product: Instruction, around: Mapping[str, Instruction]) -> float:
        outputs = math.prod(product.arrays[0].dims)
        left, right = (around[name].arrays[0].dims for name in product.operands[:2])
        if product.opcode == "convolution":
            return 2 * _convolution_products(product, left, right)
        contracted = product.attribute(r"lhs_contracting_dim(?:ension)?s\W+([\d,\"]+)[\]}]") or ""
        return 2 * outputs * math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted))

    def _operands(self, instruction: Instruction, place: str) -> list[Array]:
        return [array for name in instruction.operands for array in self.computations[place][name].arrays]

    def _bytes(self, instruction: Instruction, place: str) -> float:
        """Memory traffic of an instruction, and of what is fused in it."""
        if _KERNEL in instruction.rest:
            again = kernel_cost(instruction.name, self._operands(instruction, place))[1]
            return again + _moved(instruction, self.computations[place])
        free = instruction.opcode in _FREE and _CONTRACTED not in instruction.rest
        if free or instruction.opcode.endswith("-done"):
            return 0.0
        around = self.computations[place]
        if instruction.opcode == "fusion":
            inside = self.computations[instruction.called[0]]
            read = (self._read(inside, place, around[name].arrays) for place, name in enumerate(instruction.operands))
            return self._written(inside) + sum(read)
        if instruction.opcode in ("copy-start", "slice-start"):  # their result holds the operand too
            moved = instruction.arrays[1 if instruction.opcode == "slice-start" else 0]
            near = all(array.near for array in around[instruction.operands[0]].arrays)
            return moved.far_bytes + (0 if near else moved.bytes)
        if instruction.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * sum(array.far_bytes for array in instruction.arrays)
        if instruction.opcode in ("dynamic-update-slice", "scatter"):
            update = around[instruction.operands[1 if instruction.opcode[0] == "d" else 2]]
            return 2 * sum(array.far_bytes for array in update.arrays)
        return _moved(instruction, around)

    def _written(self, inside: Mapping[str, Instruction]) -> float:
        """Bytes that a fusion writes: of an array that it updates in place, the update."""
        total = 0.0
        root = _root(inside)
        for result in [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]:
            if result.opcode == "dynamic-update-slice":
                update = inside[result.operands[1]].arrays[0]
                total += 0 if result.arrays[0].near else update.bytes
            elif result.opcode == "fusion":
                total += self._written(self.computations[result.called[0]])
            elif result.opcode not in ("parameter", "get-tuple-element") and not _passes(result):
                total += sum(array.far_bytes for array in result.arrays)
        return total

    def _read(self, inside: Mapping[str, Instruction], place: int, arrays: tuple[Array, ...]) -> float:
        """Bytes that a fusion reads of an operand: where it only takes slices of it, those."""
        whole = sum(array.far_bytes for array in arrays)
        parameter = next(i.name for i in inside.values() if i.opcode == "parameter" and i.rest.startswith(f"{place})"))
        total = 0.0
        for user in inside.values():
            if parameter not in user.operands or _passes(user):
                continue
            if user.operands[0] == parameter and user.opcode in ("dynamic-slice", "gather", "slice"):
                total += user.arrays[0].bytes
            elif user.opcode == "fusion":
                within = self.computations[user.called[0]]
                places = [at for at, name in enumerate(user.operands) if name == parameter]
                total += sum(self._read(within, at, arrays) for at in places)
            elif user.operands[0] != parameter or user.opcode != "dynamic-update-slice":
                return whole
        return min(whole, total)

    def _communication(self) -> Iterator[tuple[Instruction, float, str]]:
        """Yields each collective once, though the steps of an asynchronous one repeat it."""
        seen: set[str] = set()
        for instruction, times, place in self.instructions():
            if instruction.opcode.removesuffix("-start") in COLLECTIVES:
                key = chain(instruction) if place in self.fused else f"{place} {instruction.name}"
                if key not in seen:
                    seen.add(key)
                    yield instruction, times, place

    def collective(self, instruction: Instruction, place: str) -> Collective:
        """Returns the communication of one instruction of a computation, which runs as often as that does."""
        kind = instruction.opcode.removesuffix("-start")
        put_in = sum(a.bytes for name in instruction.operands for a in self.computations[place][name].arrays)
        got_out = sum(array.bytes for array in instruction.arrays)
        if instruction.opcode in ("all-gather-start", "collective-permute-start"):
            got_out -= put_in  # their result holds the operand too
        if kind == "all-reduce" and "all-reduce-scatter" in place:
            kind = "reduce-scatter"  # a TPU's: an all-reduce of which each device keeps a part
        groups = device_groups(instruction, self.partitions)
        return Collective(kind, max(put_in, got_out), self.times[place], groups)

    def collectives(self) -> list[Collective]:
        """Returns the communication that one device takes part in."""
        found = (self.collective(instruction, place) for instruction, _, place in self._communication())
        return [each for each in found if any(len(group) > 1 for group in each.groups)]


def chain(collective: Instruction) -> str:
    """Returns what the steps of an asynchronous collective inside of fusions have in common."""
    return str([collective.attribute(f'{name}="?(\\d+)') for name in ("channel_id", "chain_id")])


def _root(computation: Mapping[str, Instruction]) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.root)


def _passes(user: Instruction) -> bool:
    """Whether an instruction of a fusion only hands its operands on, as to the next step of a collective."""
    return user.opcode in ("tuple", "custom-call") or user.opcode.removesuffix("-start") in COLLECTIVES


def _moved(instruction: Instruction, around: Mapping[str, Instruction]) -> float:
    """Bytes of main memory that an instruction reads and writes if it touches its operands and results once."""
    arrays = [*instruction.arrays, *(array for name in instruction.operands for array in around[name].arrays)]
    return sum(array.far_bytes for array in arrays)


def _convolution_products(product: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Counts the multiplications of a convolution, which is how a TPU writes matrix products.

    Batch axes of a product become spatial axes with strides and dilations; positions that fall on padding or
    between dilated elements cost nothing.
    """
    labels = re.match(r"([\w?]+)_([\w?]+)->([\w?]+)", product.attribute(r"dim_labels=([^,\s]+)") or "")
    assert labels is not None, "a convolution has labels"
    lhs, rhs, out = labels.groups()
    outputs = product.arrays[0].dims
    window = product.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(part.split("=", 1) for part in window.split() if "=" in part)
    count = outputs[out.index("b")] * outputs[out.index("f")] * right[rhs.index("i")]
    spatial = sorted(label for label in lhs if label.isdigit())
    for axis, label in enumerate(spatial):

        def field(name: str, default: str, axis: int = axis) -> str:
            return fields[name].split("x")[axis] if name in fields else default

        size = int(field("size", "1"))
        low = int(field("pad", "0_0").split("_")[0])
        stride, left_step, right_step = (int(field(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        inputs, places = left[lhs.index(label)], outputs[out.index(label)]
        # Place p and kernel element k meet input element (p * stride + k * right_step - low) / left_step.
        at = np.arange(places)[:, None] * stride + np.arange(size)[None] * right_step - low
        count *= int(((at >= 0) & (at % left_step == 0) & (at // left_step < inputs)).sum())
    groups = int(product.attribute(r"batch_group_count=(\d+)") or 1)
    return count / groups
