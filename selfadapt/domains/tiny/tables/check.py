"""Measures what the model of the world of tables can do: use the lines of a prompt, and write edits of each way."""

from __future__ import annotations

import collections

import numpy as np

from selfadapt.domains.tiny.rules.families import write_piece
from selfadapt.domains.tiny.rules.format import END, LINES
from selfadapt.domains.tiny.tables.cases import FACTS
from selfadapt.domains.tiny.tables.source import TinyTables
from selfadapt.domains.weights_or_words.sections import BOTH, WEIGHTS, WORDS, parse_sections
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidEdit
from selfadapt.models.model import Model

ANSWER_TOKENS, EDIT_TOKENS = 6, 128


def check(model: Model, *, cases: int = 32, edits: int = 4, seed: int = 0) -> dict[str, dict[str, float]]:
    """Measures the abilities of the pretrained model on held-out cases; nothing is trained.

    Edits are sampled at temperature 1. Answers are the likeliest.

    Args:
      model: the model.
      cases: how many of each kind.
      edits: edits sampled for each.
      seed: seeds cases and sampling.

    Returns:
      For each kind of case: `looked_up`, the accuracy on the questions about lines that are in the prompt, of which
      there are as many as it takes; `unknown`, that on all questions without them; the shares of sampled edits that are
      `words`, `weights`, `both` or `invalid`; and `right`, the share of the lines of valid edits that are right.
    """
    tasks = TinyTables(seed).tasks("heldout", cases * len(FACTS))
    lines = [[write_piece(line) for group in task.data.groups.values() for line in group] for task in tasks]
    source, prompts = TinyTables(), []
    for task, own in zip(tasks, lines, strict=True):
        prompts += source.questions(task, own[:LINES]) + source.questions(task, ())
    answers = iter(generate(model, prompts, max_new_tokens=ANSWER_TOKENS, stop=END))
    written = generate(
        model,
        [source.edit_prompt(task) for task in tasks],
        max_new_tokens=EDIT_TOKENS,
        temperature=1.0,
        num_samples=edits,
        seed=seed,
    )
    values: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for task, own, texts in zip(tasks, lines, written, strict=True):
        entry = values[task.title]
        for name in ("looked_up", "unknown"):
            for question in task.questions:
                right = next(answers).strip() in question.answers
                asked = question.question
                if name == "unknown" or " " in asked or any(line.startswith(f"{asked} =") for line in own[:LINES]):
                    entry[name].append(right)
        for text in texts:
            try:
                sections = parse_sections(text, most_words=LINES)
            except InvalidEdit:
                way = "invalid"
            else:
                way = sections.way
                entry["right"] += [line in own for line in (*sections.words, *sections.weights)]
            for name in (WORDS, WEIGHTS, BOTH, "invalid"):
                entry[name].append(name == way)
    return {
        kind: {name: float(np.mean(some)) for name, some in sorted(entry.items())} for kind, entry in values.items()
    }
