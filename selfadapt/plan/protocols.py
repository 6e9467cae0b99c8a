"""The programs of an evaluation protocol, for one variant whose model writes its edits.

The others take less: without an edit nothing is sampled, and the passages alone are shorter than edits.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from selfadapt import loop
from selfadapt.models.model import Model
from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan.finetuning import full_finetuning
from selfadapt.plan.programs import Programs, Stack
from selfadapt.plan.steps import Machine, Step
from selfadapt.plan.workload import Workload
from selfadapt.plan.writing import Texts
from selfadapt.protocols.continual.learned import padded_rank
from selfadapt.protocols.pretraining.updates import joined
from selfadapt.types import Update

PHASES = ("sample", "adapt", "answer")


class Variant(Programs, abc.ABC):
    """The programs of a variant.

    Args:
      config: the resolved config of `selfadapt evaluate`.
      model: an abstract model (`selfadapt.plan.programs.abstract_model`).
      machine: the machine.
      work: what is learned of each passage, and asked about it.
    """

    name = "A variant"
    counted = PHASES

    def __init__(self, config: Any, model: Model, machine: Machine, work: Workload):
        self.config, self.work = config, work
        # The untrained model and the policy are both in memory.
        super().__init__(model, machine, device_bytes(model.params) if config.protocol.policy else 0)

    def phases(self) -> dict[str, Callable[[], Iterator[Step]]]:
        """Returns the phases that can be planned, each with what yields its programs."""
        return dict(zip(PHASES, (self.sampling, self.training, self.answering), strict=True))

    @property
    @abc.abstractmethod
    def edits(self) -> int:
        """Edits that are written and learned."""

    @abc.abstractmethod
    def sizes(self) -> dict[str, int]:
        """Returns how much of what the variant has."""

    @abc.abstractmethod
    def sampling(self) -> Iterator[Step]:
        """Yields the programs that write edits."""

    @abc.abstractmethod
    def training(self) -> Iterator[Step]:
        """Yields the programs of the updates."""

    @abc.abstractmethod
    def answering(self) -> Iterator[Step]:
        """Yields the programs that answer questions."""


class Streams(Variant):
    """Continual self-edits: all streams take each step at once, with their adapters added up ("sum").

    One step stands for all, with adapters of the padded sum of all steps below, which the first one lacks.
    """

    @property
    def streams(self) -> int:
        """Streams of all runs."""
        return self.config.protocol.runs * self.config.protocol.streams

    @property
    def edits(self) -> int:
        """Edits of all streams."""
        return self.streams * self.config.protocol.passages

    def sizes(self) -> dict[str, int]:
        """Returns how much of what the variant has."""
        return {"streams": self.streams, "passages of each": self.config.protocol.passages, "edits": self.edits}

    def sampling(self) -> Iterator[Step]:
        """Yields the programs that write a step's edits, each by its stream's model."""
        lengths = [(k, self.work.prompts[k % len(self.work.prompts)]) for k in range(self.streams)]
        texts = Texts.edits(self.config, 1, self.work)
        yield from self.generating("sample", lengths, texts, self._learned(), self.config.protocol.passages)

    def training(self) -> Iterator[Step]:
        """Yields the training steps of the adapters of a step, on top of the earlier ones."""
        updates = [self.work.updates[k % len(self.work.updates)] for k in range(self.streams)]
        yield from self.adapting("adapt", updates, self.config.protocol.passages, on=self._learned())

    def answering(self) -> Iterator[Step]:
        """Yields the programs of the last row of questions, as often as all rows have as many in sum.

        Row 0 asks about all passages, before any edit, and row t about the first t.
        """
        passages, questions = self.config.protocol.passages, self.work.questions
        lengths = [
            (k, length)
            for k in range(self.streams)
            for place in range(passages)
            for length in questions[(k * passages + place) % len(questions)]
        ]
        rows = 1 + (passages + 1) / 2
        yield from self.generating("answer", lengths, Texts.answers(self.config), self._learned(), rows)

    def _learned(self) -> Stack:
        first = self.work.updates[0]
        passages = self.config.protocol.passages
        return Stack(self.streams, padded_rank(first.rank, passages, passages), first.targets)


class Pretraining(Variant):
    """Continued pretraining on the largest of `config.protocol.sizes`: one update, or one for each single passage."""

    @property
    def size(self) -> int:
        """Passages that one model learns."""
        return max(self.config.protocol.sizes)

    @property
    def models(self) -> int:
        """Models that learn."""
        return self.config.protocol.singles if self.size == 1 else 1

    @property
    def edits(self) -> int:
        """Edits of all passages."""
        return self.size * self.models * self.config.evaluation.edits

    def sizes(self) -> dict[str, int]:
        """Returns how much of what the variant has."""
        sequences = sum(len(update.sequences) for update in self._updates())
        return {"models": self.models, "passages of each": self.size, "edits": self.edits, "sequences": sequences}

    def sampling(self) -> Iterator[Step]:
        """Yields the programs that write edits, by the base model."""
        passages = self.size * self.models
        at_once = min(loop.TASKS_AT_ONCE, passages)
        lengths = [(0, self.work.prompts[index % len(self.work.prompts)]) for index in range(at_once)]
        texts = Texts.edits(self.config, self.config.evaluation.edits, self.work)
        yield from self.generating("sample", lengths, texts, None, passages / at_once)

    def training(self) -> Iterator[Step]:
        """Yields the programs of the updates."""
        updates = self._updates()
        if self.config.protocol.train == "lora":
            yield from self.adapting("adapt", updates, 1.0)
            return
        for step in full_finetuning("adapt", updates[0], self.model, self.machine, self.others):
            yield dataclasses.replace(step, runs=step.runs * self.models)

    def answering(self) -> Iterator[Step]:
        """Yields the programs that answer questions, before the update and after it.

        Of LoRA both are described with the adapters, and models of which all weights were trained beside the base.
        """
        texts, updates = Texts.answers(self.config), self._updates()
        if self.config.protocol.train == "lora":
            stack = Stack(self.models, updates[0].rank, updates[0].targets)
            lengths = [(k, length) for k in range(self.models) for length in self._questions(k)]
            yield from self.generating("answer", lengths, texts, stack, 2)
            return
        lengths = [(0, length) for length in self._questions(0)]
        for step in self.generating("answer", lengths, texts, None, 2 * self.models):
            held = step.held | {"weights": step.held["weights"] + self.weights}
            yield dataclasses.replace(step, held=held)

    def _questions(self, model: int) -> list[int]:
        found = [length for own in self._own(self.work.questions, model) for length in own]
        return found[: (self.size > 1 and self.config.protocol.questions) or None]

    def _updates(self) -> list[Update]:
        """Returns the update of each model."""
        fields, edits = self.config.protocol, self.config.evaluation.edits
        found = []
        for model in range(self.models):
            sequences: list[Any] = []
            updates, alone = (self._own(each, model) for each in (self.work.updates, self.work.alone))
            for update, passage in zip(updates, alone, strict=True):
                sequences += joined([update.sequences] * edits, passage, fields.repeat_passage)
            found.append(updates[0].replace(sequences=sequences))
        return found

    def _own(self, each: Any, model: int) -> list[Any]:
        """Returns those of a model's passages."""
        return [each[(model * self.size + place) % len(each)] for place in range(self.size)]


PROTOCOLS: dict[str, type[Variant]] = {"continual": Streams, "pretraining": Pretraining}
