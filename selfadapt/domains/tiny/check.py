"""Measures what the embedded model "tiny" can do: read, remember, and write edits."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.domains.tiny import pretraining, world
from selfadapt.domains.tiny.edits import classify_line
from selfadapt.engine.generate import generate
from selfadapt.models.model import Model


def check(model: Model, *, passages: int = 64, edits: int = 4, seed: int = 0) -> dict[str, Any]:
    """Measures the abilities of the pretrained model, on held-out passages and on the entities of pretraining.

    Args:
      model: the model.
      passages: the number of held-out passages.
      edits: edits sampled per passage, at temperature 1.
      seed: seeds passages and sampling.

    Returns:
      Shares of correct answers in [0, 1]: `open_book` (with the passage in the prompt), `closed_book` (without it,
      about entities that pretraining asked about), `statements_only` (about entities it never asked about), `fresh`
      (about held-out passages that are not in the prompt: the rate of guessing); `lines_per_edit`; and `line_kinds`,
      the share of each kind among the lines of edits.
    """
    tasks = world.tasks("heldout", passages, seed)
    known = pretraining.known_entities()
    asked, unasked = known[: -pretraining.UNASKED], known[-pretraining.UNASKED :]
    prompts = {
        "open_book": [
            (f"{task.title}\n{task.context}\n{world.answer_prompt(q.question)}", q.answers[0])
            for task in tasks
            for q in task.questions
        ],
        "fresh": [(world.answer_prompt(q.question, t.title), q.answers[0]) for t in tasks for q in t.questions],
        "closed_book": _closed_book(asked, 6 * passages),
        "statements_only": _closed_book(unasked, 6 * passages),
    }
    results: dict[str, Any] = {}
    flat = [prompt for pairs in prompts.values() for prompt, _ in pairs]
    answers = iter(generate(model, flat, max_new_tokens=6, stop="\n"))  # one call compiles fewer shapes than four
    for name, pairs in prompts.items():
        results[name] = float(np.mean([next(answers).strip() == gold for _, gold in pairs]))
    texts = generate(
        model,
        [world.edit_prompt(task) for task in tasks],
        max_new_tokens=160,
        temperature=1.0,
        num_samples=edits,
        seed=seed,
        ids=[task.id for task in tasks],
    )
    lines = [
        (task, line) for task, samples in zip(tasks, texts, strict=True) for t in samples for line in t.split("\n")
    ]
    kinds = collections.Counter(classify_line(task, line).kind for task, line in lines)
    results["lines_per_edit"] = len(lines) / (passages * edits)
    results["line_kinds"] = {kind: count / len(lines) for kind, count in kinds.most_common()}
    return results


def _closed_book(entities: Sequence[world.Entity], most: int) -> list[tuple[str, str]]:
    rng = random.Random("tiny/check")
    facts = [(entity, attribute, value) for entity in entities for attribute, value in entity.facts()]
    return [
        (world.answer_prompt(attribute.evaluation.format(name=entity.mention), entity.title), value)
        for entity, attribute, value in rng.sample(facts, min(len(facts), most))
    ]
