"""Which passages are learned together, and what is asked about them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from selfadapt.errors import InvalidValueError
from selfadapt.types import Task


@dataclasses.dataclass(frozen=True)
class Subset:
    """Passages that models learn; one model learns all of them, or each of several models a single one.

    Attributes:
      size: the passages that one model learns.
      learned: for each model its passages.
      asked: for each model its passages with the questions that are asked about them; those without any are left out.
    """

    size: int
    learned: tuple[tuple[Task, ...], ...]
    asked: tuple[tuple[Task, ...], ...]

    @property
    def label(self) -> str:
        """Stable identity; the places of results and random keys are made from it."""
        return f"n{self.size}"


def subsets(tasks: Sequence[Task], sizes: Sequence[int], singles: int, questions: int, seed: int) -> list[Subset]:
    """Returns nested subsets of passages, each of the first ones.

    Args:
      tasks: the passages.
      sizes: passages of each subset. That of size 1 has several models, one for each of the first `singles` passages.
      singles: see `sizes`.
      questions: the most questions of a subset, a random sample; 0 for all. The subset of size 1 has all.
      seed: of the sample, drawn by Python's `random.shuffle` as in SEAL's code (with 42).

    Raises:
      InvalidValueError: a size is no positive number or not in rising order, or there are too few passages.
    """
    if not sizes or any(a >= b for a, b in zip((0, *sizes), sizes, strict=False)):
        raise InvalidValueError(
            f"config.protocol.sizes is {tuple(sizes)}; it must be rising numbers of at least 1, such as 1,64,256"
        )
    if singles < 1:
        raise InvalidValueError(f"config.protocol.singles is {singles}; it must be at least 1")
    if questions < 0:
        raise InvalidValueError(f"config.protocol.questions is {questions}; it must be at least 0, which means all")
    needed = {size: singles if size == 1 else size for size in sizes}
    for size, count in needed.items():
        if count > len(tasks):
            field = f"config.protocol.singles is {singles}" if size == 1 else f"config.protocol.sizes has {size}"
            raise InvalidValueError(
                f"{field}, and config.evaluation.contexts takes {len(tasks)} passages; lower the one or raise the other"
            )
    found = []
    for size, count in needed.items():
        chosen = tuple(tasks[:count])
        if size == 1:
            alone = tuple((task,) for task in chosen)
            found.append(Subset(1, alone, alone))
        else:
            found.append(Subset(size, (chosen,), (_sample(chosen, questions, seed),)))
    return found


def _sample(tasks: Sequence[Task], most: int, seed: int) -> tuple[Task, ...]:
    """Returns the tasks with a random sample of their questions, without those that have none in it."""
    places = [(t, q) for t, task in enumerate(tasks) for q in range(len(task.questions))]
    if not most or most >= len(places):
        return tuple(tasks)
    random.Random(seed).shuffle(places)
    kept = set(places[:most])
    asked = []
    for t, task in enumerate(tasks):
        questions = tuple(question for q, question in enumerate(task.questions) if (t, q) in kept)
        if questions:
            asked.append(dataclasses.replace(task, questions=questions))
    return tuple(asked)
