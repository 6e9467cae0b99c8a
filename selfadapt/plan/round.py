"""The programs of a round of the outer loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from selfadapt import loop
from selfadapt.engine import score
from selfadapt.engine.generate import batching
from selfadapt.models.lora import resolve_targets
from selfadapt.models.model import Model
from selfadapt.models.peft import abstract_master
from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan.finetuning import full_finetuning
from selfadapt.plan.programs import Programs, Stack, largest_chunk
from selfadapt.plan.steps import Machine, Step
from selfadapt.plan.workload import Workload, finetuning, outer_update
from selfadapt.plan.writing import Texts
from selfadapt.types import Update


class Round(Programs):
    """Describes the programs of a round of one experiment on one machine.

    Args:
      config: the experiment.
      model: an abstract model (`selfadapt.plan.programs.abstract_model`).
      machine: the machine.
      work: the round's work.

    Attributes:
      name: what the programs make up.
      edits: edits of a round.
    """

    name = "A round"

    def __init__(self, config: Any, model: Model, machine: Machine, work: Workload):
        self.config, self.work = config, work
        self.edits = config.contexts * config.edits
        self.at_once = min(config.at_once, self.edits)
        # The untrained weights stay in memory for the controls, besides those of the policy once it has been trained
        # and, in bfloat16, the float32 copies of its merged weights.
        self.outer = outer_update(config)
        self.merges = self.outer.merge
        super().__init__(model, machine, (device_bytes(model.params) if self.merges else 0) + self._master(model))

    def phases(self) -> dict[str, Callable[[], Iterator[Step]]]:
        """Returns the phases that can be planned, each with what yields its programs."""
        return {
            "sample": self.sampling,
            "adapt": self.training,
            "answer": self.answering,
            "improve": self.improving,
            "log_likelihood": self.scoring,
        }

    @property
    def counted(self) -> tuple[str, ...]:
        """The phases that a round has. With ratings alone for rewards, only the evaluation adapts and asks."""
        return ("sample", "improve") if self.config.reward == "proxy" else ("sample", "adapt", "answer", "improve")

    def sizes(self) -> dict[str, int]:
        """Returns how much of what a round has."""
        return {
            "contexts": self.config.contexts,
            "edits": self.edits,
            "adapters per edit": self.config.inner_runs,
            "edits at once": self.at_once,
        }

    def sampling(self) -> Iterator[Step]:
        """Yields the programs that write edits."""
        config, work = self.config, self.work
        at_once = min(loop.TASKS_AT_ONCE, config.contexts)
        lengths = [(0, work.prompts[index % len(work.prompts)]) for index in range(at_once)]
        texts = Texts.edits(config, config.edits, work)
        stack = None if self.merges else self._stack(1, finetuning(config, self.outer, work))
        yield from self.generating("sample", lengths, texts, stack, config.contexts / at_once)

    def training(self) -> Iterator[Step]:
        """Yields the training steps of the adapters of edits."""
        updates = [self._update(index) for index in range(self.at_once) for _ in range(self.config.inner_runs)]
        yield from self.adapting("adapt", updates, self.edits / self.at_once)

    def answering(self) -> Iterator[Step]:
        """Yields the programs that answer questions, each adapter its own."""
        stack = self._stack(self._adapters(), self.work.updates[0])
        texts = Texts.answers(self.config)
        yield from self.generating("answer", self._questions(), texts, stack, self.edits / self.at_once)

    def improving(self) -> Iterator[Step]:
        """Yields the training steps of the policy on the selected edits."""
        update = finetuning(self.config, self.outer, self.work)
        if self.outer.train == "all":
            yield from full_finetuning("improve", update, self.model, self.machine, self.others)
        else:
            yield from self.adapting("improve", [update], 1.0)

    def scoring(self) -> Iterator[Step]:
        """Yields the program of `log_likelihood` on every question, which a round itself does not use."""
        width = score.target_width(min(16, self.config.answer.max_new_tokens))
        owners, prompts = zip(*self._questions(), strict=True)
        lengths = [length + width for length in prompts]
        model, first = self.model, self.work.updates[0]
        stack = self.lora(self._stack(self._adapters(), first))
        chunks = score.schedule(model, owners, lengths, stack=stack.scale.shape[0], memory_bytes=self.budget)
        chunk = largest_chunk(chunks)
        shape = (*chunk.shape, batching.padded_length(chunk, lengths))
        lora = self.lora(self._stack(chunk.shape[0], first))
        yield Step(
            name=f"log_likelihood {'x'.join(map(str, shape))}",
            phase="log_likelihood",
            runs=0,
            tokens=sum(lengths) / len(chunks),
            padded=math.prod(shape),
            inputs={"weights": model.params, "adapters": lora},
            held=self.held(stack, chunk.shape[0]),
            lower=lambda: score.lower(model, lora, shape, width),
        )

    def _master(self, model: Model) -> int:
        """Returns the bytes on each device of the float32 copies of merged weights."""
        if not (self.merges and self.outer.keep_master) or model.dtype == jnp.float32:
            return 0
        targets = resolve_targets(finetuning(self.config, self.outer, self.work).targets, model.config)
        return device_bytes(abstract_master(model, targets))

    def _adapters(self) -> int:
        return self.at_once * self.config.inner_runs

    def _update(self, edit: int) -> Update:
        return self.work.updates[edit // self.config.edits % len(self.work.updates)]

    def _questions(self) -> list[tuple[int, int]]:
        """Returns adapter and tokens of every answer prompt of the edits that are scored together."""
        each, runs = self.config.edits, self.config.inner_runs
        contexts = len(self.work.questions)
        return [(k, n) for k in range(self._adapters()) for n in self.work.questions[k // runs // each % contexts]]

    @staticmethod
    def _stack(count: int, update: Update) -> Stack:
        return Stack(count, update.rank, update.targets)
