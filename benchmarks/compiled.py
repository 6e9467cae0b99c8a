r"""What compiled programs need beyond the least that their work takes, on TPUs and GPUs that need not be there.

    python -m benchmarks.compiled --rows=flops,bytes --json=compiled.json

Each row compiles a program ahead of time as `selfadapt plan` does (`pip install 'selfadapt[tpu,gpu]'`), and divides
what it takes by what is unavoidable, or by what there is. Limits are what a change must not exceed, goals what is worth
reaching; the exit status is 1 if a limit is exceeded. A program takes 10 to 60 s to compile on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt import functional
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains.common import inner_update
from selfadapt.engine import flops
from selfadapt.engine.policy import Trainable
from selfadapt.functional import Contexts, Outer, Texts, Vocabulary
from selfadapt.models import attention
from selfadapt.models.lora import Spec, resolve_targets
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.parallel import sharding
from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan import costs, report, topology
from selfadapt.plan.steps import Step
from selfadapt.plan.workload import Assumed, workload

ROOT = pathlib.Path(__file__).parents[1]
GIB = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An experiment on a slice.

    Attributes:
      model: a `config.json`.
      slice: the topology.
      fields: fields of the config that differ from SEAL's published experiment.
    """

    model: str
    slice: str
    fields: dict[str, Any]

    @functools.cached_property
    def config(self) -> Any:
        """The experiment: 1024 edits, no float32 copies of merged weights, and the case's own fields."""
        fields = {"contexts": 256, "edits": 4, "inner_runs": 1, "outer.rest_em.keep_master": False}
        fields |= {"sampling.max_new_tokens": 2048} | self.fields
        config = str(ROOT / "configs" / "seal" / "paper" / "knowledge_qwen2p5_7b.py")
        return resolve(load_config(config, {name: str(value) for name, value in fields.items()}))

    @functools.cached_property
    def topology(self) -> topology.Topology:
        """The slice."""
        return topology.find(self.slice)

    @functools.cached_property
    def planner(self) -> Any:
        """The programs of a round, with assumed sizes of texts."""
        model = report.read_model(str(ROOT / self.model))
        return report.describe(self.config, model, workload(self.config, model, Assumed()), self.topology)

    def cost(self, step: Step) -> costs.Cost:
        """Compiles a program."""
        print(f"compiling {self.slice}: {step.name}", file=sys.stderr, flush=True)
        return costs.cost(step, self.planner.machine, self.topology, self.config.dtype)

    @functools.cached_property
    def training(self) -> list[tuple[Step, costs.Cost]]:
        """The training steps of `adapt`, compiled."""
        return [(step, self.cost(step)) for step in self.planner.training()]


@dataclasses.dataclass(frozen=True)
class Row:
    """One value.

    Attributes:
      name: how `--rows` names it.
      what: what is divided by what.
      case: the experiment.
      measure: returns the value, and the costs that it comes from.
      limit: what it must not exceed.
      goal: what is worth reaching.
    """

    name: str
    what: str
    case: Case
    measure: Callable[[Case], tuple[float, Sequence[costs.Cost]]]
    limit: float
    goal: float


def shape_of(step: Step) -> tuple[int, int, int]:
    """Returns slots, rows and time of a training step."""
    found = re.search(r" (\d+)x(\d+)x(\d+)", step.name)
    assert found is not None, "a training step has its shape in its name"
    slots, rows, time = map(int, found.groups())
    return slots, rows, time


def flops_of_adapt(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """FLOPs of a round's training steps, by those of their tokens if nothing is computed twice."""
    config, update = case.planner.model.config, case.planner.work.updates[0]
    adapter = flops.adapter_size(config, Spec(update.rank, update.alpha, resolve_targets(update.targets, config)))
    done = least = 0.0
    for step, cost in case.training:
        slots, rows, time = shape_of(step)
        done += step.runs * (cost.flops or 0.0)
        least += step.runs * slots * rows * flops.training(config, time, adapter=adapter) / len(case.topology.devices)
    return done / least, [cost for _, cost in case.training]


def bytes_of_adapt(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Memory traffic of a round's training steps, by two passes over the weights and one over the adapters' state."""
    moved = least = 0.0
    for step, cost in case.training:
        stack = jax.tree.leaves(step.inputs["adapters"])[0].shape[0]
        state = device_bytes((step.inputs["adapters"], step.inputs["optimizer"])) * shape_of(step)[0] / stack
        moved += step.runs * (cost.bytes or 0.0)
        least += step.runs * (2 * device_bytes(step.inputs["weights"]) + state)
    return moved / least, [cost for _, cost in case.training]


def memory_of_adapt(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Memory of the largest training step, or of joining all chunks, by what there is."""
    largest, *_, last = case.planner.training()
    found = [case.cost(step) for step in (largest, last)]
    return max(each.needed / each.limit for each in found), found


def temporaries_of_adapt(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Temporaries of the largest training step, GiB."""
    found = case.cost(next(iter(case.planner.training())))
    return found.memory["temporaries"] / GIB, [found]


def waiting_of_adapt(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Compute of a round's training steps and the collectives that no work hides, by the compute."""
    computing = sum(step.runs * cost.seconds["compute"] for step, cost in case.training)
    waiting = sum(step.runs * (cost.exposed or 0.0) for step, cost in case.training)
    return (computing + waiting) / computing, [cost for _, cost in case.training]


@functools.cache
def decoding(case: Case) -> tuple[Step, costs.Cost]:
    """Compiles the program that writes the first tokens of edits, all rows of them."""
    _, step, *_ = case.planner.sampling()
    return step, case.cost(step)


def temporaries_of_decoding(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Temporaries of writing edits, by the cache."""
    _, found = decoding(case)
    return found.memory["temporaries"] / found.memory["cache"], [found]


def bytes_of_decoding(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Memory traffic for one token of each text, by one pass over weights and cache."""
    step, found = decoding(case)
    least = device_bytes(step.inputs["weights"]) + device_bytes(step.inputs["cache"])
    return (found.bytes or 0.0) / step.trips / least, [found]


def bytes_of_filtering(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Memory traffic for one token of each text, by that without top-p."""
    plain = dataclasses.replace(case, fields=case.fields | {"sampling.top_p": 1.0})
    found = [decoding(each)[1] for each in (case, plain)]
    filtered, unfiltered = (cost.bytes or 0.0 for cost in found)
    return filtered / unfiltered, found


def attention_of_rows(case: Case, time: int, attend: Callable[..., Any]) -> Step:
    """Returns the attention of one layer, with its gradients, of a row on each shard."""
    machine, config = case.planner.machine, case.planner.model.config
    rows = machine.shards

    def heads(count: int, name: str) -> Any:
        return machine.array((rows, count, time, config.head_dim), jnp.bfloat16, ("batch", name, None, None))

    q, k = heads(config.num_heads, "heads"), heads(config.num_kv_heads, "kv_heads")
    segments = machine.array((rows, time), jnp.int32, ("batch", None))

    def run(q, k, v, segments, gradient):
        visibility = attention.Visibility(jnp.arange(time)[None], segments, segments)
        found, pull = jax.vjp(lambda q, k, v: attend(q, k, v, visibility, None), q, k, v)
        return found, pull(gradient)

    def lower() -> Any:
        with sharding.using(machine.mesh):
            return jax.jit(run).lower(q, k, k, segments, q)

    return Step(f"{attend.__name__} {rows}x{time}", "adapt", 1, rows * time, rows * time, {}, {}, lower)


def time_of_long_rows(case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Roofline time of the attention of long rows, by that in blocks of queries."""
    ways = (attention.attention_of_long_rows, attention.attention_in_blocks)
    found = [case.cost(attention_of_rows(case, 8192, attend)) for attend in ways]
    return found[0].time / found[1].time, found


def one_program(case: Case, name: str) -> Step:
    """Returns a program of `selfadapt.functional` with abstract arguments, its contexts sharded over `data`.

    Args:
      case: the experiment; the texts have the sizes that its plan assumes.
      name: "episode" or "outer_round".
    """
    planner, config, sizes = case.planner, case.config, Assumed()
    machine, model = planner.machine, planner.model
    count, samples, written = config.contexts, config.edits, sizes.edit

    def whole(tree: Any) -> Any:  # on every device
        return jax.tree.map(lambda leaf: machine.array(leaf.shape, leaf.dtype, (None,) * leaf.ndim), tree)

    def divided(*shape: int, dtype: Any = jnp.int32) -> Any:
        return machine.array(shape, dtype, ("adapters", *[None] * (len(shape) - 1)))

    def texts(length: int, *more: int) -> Texts:
        return Texts(divided(count, *more, length), divided(count, *more))

    contexts = Contexts(
        prompts=texts(planner.work.prompts[0]),
        prefixes=texts(sizes.line // 4),
        passages=texts(sizes.passage),
        questions=texts(sizes.question, sizes.questions),
        answers=texts(sizes.question // 8, sizes.questions),
    )
    flags = np.zeros(model.config.vocab_size, np.int8)
    vocabulary = whole(Vocabulary(flags, flags.astype(bool), np.zeros(0, np.int32)))
    lines = written // sizes.line + 1
    update = inner_update(config, model.config)
    inner = whole(jax.eval_shape(lambda: functional.inner_update(model.config, update, lines + 1)))
    given: list[Any] = [contexts, vocabulary, divided(count, samples, 2, dtype=jnp.uint32), inner]
    options: dict[str, Any] = {"new_tokens": written, "line_tokens": sizes.line, "remat": True}
    inputs = {"weights": model.params, "adapters": inner.lora}
    if name == "episode":

        def run(params, *given):
            return functional.episode(params, model.config, *given, **options)

    else:
        policy = Policy(Model(model.config, model.params))
        outer = Outer(Trainable.of(policy, update, "lora"))
        state = whole(jax.eval_shape(lambda: functional.writer(policy, update)[0]))
        given.insert(0, state)
        inputs["optimizer"] = state

        def run(params, *given):
            return functional.outer_round(params, *given, outer=outer, **options)

    def lower() -> Any:
        with sharding.using(machine.mesh):
            return jax.jit(run).lower(model.params, *given)

    edits = count * samples
    return Step(f"{name} {count}x{samples}", name, 1, edits * written, edits * written, inputs, {}, lower, written - 1)


@functools.cache
def compiled(case: Case, name: str) -> costs.Cost:
    """Compiles a program of `selfadapt.functional`."""
    return case.cost(one_program(case, name))


def memory_of(name: str, case: Case) -> tuple[float, Sequence[costs.Cost]]:
    """Memory of a program of `selfadapt.functional`, by what there is."""
    found = compiled(case, name)
    return found.needed / found.limit, [found]


QWEN, LARGER = "docs/models/qwen2p5_7b.json", "docs/models/qwen3_14b.json"
SHARDS = {"mesh.data": 4, "mesh.tensor": 4}
V5P = Case(QWEN, "v5p:2x2x2", {"mesh.data": 8, "at_once": 64})
MANY = Case(QWEN, "v5e:4x4", SHARDS | {"at_once": 1024, "free_memory_gib": 5})
FOURTEEN = Case(LARGER, "v6e:4x4", SHARDS | {"at_once": 64, "free_memory_gib": 5})
SAMPLING = Case(QWEN, "v5e:4x4", SHARDS | {"at_once": 64})
MANY_TEXTS = Case(QWEN, "v5p:2x2x2", {"mesh.data": 8, "at_once": 256})
GPU = Case(QWEN, "h200:1", {"at_once": 64})
WHOLE = Case(QWEN, "v5p:2x2x2", {"mesh.data": 8, "contexts": 8, "edits": 4})

ROWS = (
    Row("flops", "adapt: FLOPs / those of its tokens", V5P, flops_of_adapt, 1.05, 1.05),
    Row("bytes", "adapt: bytes / (weights twice, adapters once)", V5P, bytes_of_adapt, 1.9, 1.5),
    Row("many", "1024 adapters in 5 GiB: memory / what there is", MANY, memory_of_adapt, 0.8, 0.8),
    Row("larger", "14B, adapt, activations recomputed: temporaries, GiB", FOURTEEN, temporaries_of_adapt, 2.5, 4.0),
    Row("tensor", "adapt: (compute + exposed links) / compute", SAMPLING, waiting_of_adapt, 1.18, 1.15),
    Row("decoding_memory", "decoding: temporaries / cache", SAMPLING, temporaries_of_decoding, 0.02, 0.1),
    Row("decoding", "decoding: bytes of a token / (weights and cache once)", SAMPLING, bytes_of_decoding, 0.95, 1.05),
    Row("many_texts", "the same, 1024 texts at once", MANY_TEXTS, bytes_of_decoding, 1.12, 1.05),
    Row("many_texts_memory", "1024 texts: temporaries / cache", MANY_TEXTS, temporaries_of_decoding, 0.06, 0.1),
    Row("filtering", "bytes of a token with top-p / without", MANY_TEXTS, bytes_of_filtering, 1.07, 1.05),
    Row("long_rows", "attention of 8192 tokens: time / in blocks of queries", V5P, time_of_long_rows, 0.16, 0.2),
    Row("gpu_bytes", "adapt on a GPU: bytes / (weights twice, adapters once)", GPU, bytes_of_adapt, 7.0, 5.0),
    Row("gpu_decoding", "decoding on a GPU: bytes / (weights and cache once)", GPU, bytes_of_decoding, 1.45, 1.05),
    Row("episode", "episode: memory / what there is", WHOLE, functools.partial(memory_of, "episode"), 0.2, 0.2),
    Row("round", "outer_round: memory / what there is", WHOLE, functools.partial(memory_of, "outer_round"), 0.2, 0.2),
)


def found(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Compiles the programs of some rows; returns their values and the costs that they come from as JSON values."""
    results = []
    for row in rows:
        value, programs = row.measure(row.case)
        results.append(
            {"name": row.name, "what": row.what, "value": value, "limit": row.limit, "goal": row.goal}
            | {"slice": row.case.slice, "programs": [each.to_json() for each in programs]}
        )
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Returns rows as a table in Markdown, with the memory and the roofline time of the programs."""
    lines = ["| row | value | limit | goal | slice | programs |", "| --- " * 6 + "|"]
    for row in results:
        programs = "; ".join(
            f"{each['name']}: {each['needed'] / GIB:.1f} of {each['limit'] / GIB:.1f} GiB, "
            f"{1e3 * each['roofline_seconds']:.4g} ms" + (f" ({each['problem']})" if each["problem"] else "")
            for each in row["programs"]
        )
        values = " | ".join(f"{row[name]:.3g}" for name in ("value", "limit", "goal"))
        lines.append(f"| {row['what']} | {values} | {row['slice']} | {programs} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, rows: Sequence[Row] = ROWS) -> int:
    """Prints the table; returns 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in rows]
    parser.add_argument("--rows", default=",".join(names), help=f"which rows, of {', '.join(names)}")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the values and all costs")
    options = parser.parse_args(argv)
    wanted = options.rows.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"--rows has no {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    results = found(row for row in rows if row.name in wanted)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return int(any(not each["value"] <= each["limit"] for each in results))


if __name__ == "__main__":
    sys.exit(main())
