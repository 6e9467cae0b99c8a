"""The programs that train all weights of a model."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator

import jax.numpy as jnp

from selfadapt.engine import memory
from selfadapt.engine.adapt import schedule
from selfadapt.engine.adapt.optimizers import optimizer_of
from selfadapt.engine.adapt.work import tokenize
from selfadapt.engine.policy.finetune import steps_of
from selfadapt.engine.policy.lowering import abstract_training, lower_gradient, lower_step
from selfadapt.engine.policy.rows import micro_batches
from selfadapt.engine.policy.trainable import Trainable
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan.steps import Machine, Step
from selfadapt.types import Update


def full_finetuning(phase: str, update: Update, model: Model, machine: Machine, held: int) -> Iterator[Step]:
    """Yields the programs of `finetune`: the gradient of each shape of a micro-batch, and the optimizer's step.

    Args:
      phase: the phase of the round.
      update: token sequences and hyper-parameters.
      model: an abstract model.
      machine: the machine.
      held: bytes of other weights on each device.

    Raises:
      OutOfMemoryError: not even one sequence fits.
    """
    sequences = schedule.encode(update, tokenize(model, [update]))
    trainable, optimizer = Trainable.of(Policy(model), update, "all"), optimizer_of(update)
    trained, state = abstract_training(trainable, machine.mesh, optimizer)
    weights, moments = device_bytes(trained), device_bytes(state)
    # A float32 model's parameters are those that are trained; of another there are two.
    held += 0 if model.dtype == jnp.float32 else device_bytes(model.params)
    lengths = [len(sequence.ids) for sequence in sequences]
    longest = schedule.row_length(max(lengths))
    budget = machine.budget(held + weights + moments) - 2 * weights
    steps, most = steps_of(update, sequences), update.batch_size * update.gradient_accumulation
    plan = memory.plan_rows(model.config, longest, most, model.dtype.itemsize, machine.mesh, budget)
    runs: collections.Counter[tuple[int, int]] = collections.Counter()
    tokens: collections.Counter[tuple[int, int]] = collections.Counter()
    for step in steps:
        for batch in micro_batches(lengths, step.groups, most=most, tokens=plan.tokens, shards=machine.shards):
            shape = batch.rows, batch.time
            runs[shape] += 1
            tokens[shape] += sum(lengths[index] for index in batch.indices)
    for (rows, time), count in sorted(runs.items(), reverse=True):
        yield Step(
            name=f"{phase} all weights {rows}x{time}{', remat' if plan.remat else ''}",
            phase=phase,
            runs=count,
            tokens=tokens[rows, time] / count,
            padded=rows * time,
            inputs={"weights": trained, "optimizer": trained},  # the gradient so far is as large as the weights
            held={"weights": held, "optimizer": moments},
            lower=functools.partial(
                lower_gradient, trained, machine.mesh, rows, time, trainable=trainable, remat=plan.remat
            ),
        )
    yield Step(
        name=f"{phase} all weights, optimizer step",
        phase=phase,
        runs=len(steps),
        tokens=0,
        padded=0,
        inputs={"weights": trained, "optimizer": (state, trained)},
        held={"weights": held},
        lower=functools.partial(lower_step, trained, state, machine.mesh, trainable=trainable, optimizer=optimizer),
    )
