"""The engine's speed: many updates at once, compared with torch + PEFT and with the machine's peak rate.

    python -m benchmarks.engine [--runs N] [--parts NAMES] [--quick] [--json FILE]

All sides use random weights and the same cores, in turns. PEFT trains in as many processes as there are cores, each
pinned to one, which share the updates. Where a time has a range it is the median of `--runs` runs, between the least
and the most. On a CPU in float32; on an accelerator in bfloat16, without PEFT and with a 1.5B and a 7B shape besides.
`--quick` runs a smoke test with tiny sizes. Prints tables and JSON. Needs torch and peft.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.host import host_costs
from selfadapt import TokenSequence, Update, adapt, allocator, generate
from selfadapt.engine import memory, runtime
from selfadapt.engine.adapt import training_step
from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.engine.adapt.work import plan_work
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import resolve_targets
from selfadapt.models.model import Model


def qwen2(vocab: int, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, tied: bool = True) -> ModelConfig:
    """Returns a Qwen2 architecture."""
    return ModelConfig(
        "qwen2",
        vocab,
        hidden,
        mlp,
        layers,
        heads,
        kv_heads,
        hidden // heads,
        tie_word_embeddings=tied,
        qkv_bias=True,
        max_position_embeddings=1024,
    )


SMALL = qwen2(700, 128, 384, 4, 4, 2)
MEDIUM = qwen2(32_000, 768, 2048, 12, 12, 4)
LARGE = {"1.5B": qwen2(151_936, 1536, 8960, 28, 12, 2), "7B": qwen2(152_064, 3584, 18_944, 28, 28, 4, tied=False)}
TOY = qwen2(97, 32, 64, 2, 4, 2)


@dataclasses.dataclass(frozen=True)
class Size:
    """The amount of work of each part.

    Attributes:
      small: the architecture of the many small updates.
      updates: the number of small updates.
      epochs: epochs of each update.
      shortest: the least tokens of their sequences.
      longest: the most tokens.
      medium: the architecture of the large products.
      medium_updates: updates at that size.
      medium_time: tokens per row at that size.
      host: adapters, and slots of a training step, for the host's part.
      counts: adapters at once, for the cost of each.
      depths: layers whose compilation is timed.
      new_tokens: tokens decoded per row.
      rows: rows decoded at once.
      products: sides of the square products that find the machine's rate.
    """

    small: ModelConfig = SMALL
    updates: int = 64
    epochs: int = 10
    shortest: int = 6
    longest: int = 60
    medium: ModelConfig = MEDIUM
    medium_updates: int = 16
    medium_time: int = 96
    host: tuple[tuple[int, int], ...] = ((1024, 64), (64, 16))
    counts: tuple[int, ...] = (1, 4, 16, 64, 256)
    depths: tuple[int, ...] = (2, 24)
    new_tokens: int = 64
    rows: tuple[int, ...] = (1, 16, 64)
    products: tuple[int, ...] = (512, 1024, 2048)


QUICK = Size(
    small=TOY,
    updates=2,
    epochs=1,
    longest=16,
    medium=TOY,
    medium_updates=2,
    medium_time=16,
    host=((4, 2),),
    counts=(1, 2),
    depths=(2, 6),
    new_tokens=4,
    rows=(1, 2),
    products=(64,),
)


def make_updates(config: ModelConfig, count: int, lengths: Callable, sequences: int = 8, **options) -> list[Update]:
    """Returns updates on random tokens; `lengths(generator)` draws the length of a sequence."""
    generator = np.random.default_rng(0)

    def sequence():
        return TokenSequence(tuple(generator.integers(0, config.vocab_size, lengths(generator)).tolist()))

    return [Update([sequence() for _ in range(sequences)], **options) for _ in range(count)]


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """Returns the best wall-clock time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return min(times)


def trained(model: Model, updates: Sequence[Update]) -> Any:
    """Trains the updates at once, to the end."""
    return jax.tree.leaves(adapt(model, updates).lora)


def training_flops(config: ModelConfig, updates: Sequence[Update]) -> float:
    """Counts the floating-point operations of training from the architecture, without padding.

    Two per weight and token for the frozen base, twice (forward, gradient of its input; the first layer's q, k and v
    need none); three times for the adapters; attention over whole squares, six products; the head on all but the
    last token.
    """
    shapes = config.projections()
    base = {name: i * o for name, (i, o) in shapes.items()}
    total = 0.0
    for update in updates:
        lora = sum(update.rank * sum(shapes[name]) for name in resolve_targets(update.targets, config))
        token = config.num_layers * (4 * sum(base.values()) + 6 * lora)
        token -= 2 * (base["q_proj"] + base["k_proj"] + base["v_proj"])
        for sequence in update.sequences:
            n = len(sequence.ids)
            attention = config.num_layers * 6 * 2 * n * n * config.num_heads * config.head_dim
            head = 4 * (n - 1) * config.hidden_size * config.vocab_size
            total += update.epochs * (n * token + attention + head)
    return total


def matrix_rate(size: Size, dtype: str) -> float:
    """Returns the best rate of square products, in operations a second."""
    best = 0.0
    product = jax.jit(jnp.dot)
    for side in size.products:
        left = jnp.ones((side, side), dtype)
        jax.block_until_ready(product(left, left))
        best = max(best, 2 * side**3 / seconds(lambda left=left: product(left, left), 30))
    return best


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the median of some values as `name`, and their range as `name_least` and `name_most`."""
    return {name: statistics.median(values), f"{name}_least": min(values), f"{name}_most": max(values)}


def compared(model: Model, updates: Sequence[Update], runs: int, peer: bool) -> dict[str, Any]:
    """Times `adapt` and, if `peer`, PEFT's processes on the same updates, in turns."""
    ours, theirs, processes = [], [], 0
    with contextlib.ExitStack() as stack:
        peft = stack.enter_context(peers.TrainingProcesses(model.config, updates[0])) if peer else None
        for _ in range(runs):
            ours.append(seconds(lambda: trained(model, updates)))
            if peft is not None:
                theirs.append(peft.seconds(updates))
                processes = peft.count
    result: dict[str, Any] = spread("at_once_seconds", ours)
    if peer:
        result |= {"peft_processes": processes} | spread("peft_seconds", theirs)
        result |= spread("times_peft", [other / own for own, other in zip(ours, theirs, strict=True)])
    return result


def many_updates(size: Size, dtype: str, rate: float, runs: int, peer: bool) -> dict[str, Any]:
    """(a) Many small updates at once, one by one, and in PEFT; (b) the share of the machine's rate."""
    model = Model.random(size.small, dtype=dtype)
    updates = make_updates(
        size.small, size.updates, lambda g: g.integers(size.shortest, size.longest + 1), epochs=size.epochs
    )
    first = seconds(lambda: trained(model, updates))
    times = compared(model, updates, runs, peer)
    trained(model, updates[:1])
    single = seconds(lambda: [trained(model, [update]) for update in updates])
    return {
        "steps": sum(update.epochs * len(update.sequences) for update in updates),
        "first_seconds": first,
        **times,
        "one_by_one_seconds": single,
        "times_one_by_one": single / times["at_once_seconds"],
        "padding_overhead": adapt(model, updates).stats["padding_overhead"],
        "rate_share": training_flops(size.small, updates) / times["at_once_seconds"] / rate,
    }


def large_products(config: ModelConfig, size: Size, dtype: str, rate: float, runs: int, peer: bool) -> dict[str, Any]:
    """(b) The share of the machine's rate where products are large, and PEFT on the same updates."""
    model = Model.random(config, dtype=dtype)
    updates = make_updates(config, size.medium_updates, lambda g: size.medium_time, sequences=2, epochs=1)
    trained(model, updates)
    times = compared(model, updates, runs, peer)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        **times,
        "rate_share": training_flops(config, updates) / times["at_once_seconds"] / rate,
    }


def adapter_costs(size: Size, dtype: str) -> list[dict[str, float]]:
    """(c) Seconds an adapter takes when K train at once, on rows of one length."""
    model = Model.random(size.small, dtype=dtype)
    costs = []
    for count in size.counts:
        updates = make_updates(size.small, count, lambda g: min(32, size.longest), epochs=2)
        trained(model, updates)
        costs.append({"adapters": count, "seconds_each": seconds(lambda u=updates: trained(model, u), 3) / count})
    return costs


def compile_seconds(size: Size, dtype: str) -> list[dict[str, float]]:
    """(c) Seconds to trace and compile a training step at several depths."""
    results = []
    for layers in size.depths:
        config = dataclasses.replace(size.small, num_layers=layers)
        model = Model.random(config, dtype=dtype)
        (update,) = make_updates(config, 1, lambda g: min(32, size.longest), epochs=1)
        (stream, *_) = plan_work(model, [update] * 8).chunks[0]
        lora = initial_adapters(config, stream.updates).lora
        state = training_step.initial_state(lora, optimizer=stream.optimizer, accumulate=False)
        batch = stream.batch(next(stream.training_steps()))
        start = time.perf_counter()
        options = dict(config=config, optimizer=stream.optimizer, remat=False, shards=1)
        training_step.lower(model.params, state, batch, None, **options).compile()
        results.append({"layers": layers, "seconds": time.perf_counter() - start})
    return results


def peak_memory(quick: bool) -> dict[str, float]:
    """(c) Peak memory of a process that trains at the medium size, beside the least it could need, in MiB."""
    command = [sys.executable, "-m", "benchmarks.engine", "--memory", *(["--quick"] if quick else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure_memory(size: Size) -> dict[str, float]:
    """Measures memory; `peak_memory` runs it in a separate process."""

    def resident() -> float:
        # The kernel's own record: getrusage's starts from that of the process which started this one.
        status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024

    jax.block_until_ready(jnp.ones(()))
    empty = resident()
    model = Model.random(size.medium)
    updates = make_updates(size.medium, size.medium_updates, lambda g: size.medium_time, sequences=2, epochs=1)
    trained(model, updates)
    config, (update, *_) = size.medium, updates
    streams = plan_work(model, updates).chunks[0]
    plan, step = streams[0].plan, next(streams[0].training_steps())
    slots = step.slots
    each = memory.adapter_bytes(config, update.rank, resolve_targets(update.targets, config))
    tokens = len(streams) * slots * size.medium_time
    least = {
        "weights": sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)),
        "adapters_and_moments": 3 * len(updates) * each,
        "gradients": len(streams) * slots * each,
        "activations": memory.activation_bytes(config, tokens, size.medium_time, step.shape in plan.remat, 4),
    }
    least = {name: value / 2**20 for name, value in least.items()}
    return {"peak": resident() - empty, "least": sum(least.values()), **least, "process_before": empty}


def decoding(config: ModelConfig, size: Size, dtype: str, peer: bool) -> list[dict[str, float]]:
    """(d) New tokens a second over all rows, for the base model, with an adapter for each row, and so in PEFT."""
    model = Model.random(config, dtype=dtype)
    results = []
    for rows in size.rows:
        updates = make_updates(config, rows, lambda g: 16, sequences=1, epochs=1)
        prompts = [list(update.sequences[0].ids) for update in updates]
        adapters = adapt(model, updates)
        options = {"max_new_tokens": size.new_tokens, "return_details": True}
        sides = {
            "base": lambda p=prompts, o=options: generate(model, p, **o),
            "adapters": lambda p=prompts, a=adapters, o=options: generate(model, [[x] for x in p], adapters=a, **o),
        }
        row = {"rows": rows}
        for side, work in sides.items():
            work()
            row[f"{side}_tokens_per_second"] = rows * size.new_tokens / seconds(work, 3)
        if peer:
            theirs = peers.decoding_seconds(config, updates, prompts, size.new_tokens, 3)
            row["peft_tokens_per_second"] = rows * size.new_tokens / theirs
            row["times_peft"] = row["adapters_tokens_per_second"] / row["peft_tokens_per_second"]
        results.append(row)
    return results


def machine(dtype: str) -> dict[str, Any]:
    """Returns what the numbers were measured on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else [platform.processor()]
    )
    return {
        "device": jax.devices()[0].device_kind,
        "cpu": (names or ["unknown"])[0],
        "cores": len(runtime.cores()),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "dtype": dtype,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def run(size: Size, quick: bool, runs: int, parts: Sequence[str]) -> dict[str, Any]:
    """Runs some parts, all of them by default; returns the results, in the units that their names say."""
    on_cpu = jax.default_backend() == "cpu"
    dtype = "float32" if on_cpu else "bfloat16"
    allocator.keep()
    rate = matrix_rate(size, dtype)
    work: dict[str, Callable[[], Any]] = {
        "many_updates": lambda: many_updates(size, dtype, rate, runs, peer=on_cpu),
        "large_products": lambda: large_products(size.medium, size, dtype, rate, runs, peer=on_cpu),
        "host": lambda: [host_costs(TOY, *counts, epochs=size.epochs, runs=runs) for counts in size.host],
        "adapter_costs": lambda: adapter_costs(size, dtype),
        "compile_seconds": lambda: compile_seconds(size, dtype),
        "decoding": lambda: decoding(size.small, size, dtype, peer=on_cpu),
    }
    if on_cpu and sys.platform.startswith("linux"):
        work["memory_mib"] = lambda: peak_memory(quick)
    if not on_cpu and not quick:
        for name, config in LARGE.items():
            work[f"large_products_{name}"] = functools.partial(large_products, config, size, dtype, rate, runs, False)
            work[f"decoding_{name}"] = functools.partial(decoding, config, size, dtype, False)
    if unknown := sorted(set(parts) - set(work)):
        raise SystemExit(f"--parts has no {unknown[0]!r}; there are {', '.join(work)}")
    found = {name: measure() for name, measure in work.items() if not parts or name in parts}
    return {"machine": machine(dtype), "gflops": rate / 1e9} | found


def table(result: dict[str, Any]) -> str:
    """Returns the results as Markdown tables, a part each."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    parts = []
    for part, value in result.items():
        rows = value if isinstance(value, list) else [value if isinstance(value, dict) else {part: value}]
        lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
        lines += [" | ".join(cell(v) for v in row.values()) for row in rows]
        parts.append("\n".join([f"{part}\n", *(f"| {line} |" for line in lines)]))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test in seconds")
    parser.add_argument("--runs", type=int, default=5, help="how often to time what is compared with PEFT")
    parser.add_argument(
        "--parts", default="", help="some parts only, by the names of their tables, such as host,decoding"
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the results to this file")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    if options.memory:
        print(json.dumps(measure_memory(size)))
        return
    result = run(size, options.quick, options.runs, [part for part in options.parts.split(",") if part])
    text = json.dumps(result, indent=1)
    print(table(result), text, sep="\n\n")
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
