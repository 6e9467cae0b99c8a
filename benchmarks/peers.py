"""The work of `benchmarks.engine` in torch + PEFT: training in as many processes as there are cores, and decoding."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import Any

from selfadapt import Update
from selfadapt.engine import runtime
from selfadapt.engine.adapt import schedule
from selfadapt.models.config import ModelConfig

START_SECONDS = 600.0  # the longest that the processes may take to start
_model: Any = None  # of a training process: a PEFT model


def causal_model(config: ModelConfig) -> Any:
    """Returns a model of an architecture with random weights, in float32."""
    import transformers

    architecture = transformers.AutoConfig.for_model(**(config.to_json() | {"torch_dtype": "float32"}))
    return transformers.AutoModelForCausalLM.from_config(architecture)


class TrainingProcesses:
    """Processes that train LoRA updates one by one with PEFT: one for each core, pinned to it, with one thread.

    Each takes the next update when it has trained one. They start, and train one epoch of an update, before the object
    is there. Use it as a context; the processes end with it.

    Args:
      config: the architecture.
      update: an update as those to come.
    """

    def __init__(self, config: ModelConfig, update: Update):
        context = multiprocessing.get_context("spawn")
        self.count = len(runtime.cores())
        free, ready = context.SimpleQueue(), context.Barrier(self.count + 1)
        for core in runtime.cores():
            free.put(core)
        self._pool = context.Pool(self.count, _prepare, (free, ready, config, update.replace(epochs=1)))
        ready.wait(START_SECONDS)

    def __enter__(self) -> TrainingProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()

    def seconds(self, updates: Sequence[Update]) -> float:
        """Returns the seconds until all updates are trained."""
        start = time.perf_counter()
        self._pool.map(_train, updates, chunksize=1)
        return time.perf_counter() - start


def _prepare(free: Any, ready: Any, config: ModelConfig, update: Update) -> None:
    global _model
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {free.get()})
    import torch

    from benchmarks import peft_loop

    torch.set_num_threads(1)
    _model = peft_loop.wrap(causal_model(config), update)
    _train(update)
    ready.wait(START_SECONDS)


def _train(update: Update) -> None:
    from benchmarks import peft_loop

    peft_loop.train(_model, update, schedule.encode(update, lambda text, starts: []))


def decoding_seconds(
    config: ModelConfig, updates: Sequence[Update], prompts: Sequence[Sequence[int]], new_tokens: int, repeats: int
) -> float:
    """Returns the best time of PEFT's generation with an adapter for each row, with the better of 1 and all threads.

    Args:
      config: the architecture.
      updates: for each row an update with its adapter's rank, alpha and targets.
      prompts: the token ids of each row, all of one length.
      new_tokens: tokens to write per row, greedily.
      repeats: runs of each.
    """
    import torch

    from benchmarks import peft_loop

    model = peft_loop.wrap(causal_model(config), updates[0])
    names = ["default", *(f"row {row}" for row in range(1, len(updates)))]
    for name, update in zip(names[1:], updates[1:], strict=True):
        model.add_adapter(name, peft_loop.lora_config(update))
    model.eval()
    ids = torch.tensor(list(prompts))
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    threads, times = torch.get_num_threads(), []
    for count in sorted({1, len(runtime.cores())}):
        torch.set_num_threads(count)
        for _ in range(repeats + 1):  # the first warms up
            start = time.perf_counter()
            with torch.inference_mode():
                model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=names, **options)
            times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return min(times)
