"""Measures what the embedded model "tiny_grids" can do: solve tasks in context, and write directives."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.domains.arc.directive import Directive
from selfadapt.domains.arc.grids import check_grid
from selfadapt.domains.arc.tasks import ArcTask, Pair
from selfadapt.domains.tiny.grids import dsl
from selfadapt.domains.tiny.grids.format import END, CompactFormat
from selfadapt.domains.tiny.grids.source import DEMONSTRATIONS, TinyGrids
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidEdit
from selfadapt.models.model import Model

FORMAT = CompactFormat()


def check(model: Model, *, tasks: int = 64, directives: int = 4, seed: int = 0) -> dict[str, Any]:
    """Measures the abilities of the pretrained model.

    Args:
      model: the model.
      tasks: the number of tasks of each kind.
      directives: directives sampled per task, at temperature 1.
      seed: seeds tasks and sampling.

    Returns:
      Shares in [0, 1] of tasks whose test is solved by the likeliest answer to one prompt with all demonstrations:
      `step` (new grids of rules of one step), `composition` (of pretraining's compositions), `train` (compositions
      that pretraining does not have); `valid_directives`; and `values`, for each field of a directive the share of
      each value among the valid ones.
    """
    unseen = TinyGrids(seed).tasks("train", tasks)
    groups = {"step": _tasks(1, tasks, seed), "composition": _tasks(2, tasks, seed), "train": unseen}
    prompts = [FORMAT.answer_prompt(task.train, task.tests[0]) for group in groups.values() for task in group]
    answers = iter(generate(model, prompts, max_new_tokens=48, stop=END))
    results: dict[str, Any] = {
        name: float(np.mean([FORMAT.parse_answer(next(answers)) == task.solutions[0] for task in group]))
        for name, group in groups.items()
    }
    texts = generate(
        model,
        [FORMAT.edit_prompt(task) for task in unseen],
        max_new_tokens=32,
        temperature=1.0,
        num_samples=directives,
        seed=seed,
        ids=[task.id for task in unseen],
    )
    written = valid_directives([text for samples in texts for text in samples])
    results["valid_directives"] = len(written) / (tasks * directives)
    results["values"] = {
        field: {str(value): count / len(written) for value, count in sorted(collections.Counter(values).items())}
        for field, values in ((f, [getattr(d, f) for d in written]) for f in Directive.__dataclass_fields__)
    }
    return results


def valid_directives(texts: Sequence[str]) -> list[Directive]:
    """Returns the directives among texts that the policy wrote."""
    found = []
    for text in texts:
        try:
            found.append(FORMAT.parse_directive(text))
        except InvalidEdit:
            continue
    return found


def _tasks(steps: int, count: int, seed: int) -> list[ArcTask]:
    """Returns tasks with rules of pretraining."""
    rng = random.Random(f"tiny/grids/check/{steps}/{seed}")
    tasks = []
    for number in range(count):
        rule = dsl.draw_rule(rng, "pretraining", steps=steps)
        examples = dsl.draw_examples(rng, rule, DEMONSTRATIONS + 1)
        *train, test = [Pair(check_grid(given), check_grid(output)) for given, output in examples]
        tasks.append(ArcTask(f"pretraining-{number}", tuple(train), (test.input,), (test.output,)))
    return tasks
