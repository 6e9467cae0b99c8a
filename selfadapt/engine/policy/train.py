"""Runs the programs that train a policy on texts of any length, in micro-batches that fit in memory."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from selfadapt.engine import flops, memory
from selfadapt.engine.adapt.schedule import row_length
from selfadapt.engine.adapt.train import Snapshots
from selfadapt.engine.policy import programs
from selfadapt.engine.policy.programs import Loss, Trained
from selfadapt.engine.policy.rows import MicroBatch, Rows, Written, arrays, micro_batches
from selfadapt.engine.policy.trainable import Trainable
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import Model
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter

# Programs in flight at a time, as in `adapt`: the devices of a CPU share few threads.
_AHEAD = 8


class DivergedError(InvalidValueError):
    """Training diverged; the message names the optimizer step and what is not finite or too large."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a policy makes of a text's written tokens, each `[tokens]`.

    Attributes:
      logprobs: their log-probabilities at temperature 1, in nats.
      entropy: the entropies of the distributions that they come from, in nats.
      values: the predictions of the value head before each; `None` without one.
    """

    logprobs: np.ndarray
    entropy: np.ndarray
    values: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Step:
    """One optimizer step: which texts it learns from, and how.

    Attributes:
      groups: indices of texts; those of a group, all of one size, are in neighbouring rows of a micro-batch.
      weights: what the loss of each text's tokens is multiplied with, by index.
      learning_rate: the learning rate.
      weight_decay: the weight decay.
      max_grad_norm: the norm that each part's gradient is clipped to; `None` for no clipping.
    """

    groups: Sequence[Sequence[int]]
    weights: Mapping[int, float]
    learning_rate: float
    weight_decay: float = 0.0
    max_grad_norm: float | None = None


class Trainer:
    """Measures texts of a policy and trains the policy on them.

    Args:
      model: the policy's model; its parameters are frozen where an adapter is trained.
      trainable: which weights are trained.
      written: the texts.
      most: the most texts of an optimizer step.

    Raises:
      OutOfMemoryError: not even one text fits in memory.
    """

    def __init__(self, model: Model, trainable: Trainable, written: Sequence[Written], most: int):
        self._model, self._trainable, self._written, self._most = model, trainable, written, most
        self._frozen = trainable.frozen(model)
        self._lengths = [len(text) for text in written]
        # Besides activations there are two gradients at a time: the total and that of a micro-batch.
        budget = memory.batch_bytes() - 2 * trainable.device_bytes(model.mesh)
        longest = row_length(max(self._lengths))
        self._plan = memory.plan_rows(model.config, longest, most, model.dtype.itemsize, model.mesh, budget)

    def measure(self, trained: Trained) -> list[Measured]:
        """Returns the statistics of each text under some weights."""
        started, found = time.perf_counter(), {}
        batches = self._micro_batches([(index,) for index in range(len(self._written))])
        for batch, rows in batches:
            with sharding.using(self._model.mesh):
                result = programs.measure(trained, self._frozen, rows, trainable=self._trainable)
            result = jax.tree.map(np.asarray, result)
            for row, index in enumerate(batch.indices):
                span = (row, slice(len(self._written[index].prompt), self._lengths[index]))
                values = None if result.values is None else result.values[span]
                found[index] = Measured(result.logprobs[span], result.entropy[span], values)
        self._count([batch for batch, _ in batches], started, backward=False)
        return [found[index] for index in range(len(self._written))]

    def train(
        self,
        trained: Trained,
        state: Any,
        data: Mapping[str, Sequence[Any]],
        plan: Sequence[Step],
        *,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        snapshots: Snapshots | None = None,
    ) -> tuple[Trained, Any, list[dict[str, float]]]:
        """Takes optimizer steps one after the other; arguments and results are those of `step`.

        Args:
          trained: what is trained.
          state: the optimizer's state.
          data: as for `step`.
          plan: the steps.
          loss: the loss.
          optimizer: the optimizer.
          snapshots: saves the training in progress; an interrupted one resumes after the last step that was saved.

        Returns:
          What is trained, the optimizer's state, and the numbers of each step.

        Raises:
          DivergedError: a loss, a gradient or a change of the weights is not finite.
        """
        numbers: list[dict[str, float]] = []
        if snapshots is not None and (kept := snapshots.restore("steps", (trained, state))):
            numbers, (trained, state) = kept[0]["numbers"], kept[1]
        for number, step in enumerate(plan):
            if number < len(numbers):  # before the interruption
                continue
            trained, state, found = self.step(trained, state, data, step, loss=loss, optimizer=optimizer)
            if not all(math.isfinite(found[name]) for name in ("loss", "policy_norm", "change_norm")):
                raise DivergedError(
                    f"step {number + 1}: the loss is {found['loss']:.3g}, the gradient's norm "
                    f"{found['policy_norm']:.3g}, that of the change of the weights {found['change_norm']:.3g}"
                )
            numbers.append(found)
            if snapshots is not None:
                snapshots.offer("steps", lambda: {"numbers": numbers}, (trained, state))
        return trained, state, numbers

    def step(
        self,
        trained: Trained,
        state: Any,
        data: Mapping[str, Sequence[Any]],
        step: Step,
        *,
        loss: Loss,
        optimizer: optax.GradientTransformation,
    ) -> tuple[Trained, Any, dict[str, float]]:
        """Takes one optimizer step on some of the texts; the gradient is the sum of those of micro-batches.

        Args:
          trained: what is trained.
          state: the optimizer's state (`programs.initial_optimizer`).
          data: for each name and text a number, or one for each written token; `Rows.data` has them in the loss.
          step: the texts and hyper-parameters.
          loss: the loss.
          optimizer: the optimizer; its injected hyper-parameters are replaced by those of the step.

        Returns:
          What is trained, the optimizer's state, and numbers: the sums of those of the loss over micro-batches, the
          loss itself ("loss"), the norm of the gradient of each part ("policy_norm", "value_norm"), and that of the
          change of the policy's weights ("change_norm").
        """
        started, numbers = time.perf_counter(), []
        batches = self._micro_batches(step.groups, data, step.weights)
        with sharding.using(self._model.mesh):
            slope = programs.zeros(trained, trainable=self._trainable)
            for _, rows in batches:
                slope, sums = programs.gradient(
                    trained,
                    self._frozen,
                    rows,
                    slope,
                    trainable=self._trainable,
                    loss=loss,
                    remat=self._plan.remat,
                )
                numbers.append(sums)
                if len(numbers) > _AHEAD:
                    jax.block_until_ready(numbers[-_AHEAD])
            hyperparameters = {
                "learning_rate": np.float32(step.learning_rate),
                "weight_decay": np.float32(step.weight_decay),
                "max_grad_norm": np.float32(np.inf if step.max_grad_norm is None else step.max_grad_norm),
            }
            trained, state, norms = programs.step(
                trained, state, slope, hyperparameters, trainable=self._trainable, optimizer=optimizer
            )
        numbers = sharding.to_host(numbers)
        sums = {name: float(math.fsum(float(each[name]) for each in numbers)) for name in numbers[0]}
        self._count([batch for batch, _ in batches], started, backward=True)
        return trained, state, sums | {f"{name}_norm": float(norm) for name, norm in norms.items()}

    def _micro_batches(
        self,
        groups: Sequence[Sequence[int]],
        data: Mapping[str, Sequence[Any]] | None = None,
        weights: Mapping[int, float] | None = None,
    ) -> list[tuple[MicroBatch, Rows]]:
        shards = sharding.num_shards(self._model.mesh)
        batches = micro_batches(self._lengths, groups, most=self._most, tokens=self._plan.tokens, shards=shards)
        return [(batch, arrays(batch, self._written, data or {}, weights)) for batch in batches]

    def _count(self, batches: Sequence[MicroBatch], started: float, backward: bool) -> None:
        """Adds the work to the telemetry's counts."""
        lengths = [self._lengths[index] for batch in batches for index in batch.indices]
        meter.add(
            "policy",
            tokens=sum(lengths),
            padded_tokens=sum(batch.rows * batch.time for batch in batches),
            flops=flops.of_policy(self._model.config, self._trainable.spec, lengths, backward=backward),
            seconds=time.perf_counter() - started,
        )
