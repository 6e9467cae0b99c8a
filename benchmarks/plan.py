r"""Compares the predictions of `selfadapt plan --topology=local` for a config with measured times.

    python -m benchmarks.plan --config=configs/quickstart.py

Each program is compiled as the plan compiles it and run on random weights; the time is the best of `--times`
runs, without the host's part. `--config.NAME=VALUE`, `--model` and `--tokens` are those of `selfadapt plan`.
"""

import argparse
import time

import jax
import numpy as np

from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.plan import costs, report, topology
from selfadapt.plan.workload import Assumed, workload

EXTEND_UNTIL = 4  # the position of the argument of the `extend` program that sets the number of tokens


def arguments(step, lowered, compiled):
    """Returns arrays for a program: random weights, and no text that ends before it must."""
    generator = np.random.default_rng(0)

    def value(info, where):
        if np.issubdtype(info.dtype, np.floating) or info.dtype == jax.numpy.bfloat16:
            array = generator.normal(0, 0.02, info.shape).astype(info.dtype)
        else:
            array = np.zeros(info.shape, info.dtype)
        return jax.device_put(array, where)

    places, named = compiled.input_shardings
    given, names = lowered.args_info
    values = [jax.tree.map(value, info, where) for info, where in zip(given, places, strict=True)]
    if " extend " in step.name:
        values[EXTEND_UNTIL] = np.int32(step.trips)
    return values, {name: jax.tree.map(value, info, named[name]) for name, info in names.items()}


def measure(step, times):
    """Returns the least seconds of several runs of a step."""
    lowered = step.lower()
    compiled = lowered.compile()
    best = float("inf")
    for _ in range(times):
        values, named = arguments(step, lowered, compiled)  # anew: programs overwrite their state
        jax.block_until_ready((values, named))
        start = time.perf_counter()
        jax.block_until_ready(compiled(*values, **named))
        best = min(best, time.perf_counter() - start)
    return best


def main(argv=None):
    """Prints a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--model")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--tokens", type=Assumed.parse, help="sizes of texts, as for `selfadapt plan`")
    options, rest = parser.parse_known_args(argv)
    overrides = dict(each.removeprefix("--config.").split("=", 1) for each in rest)
    config = resolve(load_config(options.config, overrides))
    here = topology.find("local")
    model = report.read_model(options.model or config.model)
    work = workload(config, model, options.tokens)
    planner = report.describe(config, model, work, here)
    machine = planner.machine
    print(
        f"{here.chip.name}: {here.chip.peak_flops(config.dtype) / 1e9:.4g} GFLOP/s, "
        f"{here.chip.bandwidth / 1e9:.4g} GB/s, {'measured' if here.measured else 'published'}"
    )
    print(f"{'program':<36} {'GFLOP':>8} {'GB':>8} {'compute':>9} {'memory':>9} {'measured':>9}  ms")
    for steps in (planner.sampling, planner.training, planner.answering, planner.improving):
        for step in steps():
            cost = costs.cost(step, machine, here, config.dtype)
            seconds = [cost.seconds["compute"], cost.seconds["memory"], measure(step, options.times)]
            work = f"{cost.flops / 1e9:8.3f} {cost.bytes / 1e9:8.3f}"
            print(f"{step.name:<36} {work} {' '.join(f'{1e3 * part:9.2f}' for part in seconds)}")


if __name__ == "__main__":
    main()
