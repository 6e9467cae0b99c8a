"""What the host spends on the training steps of `adapt`, measured with a program that does nothing."""

from __future__ import annotations

import statistics
import time
from typing import Any
from unittest import mock

import numpy as np

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine import memory, runtime
from selfadapt.engine.adapt import training_step
from selfadapt.engine.adapt.work import plan_work
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model


def host_costs(config: ModelConfig, adapters: int, slots: int, epochs: int, runs: int) -> dict[str, Any]:
    """Returns the host's time for updates like SEAL's: 8 rows of about 48 tokens each, one row in a micro-batch.

    Args:
      config: a small architecture; its size does not matter.
      adapters: the number of updates.
      slots: adapters in a training step.
      epochs: epochs of each update.
      runs: how often to measure; the median counts.

    Returns:
      `plan_us`, microseconds per micro-batch before the first training step; `step_ms`, milliseconds between two calls
      of the program; and `slot_us`, microseconds of that for each of its slots.
    """
    generator = np.random.default_rng(0)

    def sequence():
        return TokenSequence(tuple(generator.integers(0, config.vocab_size, generator.integers(33, 49)).tolist()))

    updates = [Update([sequence() for _ in range(8)], rank=1, epochs=epochs, seed=k) for k in range(adapters)]
    model = Model.random(config)
    calls: list[float] = []

    def program(params, state, batch, frozen, **options):
        calls.append(time.perf_counter())
        return state, np.zeros(len(batch["adapter"]), np.float32)

    planning, between, steps = [], [], 0
    with (
        mock.patch.dict(memory.STEP_TOKENS, {"cpu": (0, slots * 48)}),
        mock.patch.object(memory, "ACCELERATOR_STEP_TOKENS", (0, slots * 48)),
        mock.patch.object(runtime, "parallel_streams", lambda mesh: 1),
        mock.patch.object(training_step, "program", lambda platform: program),
    ):
        for _ in range(runs):
            start = time.perf_counter()
            work = plan_work(model, updates)
            (stream,) = work.chunks[0]
            stream.batch(next(stream.training_steps()))
            planning.append((time.perf_counter() - start) / work.micro_batches)
            calls.clear()
            adapt(model, updates)
            steps = len(calls)
            between.append((calls[-1] - calls[0]) / max(1, steps - 1))
    step = statistics.median(between)
    return {
        "adapters": adapters,
        "slots": slots,
        "training_steps": steps,
        "plan_us": 1e6 * statistics.median(planning),
        "step_ms": 1e3 * step,
        "slot_us": 1e6 * step / slots,
    }
