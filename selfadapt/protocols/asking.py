"""Asks models about passages without showing them, and grades the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from selfadapt.domains import Domain
from selfadapt.engine.generate import generate
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model
from selfadapt.telemetry import meter
from selfadapt.types import Task


def ask(
    model: Model,
    domain: Domain,
    asked: Sequence[Sequence[Task]],
    answer: Any,
    adapters: Adapters | None = None,
    write: Callable[..., list[str]] | None = None,
) -> dict[str, list[list[list[Any]]]]:
    """Asks the questions of tasks, all models at once.

    Args:
      model: the base model.
      domain: makes the prompts and grades the answers.
      asked: for each model the tasks that it is asked about.
      answer: the group of fields `config.answer`.
      adapters: the models' adapters, one each; `None` if all of them are the base, which answers each question once.
      write: continues the prompts of each model and task in place of `generate`, and returns all texts in order.

    Returns:
      "answers" and "verdicts", as JSON values: for each model and task those to its questions.
    """
    prompts = [[domain.questions(task, "") for task in tasks] for tasks in asked]
    flat = [[prompt for each in lists for prompt in each] for lists in prompts]
    options: dict[str, Any] = dict(max_new_tokens=answer.max_new_tokens, stop=tuple(answer.stop))
    if write is not None:
        texts = write(prompts, **options)
    elif adapters is None:
        different = list(dict.fromkeys(prompt for each in flat for prompt in each))
        known = dict(zip(different, generate(model, different, **options), strict=True))
        texts = [known[prompt] for each in flat for prompt in each]
    else:
        texts = [text for own in generate(model, flat, adapters=adapters, **options) for text in own]
    left = iter(texts)
    answers = [[[next(left) for _ in each] for each in lists] for lists in prompts]
    tasks = [task for each in asked for task in each]
    verdicts = iter(domain.grade(tasks, [one for each in answers for one in each]))
    meter.add("edits", scored=len(tasks))
    return {"answers": answers, "verdicts": [[list(next(verdicts)) for _ in each] for each in asked]}
