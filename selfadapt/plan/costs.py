"""The costs of a compiled program: memory by kind, FLOPs, memory traffic, communication, and its roofline time."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax

from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan.hlo import Collective, Operation, Program, exposed_seconds
from selfadapt.plan.steps import Machine, Step
from selfadapt.plan.topology import Topology

KINDS = ("weights", "adapters", "optimizer", "cache", "other", "temporaries")
_EXHAUSTED = (r"Used ([\d.]+)([KMGT]?) of", r"total memory required for HLO temporaries \(([\d.]+)([KMGT]?)\)")
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@dataclasses.dataclass(frozen=True)
class Cost:
    """The costs of one run of a program on each device.

    Attributes:
      name: the name of the `Step`; `phase`, `runs`, `tokens` and `padded` are the step's too.
      memory: bytes by kind (`KINDS`): "other" are the arguments beyond the kinds named, with the padding of their
        layout; "temporaries" includes results that do not overwrite an argument.
      limit: bytes available.
      flops: of matrix products, recomputed ones included; `None` where compilation failed.
      bytes: read from and written to memory.
      serial: seconds if its operations run one after another, each at the rate of its products or of its memory
        traffic, whichever takes longer, and nothing overlaps with the collectives.
      seconds: at the chip's rates: "compute", "memory" and "links" (collectives).
      exposed: seconds of collectives that no work hides, in the order in which the compiled program runs; `None` where
        nothing was compiled.
      collectives: for each kind and mesh axes how many times, and the total bytes.
      problem: why it cannot run, `None` if it can.
    """

    name: str
    phase: str
    runs: float
    tokens: float
    padded: float
    memory: dict[str, float]
    limit: float
    flops: float | None = None
    bytes: float | None = None
    serial: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    exposed: float | None = None
    collectives: tuple[dict[str, Any], ...] = ()
    problem: str | None = None

    @property
    def needed(self) -> float:
        """Bytes needed per device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the program runs on the devices."""
        return self.problem is None and self.needed <= self.limit

    @property
    def bound(self) -> str:
        """The name of the largest of `seconds`."""
        return max(self.seconds, key=self.seconds.__getitem__, default="")

    @property
    def time(self) -> float:
        """Seconds of one run at the roofline, with perfect overlap."""
        return max(self.seconds.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Returns the costs and the values derived from them as JSON values."""
        fields = dataclasses.asdict(self) | {"needed": self.needed, "fits": self.fits}
        rate = self.tokens / self.time if self.time else None
        return fields | {"bound": self.bound, "roofline_seconds": self.time, "tokens_per_second": rate}


def cost(step: Step, machine: Machine, topology: Topology, dtype: str) -> Cost:
    """Compiles a step and returns its costs.

    Args:
      step: the program.
      machine: the devices that it is compiled for.
      topology: the same devices with their rates.
      dtype: the dtype of its matrix products.
    """
    memory = dict.fromkeys(KINDS, 0.0)
    for kind, tree in step.inputs.items():
        memory[kind] += device_bytes(tree)
    inputs = sum(memory.values())
    for kind, held in step.held.items():
        memory[kind] += held
    fields: dict[str, Any] = dict(
        name=step.name, phase=step.phase, runs=step.runs, tokens=step.tokens, padded=step.padded, limit=machine.memory
    )
    if step.lower is None:
        moved = 2 * inputs
        seconds = {"memory": moved / topology.chip.bandwidth}
        return Cost(**fields, memory=memory, flops=0.0, bytes=moved, serial=seconds["memory"], seconds=seconds)
    if sum(memory.values()) > machine.memory:
        return Cost(**fields, memory=memory, problem="its arguments alone do not fit")
    try:
        compiled = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Cost(**fields, memory=_exhausted(memory, str(error)), problem=str(error).split("\n")[0])
    sizes = compiled.memory_analysis()
    memory["other"] += max(0.0, sizes.argument_size_in_bytes - inputs)
    memory["temporaries"] += sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
    memory["temporaries"] += max(0, sizes.output_size_in_bytes - sizes.alias_size_in_bytes)
    program = Program(compiled.as_text(), step.trips)
    peak, bandwidth = topology.chip.peak_flops(dtype), topology.chip.bandwidth
    operations = list(program.operations())
    flops, moved = (sum(each.times * getattr(each, name) for each in operations) for name in ("flops", "bytes"))
    places = tuple(topology.devices[:1]) if machine.mesh is None else tuple(machine.mesh.devices.flat)

    @functools.cache  # a program has the same few collectives again and again
    def link(collective: Collective) -> float:
        return topology.seconds(collective, places)

    @functools.cache
    def links(collective: Collective) -> Collection[Any]:
        return topology.routes(collective, places)

    def alone(operation: Operation) -> float:
        return max(operation.flops / peak, operation.bytes / bandwidth)

    busy: dict[Any, float] = collections.defaultdict(float)  # seconds of each link; `None`: of all
    for each in program.collectives():
        for used in links(each) or (None,):
            busy[used] += each.times * link(each)
    seconds = {
        "compute": flops / peak,
        "memory": moved / bandwidth,
        "links": busy.pop(None, 0.0) + max(busy.values(), default=0.0),
    }
    return Cost(
        **fields,
        memory=memory,
        flops=flops,
        bytes=moved,
        serial=seconds["links"] + sum(each.times * alone(each) for each in operations),
        seconds=seconds,
        exposed=exposed_seconds(program, link, alone, links),
        collectives=_grouped(program, {} if machine.mesh is None else machine.mesh.shape),
    )


def _exhausted(memory: dict[str, float], message: str) -> dict[str, float]:
    """Adds the temporaries that the compiler reports for a program that is too large."""
    for pattern, is_total in zip(_EXHAUSTED, (True, False), strict=True):
        if (found := re.search(pattern, message)) is not None:
            needed = float(found[1]) * 2 ** _UNITS[found[2]]
            return memory | {"temporaries": max(0.0, needed - sum(memory.values()) if is_total else needed)}
    return memory


def _grouped(program: Program, mesh_shape: Mapping[str, int]) -> tuple[dict[str, Any], ...]:
    """Adds up collectives of one kind over the same axes, the largest first."""
    totals: dict[tuple[str, tuple[str, ...]], list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for each in program.collectives():
        total = totals[each.kind, each.axes(mesh_shape)]
        total[0] += each.times
        total[1] += each.times * each.bytes
    return tuple(
        {"kind": kind, "axes": list(axes), "times": times, "bytes": size}
        for (kind, axes), (times, size) in sorted(totals.items(), key=lambda entry: -entry[1][1])
    )
