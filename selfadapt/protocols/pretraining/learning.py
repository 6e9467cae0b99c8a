"""Trains models on updates and asks them: as adapters of one base, or one after the other with all weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfadapt.checkpoint.units import Units
from selfadapt.domains import Domain
from selfadapt.engine.adapt import adapt
from selfadapt.engine.policy import finetune
from selfadapt.models.model import Model
from selfadapt.protocols.asking import ask
from selfadapt.telemetry.progress import Phase
from selfadapt.types import Task, Update


@dataclasses.dataclass(frozen=True)
class Work:
    """Models to train and to ask.

    Attributes:
      base: the model that they start from.
      domain: makes prompts and grades answers.
      updates: what each model learns.
      asked: what each is asked.
      answer: the group of fields `config.answer`.
      stored: completed work; training in progress is saved in it.
      phase: shows and measures phases.
    """

    base: Model
    domain: Domain
    updates: Sequence[Update]
    asked: Sequence[Sequence[Task]]
    answer: Any
    stored: Units
    phase: Phase


def by_lora(work: Work) -> dict[str, Any]:
    """Trains an adapter for each update, all at once, and asks all of them.

    Returns:
      JSON values, for each model: "answers" and "verdicts" (`selfadapt.protocols.asking.ask`), "status" ("ok", or why
      it could not be trained and is the base), and "losses", those of the first and the last optimizer step in nats,
      and how many steps there were.
    """
    train = functools.partial(adapt, work.base, work.updates)
    with work.phase("adapt", len(work.updates)) as advance:
        adapters = work.stored.adapters(work.base, lambda snapshots: train(snapshots=snapshots))
        advance(len(adapters))
    with work.phase("evaluate", len(work.updates)) as advance:
        found = ask(work.base, work.domain, work.asked, work.answer, adapters)
        advance(len(adapters))
    return found | {"status": adapters.status, "losses": [_ends(losses) for losses in adapters.losses]}


def by_all_weights(work: Work) -> dict[str, Any]:
    """Trains all weights on each update, one after the other, and asks each model; returns what `by_lora` does."""
    found: dict[str, Any] = {"answers": [], "verdicts": [], "status": [], "losses": []}
    for number in range(len(work.updates)):
        place = work.stored.within(f"model {number}")
        one = place.once("answers", functools.partial(_finetuned, work, number, place))
        for name, values in one.items():
            found[name] += values
    return found


def _finetuned(work: Work, number: int, place: Units) -> dict[str, Any]:
    with work.phase("adapt", 1) as advance:
        trained = finetune(work.base, work.updates[number], snapshots=place.snapshots("weights"))
        advance(1)
    with work.phase("evaluate", 1) as advance:
        found = ask(trained.model, work.domain, [work.asked[number]], work.answer)
        advance(1)
    return found | {"status": [trained.status], "losses": [_ends(trained.losses)]}


def _ends(losses: np.ndarray) -> dict[str, Any]:
    values = [float(losses[0]), float(losses[-1])] if len(losses) else [None, None]
    return {"first": values[0], "last": values[1], "steps": len(losses)}


LEARNING: dict[str, Callable[[Work], dict[str, Any]]] = {"lora": by_lora, "all": by_all_weights}
