"""Remedies for forgetting: how a stream learns its next edit, and which of its adapters answer a question.

Each remedy is SEAL's protocol with one thing changed, so that they can be compared on the same streams.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from selfadapt.domains import Applied
from selfadapt.errors import InvalidValueError
from selfadapt.protocols.continual import retrieval
from selfadapt.types import TrainingSequence, Update

# Which of a stream's adapters answer: all, added up or averaged, or for each question one of them.
SUM, MEAN, FOUND, OWN = "sum", "mean", "found", "own"


@dataclasses.dataclass(frozen=True)
class Material:
    """What a remedy may train on beside a step's update.

    Attributes:
      earlier: the sequences of the edits that the stream has learned.
      anchors: texts on which the model should stay as it was before any edit.
    """

    earlier: Sequence[TrainingSequence] = ()
    anchors: Sequence[TrainingSequence] = ()


def _unchanged(update: Update, material: Material, fields: Any) -> Update:
    del material, fields
    return update


def _smaller(update: Update, material: Material, fields: Any) -> Update:
    del material
    return update.replace(learning_rate=update.learning_rate * fields.rate_factor)


def _replay(update: Update, material: Material, fields: Any) -> Update:
    """Returns the update with `replayed` earlier sequences for each one that it has, in batches larger by as many.

    The number of optimizer steps is that of the update. Each earlier sequence is drawn once before any is drawn again.
    """
    if not material.earlier:
        return update
    draw = random.Random(update.seed)
    drawn: list[TrainingSequence] = []
    while len(drawn) < fields.replayed * len(update.sequences):
        drawn += draw.sample(material.earlier, len(material.earlier))
    return update.replace(
        sequences=(*update.sequences, *drawn[: fields.replayed * len(update.sequences)]),
        batch_size=update.batch_size * (1 + fields.replayed),
    )


def _orthogonal(update: Update, material: Material, fields: Any) -> Update:
    del material
    return update.replace(orthogonality=fields.orthogonality)


def _anchored(update: Update, material: Material, fields: Any) -> Update:
    return update.replace(divergence=fields.divergence, anchors=material.anchors, anchor_rows=fields.anchor_rows)


def sequences_learned(
    applied: Sequence[Sequence[Applied]], statuses: Sequence[Sequence[str]], streams: int
) -> list[list[TrainingSequence]]:
    """Returns for each stream the sequences of the edits that it has learned, in order; not of those that failed.

    Args:
      applied: for each step what became of each stream's edit.
      statuses: likewise the status of its training.
      streams: how many streams there are.
    """
    learned: list[list[TrainingSequence]] = [[] for _ in range(streams)]
    for edits, status in zip(applied, statuses, strict=True):
        for own, what, state in zip(learned, edits, status, strict=True):
            if isinstance(what, Update) and state == "ok":
                own += what.sequences
    return learned


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A way to learn passage after passage.

    Attributes:
      note: what it does, for reports.
      answers: which adapters answer: `SUM`, `MEAN`, or for each question that of the passage that BM25 finds (`FOUND`)
        or that of the question's passage (`OWN`). Adapters that do not add up are each trained on the model before
        any edit.
      change: returns a step's update, given SEAL's, what it may train on beside it, and `config.protocol`.
      trained_by: the remedy that trains its adapters, where another one trains the same ones; "" for itself.
    """

    note: str
    answers: str = SUM
    change: Callable[[Update, Material, Any], Update] = _unchanged
    trained_by: str = ""

    @property
    def retrieves(self) -> bool:
        """Whether each question is answered with a single adapter."""
        return self.answers in (FOUND, OWN)


ANCHORED = "anchored"
REMEDIES = {
    "sum": Remedy("adapters add up, each trained on top of the earlier ones, as in SEAL"),
    "smaller": Remedy("the same with a smaller learning rate", change=_smaller),
    "replay": Remedy("the same, with sequences of earlier edits in each batch", change=_replay),
    "orthogonal": Remedy("the same, with a penalty on overlap with the earlier adapters", change=_orthogonal),
    ANCHORED: Remedy("the same, held near the model before any edit on other texts", change=_anchored),
    "mean": Remedy("adapters are each trained on the model before any edit, and averaged", MEAN),
    "retrieved": Remedy("an adapter for each passage; a question is answered with that of the passage found", FOUND),
    "retrieved_oracle": Remedy("the same, with the adapter of the question's own passage", OWN, trained_by="retrieved"),
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """What streams learn from, and how.

    Attributes:
      variant: one of `config.protocol.variants`.
      remedy: a key of `REMEDIES`.
    """

    variant: str
    remedy: str = SUM

    @property
    def name(self) -> str:
        """Its name in files and reports: that of the variant, if there is no remedy."""
        return self.variant if self.remedy == SUM else f"{self.variant}+{self.remedy}"

    @property
    def trained_by(self) -> Condition:
        """The condition that trains the adapters, which several conditions may share."""
        return dataclasses.replace(self, remedy=REMEDIES[self.remedy].trained_by or self.remedy)


def check(fields: Any) -> None:
    """Checks the fields of `config.protocol` that are about remedies.

    Raises:
      UserError: one cannot be used, or the package for retrieval is not installed.
    """
    names = fields.remedies
    for name in names:
        if name not in REMEDIES:
            raise InvalidValueError(
                f"config.protocol.remedies has {name!r}; a remedy is one of {', '.join(REMEDIES)} (docs/continual.md)"
            )
    if SUM not in names or len(set(names)) < len(names):
        raise InvalidValueError(
            f"config.protocol.remedies is {names}; it must name {SUM!r}, which the others are compared with, and each "
            "remedy once"
        )
    for name, least in (("replayed", 1), ("anchor_rows", 1), ("anchor_tokens", 2)):
        if fields[name] < least:
            raise InvalidValueError(f"config.protocol.{name} is {fields[name]}; it must be at least {least}")
    for name in ("rate_factor", "orthogonality", "divergence"):
        if not (math.isfinite(fields[name]) and fields[name] > 0):
            raise InvalidValueError(f"config.protocol.{name} is {fields[name]}; it must be a finite positive number")
    if any(REMEDIES[name].answers == FOUND for name in names):
        retrieval.package()
