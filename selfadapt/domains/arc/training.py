"""The training data that a directive makes of a task's demonstrations (SEAL's code, after arXiv 2411.07279)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from selfadapt.domains.arc.augment import IDENTITY, Transformation, augmentations, permuted, permuted_colours
from selfadapt.domains.arc.directive import MAX_STEPS, Directive
from selfadapt.domains.arc.grids import Grid, fits
from selfadapt.domains.arc.tasks import ArcTask, Pair
from selfadapt.errors import InvalidEdit

MAX_EXAMPLES = 250  # training tasks of a directive


class Example(NamedTuple):
    """A training task: demonstrations, and a pair whose output is learned."""

    train: tuple[Pair, ...]
    test: Pair

    @property
    def grids(self) -> Iterator[Grid]:
        """All its grids."""
        return (grid for pair in (*self.train, self.test) for grid in pair)


def leave_out(pairs: Sequence[Pair], n: int) -> list[Example]:
    """Returns the training tasks in which one pair is the test and n - 1 further ones are left out.

    Args:
      pairs: N demonstrations.
      n: 1, for N training tasks, or 2, for N (N - 1); and so on.
    """
    return [
        Example(tuple(pair for number, pair in enumerate(pairs) if number not in (test, *dropped)), pairs[test])
        for test in range(len(pairs))
        for dropped in itertools.combinations([other for other in range(len(pairs)) if other != test], n - 1)
    ]


def training_tasks(
    task: ArcTask,
    directive: Directive,
    *,
    seed: int,
    most: int = MAX_EXAMPLES,
    keep: Callable[[Example], bool] = lambda example: True,
) -> list[Example]:
    """Returns what a directive trains on: tasks made of a task's demonstrations, in a random order.

    Each demonstration in turn is the test, with all others shown, and with one of them left out. These tasks are
    there as they are and under each augmentation, unless a grid is then larger than 30 x 30. Of each there is a copy
    with the demonstrations in another order and, if the directive augments at all, other colours. No two are equal.

    Args:
      task: the task; its tests are not used.
      directive: chooses the augmentations.
      seed: seeds the order, the copies and the distances of the shift. Together with the task and the directive it
        determines the result.
      most: the most training tasks.
      keep: decides which may be used.
    """
    draw = random.Random(f"training tasks {seed} {task.id}")
    transformations = [IDENTITY, *augmentations(directive, seed=draw.getrandbits(32))]
    plain = [example for each in transformations for example in _augmented(task, each)]
    chosen: dict[Example, None] = {}
    # Copies are made on the way, since only the first few of thousands may be needed.
    for example, copy in permuted([(example, copy) for example in plain for copy in (False, True)], draw):
        if copy:
            example = _copy(example, draw, directive.augments)
        if example not in chosen and keep(example):
            chosen[example] = None
        if len(chosen) == most:
            break
    return list(chosen)


def _augmented(task: ArcTask, transformation: Transformation) -> list[Example]:
    pairs = [Pair(*map(transformation.apply, pair)) for pair in task.train]
    examples = [*leave_out(pairs, 1), *leave_out(pairs, 2)]
    return [example for example in examples if all(map(fits, example.grids))]


def _copy(example: Example, draw: random.Random, colours: bool) -> Example:
    """Returns a training task with its demonstrations in another order, and other colours if asked for."""
    example = Example(permuted(example.train, draw), example.test)
    if not colours:
        return example
    change = permuted_colours(example.grids, draw)
    return Example(tuple(Pair(*map(change, pair)) for pair in example.train), Pair(*map(change, example.test)))


def check_steps(directive: Directive, examples: int, batch_size: int, most: int = MAX_STEPS) -> None:
    """Refuses a training of too many optimizer steps.

    Args:
      directive: chooses the epochs.
      examples: the number of training tasks.
      batch_size: training tasks per optimizer step.
      most: the most steps.

    Raises:
      InvalidEdit: there are more.
    """
    if directive.epochs * -(-examples // batch_size) > most:
        raise InvalidEdit(f"the training has more than {most} optimizer steps")
