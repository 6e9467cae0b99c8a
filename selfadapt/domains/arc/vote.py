"""Several predictions of each test output, and the vote that makes two attempts of them (SEAL's code)."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Sequence

from selfadapt.domains.arc.augment import (
    FLIP_COLUMNS,
    FLIP_ROWS,
    IDENTITY,
    ROTATE_90,
    ROTATE_180,
    TRANSPOSE,
    Transformation,
    permuted,
)
from selfadapt.domains.arc.grids import Grid
from selfadapt.domains.arc.tasks import ArcTask, Pair

TRANSFORMATIONS = (IDENTITY, TRANSPOSE, FLIP_ROWS, FLIP_COLUMNS, ROTATE_90, ROTATE_180)
ATTEMPTS = 2  # per test input
_NOMINATIONS = 3  # of each group of predictions


@dataclasses.dataclass(frozen=True)
class View:
    """One way to ask for a test output.

    Attributes:
      transformation: applied to all grids that are shown; its inverse is applied to the prediction.
      pairs: the demonstrations, transformed, in the order in which they are shown.
      test: the test input, transformed.
    """

    transformation: Transformation
    pairs: tuple[Pair, ...]
    test: Grid

    def restored(self, prediction: Grid | None) -> Grid | None:
        """Returns a prediction as one for the task as it is."""
        inverse = self.transformation.inverse
        return None if prediction is None or inverse is None else inverse(prediction)


def views(task: ArcTask, permutations: int, seed: int = 0) -> list[list[View]]:
    """Returns for each test input the ways to ask for its output.

    Args:
      task: the task.
      permutations: orders of the demonstrations under each of the six transformations. The first of the identity is
        the task's own; all others are random.
      seed: seeds the orders.
    """
    draw = random.Random(f"views {seed} {task.id}")
    asked: list[list[View]] = [[] for _ in task.tests]
    for transformation in TRANSFORMATIONS:
        pairs = [Pair(*map(transformation.apply, pair)) for pair in task.train]
        for number in range(permutations):
            own = transformation is IDENTITY and number == 0
            for place, test in enumerate(task.tests):
                order = tuple(pairs) if own else permuted(pairs, draw)
                asked[place].append(View(transformation, order, transformation.apply(test)))
    return asked


def vote(predictions: Sequence[tuple[str, Grid | None]]) -> list[Grid]:
    """Returns the attempts at a test output.

    The predictions of all views together, and those of each transformation, have three nominations each: the most
    frequent grids and, where there are fewer than three, the first of them again. The grids with the most nominations
    are the attempts. Of those that tie for the second attempt, the one that more views of the task as it is predicted
    is taken.

    Args:
      predictions: the transformation's name and the restored prediction of each view; `None` if it was no grid.

    Returns:
      At most two different grids; none if no prediction is a grid.
    """
    groups: dict[str, list[Grid]] = {"all": []}
    for name, grid in predictions:
        if grid is not None:
            groups["all"].append(grid)
            groups.setdefault(name, []).append(grid)
    plain = collections.Counter(groups.get(IDENTITY.name, []))
    nominees = collections.Counter(grid for grids in groups.values() for grid in _nominated(grids))
    first, *others = _ranked(nominees) or [None]
    if first is None:
        return []
    others.sort(key=lambda grid: (-nominees[grid], -plain[grid]))
    return [first, *others[: ATTEMPTS - 1]]


def solved(attempts: Sequence[Grid], solution: Grid) -> bool:
    """Returns whether an attempt equals the solution."""
    return solution in list(attempts)[:ATTEMPTS]


def _nominated(grids: Sequence[Grid]) -> list[Grid]:
    """Returns three grids, the most frequent first.

    SEAL's code completes fewer than three by the most frequent rows and columns of the grids; of two different grids
    and of one, these make the more frequent grid again.
    """
    found = _ranked(collections.Counter(grids))[:_NOMINATIONS]
    return found + found[:1] * (_NOMINATIONS - len(found))


def _ranked(counts: collections.Counter) -> list:
    """Returns the keys, the most frequent first; of equally frequent ones, the earlier."""
    return [key for key, _ in counts.most_common()]
