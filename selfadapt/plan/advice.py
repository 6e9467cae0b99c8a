"""Changes that make an experiment fit in memory, each compiled before it is proposed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

from selfadapt.errors import UserError
from selfadapt.models.config import ModelConfig
from selfadapt.parallel import chips
from selfadapt.parallel.sharding import AXES
from selfadapt.plan.costs import Cost
from selfadapt.plan.topology import Topology, find

ENOUGH = 2  # proposals that fit, each of another kind, after which the search ends
# Slices that can be ordered, the smallest first (the pages that selfadapt/parallel/chips.py names).
_SLICES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16"),
}
_HOSTS = ("1", "2", "4", "8")  # GPUs of a host


def advise(
    config: Any,
    topology: Topology,
    architecture: ModelConfig,
    costs: Callable[[Any, Topology], list[Cost]],
) -> list[dict[str, Any]]:
    """Returns changes that make every program fit, and those that were tried and do not.

    Args:
      config: the experiment that does not fit.
      topology: its topology.
      architecture: its model.
      costs: compiles the programs of a changed experiment, stopping at the first that does not fit.

    Returns:
      For each change its command-line `change`, whether it `fits`, and the bytes per device that the largest
      program `needed` and its `limit`.
    """
    tried: list[dict[str, Any]] = []
    needed: dict[str, float] = {}  # by the last change of each kind
    done: set[str] = set()
    for kind, change, changed, other in _changes(config, topology, architecture):
        if kind in done:
            continue
        try:
            found = costs(changed, other)
        except UserError:  # such a mesh is not possible
            continue
        worst = max(found, key=lambda each: each.needed)
        fits = all(each.fits for each in found)
        tried.append({"change": change, "fits": fits, "needed": worst.needed, "limit": worst.limit})
        if sum(each["fits"] for each in tried) == ENOUGH:
            break
        # A kind of change is not tried again after it fits, or if it does not help at all.
        if fits or (kind == "at_once" and worst.needed >= needed.get(kind, math.inf)):
            done.add(kind)
        needed[kind] = worst.needed
    return sorted(tried, key=lambda each: not each["fits"])


def _changes(config: Any, topology: Topology, architecture: ModelConfig) -> Iterator[tuple[str, str, Any, Topology]]:
    """Yields changes, the cheapest first: their kind, their flags, and the experiment and topology they lead to."""
    base, flags = copy.deepcopy(config).unlock(), ""
    if config.dtype == "float32" and topology.platform != "cpu":
        base.dtype, flags = "bfloat16", "--config.dtype=bfloat16 "  # the others build on it
        yield "dtype", flags.strip(), base, topology

    def reshaped(shape: tuple[int, ...]) -> tuple[str, Any]:
        other = copy.deepcopy(base)
        other.mesh.update(dict(zip(AXES, shape, strict=True)))
        return flags + " ".join(f"--config.mesh.{name}={size}" for name, size in zip(AXES, shape, strict=True)), other

    # A protocol has no such field.
    at_once = min(config.at_once, config.contexts * config.edits) if "at_once" in config else 1
    while at_once > 1:
        at_once //= 2
        other = copy.deepcopy(base)
        other.at_once = at_once
        yield "at_once", f"{flags}--config.at_once={at_once}", other, topology
    sizes = [config.mesh[name] for name in AXES]
    left = len(topology.devices) // abs(math.prod(sizes))
    now = tuple(left if size == -1 else size for size in sizes)
    devices, tensor = math.prod(now), now[2]
    parts = now[1] * now[2]  # that the weights are cut into
    while (parts := 2 * parts) <= devices:
        widest = math.gcd(parts, architecture.num_kv_heads)  # `tensor` first: it suits the writing of texts better
        for size in dict.fromkeys((widest, 1)):
            yield "mesh", *reshaped((devices // parts, parts // size, size)), topology
    version = topology.name.partition(":")[0]
    layouts = _SLICES[chips.TPUS[version].torus] if version in chips.TPUS else _HOSTS if version in chips.GPUS else ()
    for each in [each for each in layouts if _chips(each) > devices][:3]:
        larger = find(f"{version}:{each}")
        change, other = reshaped((1, len(larger.devices) // tensor, tensor))
        yield "slice", f"--topology={larger.name} {change}", other, larger


def _chips(layout: str) -> int:
    return math.prod(map(int, layout.split("x")))
