"""`selfadapt plan`: the memory and time of a run, from a config, a model's `config.json` and a topology."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from selfadapt.defaults import resolve
from selfadapt.engine import memory
from selfadapt.errors import UserError
from selfadapt.models import hf, tensor_files
from selfadapt.models.model import EMBEDDED, Model, read_architecture
from selfadapt.parallel import sharding
from selfadapt.plan.advice import advise
from selfadapt.plan.costs import KINDS, Cost, cost
from selfadapt.plan.programs import abstract_model
from selfadapt.plan.protocols import PROTOCOLS, Variant
from selfadapt.plan.round import Round
from selfadapt.plan.steps import Machine
from selfadapt.plan.topology import Topology, find
from selfadapt.plan.workload import Assumed, Workload, workload

Described = Round | Variant


def plan(
    config: Any,
    topology: str,
    model: str | None = None,
    assumed: Assumed | None = None,
    progress: Callable[[str], None] = lambda line: None,
    only: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compiles the programs of an experiment for a topology and returns their costs.

    Nothing runs and no weights are read. Costs are those of one device; times are rooflines: each program is
    as slow as the slowest of its matrix products, its memory traffic and its collectives, at the chip's
    published rates and with perfect overlap. Host code, latencies and compilation are not counted.

    Args:
      config: the experiment, or that of an evaluation protocol (`selfadapt.plan.protocols.PROTOCOLS`).
      topology: such as "v5e:4x4", or "local" for the devices of this process.
      model: a directory with a `config.json`, or the file; `config.model` by default.
      assumed: sizes of texts; by default those of the data and tokenizer where they can be read.
      progress: called with a line before each program is compiled.
      only: the phases to compile, all by default; the others are left out of the plan and of its time.

    Returns:
      What `docs/scaling.md` describes, as JSON values.

    Raises:
      UserError: a field, the model or the topology cannot be used.
    """
    config = resolve(config)
    check(config)
    machine_for = find(topology)
    architecture = read_model(model or config.model)
    work = workload(config, architecture, assumed)
    described = describe(config, architecture, work, machine_for)
    result = summary(described, machine_for, costs_of(described, machine_for, only, progress))
    if not result["fits"]:

        def again(changed: Any, other: Topology) -> list[Cost]:
            return costs_of(describe(changed, architecture, work, other), other, only, progress, only_memory=True)

        result["advice"] = advise(config, machine_for, architecture.config, again)
    return result


def check(config: Any) -> None:
    """Checks that a run can be planned.

    Raises:
      UserError: it cannot.
    """
    if "protocol" in config:
        if config.protocol.name not in PROTOCOLS:
            raise UserError(
                f"config.protocol.name is {config.protocol.name!r}, which cannot be planned; there are plans of "
                f"{', '.join(PROTOCOLS)} and of what `selfadapt train` runs"
            )
    elif config.halving:
        raise UserError(f"config.halving is {tuple(config.halving)}; stages cannot be planned, so plan without them")


def read_model(name: str) -> Model:
    """Returns a model without weights: its architecture, and its tokenizer if there is one.

    Raises:
      CheckpointError: there is no `config.json`.
      UserError: the model is not supported.
    """
    path = pathlib.Path(EMBEDDED.get(name, name)).expanduser()
    directory = path.parent if path.suffix == ".json" else path
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.exists():
        raise tensor_files.CheckpointError(
            f"there is no {file}; give --model a directory that holds the model's config.json, or the file (weights "
            "are not needed)"
        )
    architecture, raw, _ = read_architecture(file)
    return Model(architecture, {}, raw_config=raw, name=name, directory=directory)


def machine(config: Any, topology: Topology) -> Machine:
    """Returns the mesh that a config asks for on a topology.

    Raises:
      UserError: its sizes do not multiply to the number of devices, or `free_memory_gib` is not a positive number.
    """
    sizes = dict(config.mesh)
    mesh = sharding.make_mesh(**sizes, devices=topology.devices)
    if mesh is None and topology.name != "local":  # one chip that is not attached: programs must still name it
        kinds = (jax.sharding.AxisType.Auto,) * 3
        mesh = jax.sharding.Mesh(np.asarray(topology.devices[:1]).reshape(1, 1, 1), sharding.AXES, axis_types=kinds)
    return Machine(mesh, topology.chip.memory, memory.given_bytes(config.free_memory_gib))


def describe(config: Any, model: Model, work: Workload, topology: Topology) -> Described:
    """Returns the description of a run's programs.

    Args:
      config: the resolved config.
      model: the model, of which only the architecture is used.
      work: the run's work.
      topology: where it runs.

    Raises:
      UserError: the mesh does not have the topology's number of devices, or the outer update cannot be planned.
    """
    where = machine(config, topology)
    kind: type[Described] = PROTOCOLS[config.protocol.name] if "protocol" in config else Round
    return kind(config, abstract_model(model, where, config.dtype), where, work)


def costs_of(
    described: Described,
    topology: Topology,
    only: Sequence[str] | None,
    progress: Callable[[str], None],
    only_memory: bool = False,
) -> list[Cost]:
    """Returns the costs of the programs; with `only_memory` it stops at the first that does not fit.

    Raises:
      UserError: there is no phase that `only` names.
    """
    where, phases = described.machine, described.phases()
    if unknown := [phase for phase in only or () if phase not in phases]:
        raise UserError(f"a plan has no phase {unknown[0]!r}; there are {', '.join(phases)}")
    costs: list[Cost] = []
    for phase, steps in phases.items():
        if only is not None and phase not in only:
            continue
        try:
            for step in steps():
                progress(f"{topology.name}: {step.name}")
                costs.append(cost(step, where, topology, described.config.dtype))
                if only_memory and not costs[-1].fits:
                    return costs
        except MemoryError as error:
            weights = dict.fromkeys(KINDS, 0.0) | {"weights": float(described.weights + described.others)}
            costs.append(Cost(phase, phase, 0, 0, 0, weights, where.memory, problem=str(error)))
            if only_memory:
                return costs
    return costs


def summary(described: Described, topology: Topology, costs: list[Cost]) -> dict[str, Any]:
    """Returns a plan as JSON values."""
    config, model, work = described.config, described.model, described.work
    seconds = dict.fromkeys([phase for phase in described.counted if any(each.phase == phase for each in costs)], 0.0)
    for each in costs:
        if each.phase in seconds:
            seconds[each.phase] += each.runs * each.time
    serial = sum(each.runs * each.serial for each in costs if each.phase in seconds)
    edits = described.edits
    fits = all(each.fits for each in costs)
    total = sum(seconds.values())
    whole = fits and total > 0
    mesh = described.machine.mesh
    parameters = sum(math.prod(weight.array_shape(model.config.num_layers)) for weight in hf.weights(model.config))
    written = edits * work.edit
    return {
        "topology": {
            "name": topology.name,
            "devices": 1 if mesh is None else mesh.size,
            "mesh": dict.fromkeys(sharding.AXES, 1) if mesh is None else dict(mesh.shape),
            "measured": topology.measured,
            "chip": dataclasses.asdict(topology.chip),
        },
        "model": {"name": model.name, "parameters": parameters, "dtype": config.dtype},
        "run": {
            "name": described.name,
            "sizes": described.sizes(),
            "tokens": work.source,
            "seconds": seconds if whole else None,
            "serial_seconds": serial if whole else None,
            "edits_per_second": edits / total if whole else None,
            "new_tokens_per_second": written / seconds["sample"] if whole and "sample" in seconds else None,
        },
        "fits": fits,
        "programs": [each.to_json() for each in costs],
        "advice": [],
    }


def to_json(result: dict[str, Any]) -> str:
    """Returns a plan as an indented JSON document."""
    return json.dumps(result, indent=2)
