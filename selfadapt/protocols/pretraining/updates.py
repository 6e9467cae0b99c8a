"""One update of the edits of many passages."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from selfadapt.domains import Applied, Domain
from selfadapt.types import Task, Update


def combined(
    domain: Domain, learned: Sequence[tuple[Task, Sequence[Applied]]], *, repeat_passage: bool, seed: int
) -> Update:
    """Returns the update that learns the edits of all passages together, with the hyper-parameters of the domain.

    Args:
      domain: the domain; without an edit it learns a passage alone.
      learned: passages, each with what the domain makes of its edits. What is no update, such as a rejected edit, adds
        nothing.
      repeat_passage: whether a passage is learned with each of its edits (SEAL's first version), or once (its second).
      seed: of the order of the sequences, and of the initial adapter.
    """
    sequences: list[Any] = []
    first: Update | None = None
    for task, applied in learned:
        alone = domain.apply(task, None)
        assert isinstance(alone, Update)  # `make` has checked it
        first = first or alone
        edits = [what.sequences for what in applied if isinstance(what, Update)]
        sequences += joined(edits, alone.sequences, repeat_passage)
    assert first is not None
    return first.replace(sequences=sequences, seed=first.seed + seed)


def joined(edits: Sequence[Sequence[Any]], passage: Sequence[Any], repeat_passage: bool) -> list[Any]:
    """Returns the sequences of all edits of a passage, which may follow each edit, or the first one only.

    Args:
      edits: the sequences of each edit.
      passage: those of the passage alone.
      repeat_passage: see `combined`.

    >>> joined([["a", "p"], ["b", "p"]], ["p"], repeat_passage=False)
    ['a', 'p', 'b']
    """
    found: list[Any] = []
    for number, own in enumerate(edits):
        left_out = number and not repeat_passage and list(own[-len(passage) :]) == list(passage)
        found += own[: -len(passage)] if left_out else own
    return found


def warmed_up(update: Update, ratio: float) -> Update:
    """Returns an update whose warm-up is a share of its optimizer steps, rounded up; 0 leaves it as it is.

    >>> warmed_up(Update(["a"] * 10, batch_size=4, epochs=5), 0.1).warmup_steps
    2
    """
    if not ratio:
        return update
    size = update.batch_size * update.gradient_accumulation
    return update.replace(warmup_steps=math.ceil(ratio * update.epochs * math.ceil(len(update.sequences) / size)))


def update_seed(seed: int, label: str, tasks: Sequence[Task]) -> int:
    """Returns the seed of an update, given that of the run: another for each subset and single passage."""
    place = f"{label} {tasks[0].id}" if len(tasks) == 1 else label
    return int.from_bytes(hashlib.sha256(f"pretraining {seed} {place}".encode()).digest()[:4], "little")
