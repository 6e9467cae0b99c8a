"""The tiny world of grids as a source of tasks for the ARC domain."""

from __future__ import annotations

import dataclasses
import random
import re
from typing import Any

from selfadapt.domains.arc.grids import check_grid
from selfadapt.domains.arc.tasks import ArcTask, Pair
from selfadapt.domains.tiny.grids import dsl
from selfadapt.domains.tiny.grids.format import CompactFormat
from selfadapt.domains.tiny.splits import SPLITS, numbers
from selfadapt.errors import InvalidValueError

DEMONSTRATIONS = 4


@dataclasses.dataclass(frozen=True)
class TinyGrids:
    """Tasks on 3 x 3 grids whose rules are compositions of two steps, any number of them.

    Attributes:
      seed: chooses the rules and the grids.
    """

    seed: int = 0
    name = "the tiny world of grids"
    style = CompactFormat()

    def tasks(self, split: str, count: int, round: int = 0) -> list[ArcTask]:
        """Returns tasks: new ones each round for "train", always the same for "heldout".

        The compositions of one split do not occur in the other, nor in pretraining.

        Raises:
          InvalidValueError: there is no such split.
        """
        return [_task(split, self.seed, number) for number in numbers(self.name, split, count, round)]


def rule_of(task: ArcTask) -> dsl.Rule:
    """Returns the rule of a task, for reports and analyses.

    Raises:
      InvalidValueError: the task is not of this world.

    >>> rule_of(TinyGrids().tasks("heldout", 1)[0]).families
    ('shift', 'fill')
    """
    found = re.fullmatch(r"grids-(\w+)-(-?\d+)-(\d+)", task.id)
    if found is None or found[1] not in SPLITS:
        raise InvalidValueError(f"task {task.id!r} is not of {TinyGrids.name}; its tasks come from TinyGrids.tasks()")
    return _draw(found[1], int(found[2]), int(found[3]))[0]


def _task(split: str, seed: int, number: int) -> ArcTask:
    *train, test = [Pair(check_grid(given), check_grid(output)) for given, output in _draw(split, seed, number)[1]]
    return ArcTask(f"grids-{split}-{seed}-{number}", tuple(train), (test.input,), (test.output,))


def _draw(split: str, seed: int, number: int) -> tuple[dsl.Rule, list[dsl.Example]]:
    """Returns the rule and the examples of a task, the test last."""
    rng = random.Random(f"tiny/grids/{split}/{seed}/{number}")
    while True:
        rule = dsl.draw_rule(rng, split)
        examples = dsl.draw_examples(rng, rule, DEMONSTRATIONS + 1)
        # Chance can hide a step; then a rule of pretraining would explain the demonstrations.
        if not any(dsl.explains(simple, examples[:-1]) for simple in dsl.simple_rules()):
            return rule, examples


def make(config: Any) -> TinyGrids:
    """Returns the source of an experiment."""
    return TinyGrids(config.seed)
