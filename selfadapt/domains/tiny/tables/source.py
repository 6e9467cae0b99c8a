"""The tiny world of tables as a source of tasks, for the domain "weights_or_words"."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.domains.tiny.rules.families import write_piece
from selfadapt.domains.tiny.rules.format import END
from selfadapt.domains.tiny.splits import numbers
from selfadapt.domains.tiny.tables.cases import FACTS, Case, ask, draw_case
from selfadapt.domains.weights_or_words.sections import FREE, WEIGHTS, WORDS, Sections
from selfadapt.types import Question, Task, TrainingSequence

QUESTIONS = 16  # of a task; of a mixed one half are about its rule


@dataclasses.dataclass(frozen=True)
class TinyTables:
    """Cases without end, whose kinds take turns.

    Attributes:
      seed: chooses the cases and the questions.
    """

    seed: int = 0
    name = "the tiny world of tables"

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns cases: new ones each round for "train", always the same for "heldout".

        The rules of one split do not occur in the other, nor in pretraining.

        Raises:
          InvalidValueError: there is no such split.
        """
        return [_draw(split, self.seed, number) for number in numbers(self.name, split, count, round)]

    def kind(self, task_id: str) -> str:
        """Returns the kind of a case, a key of `selfadapt.domains.tiny.tables.cases.FACTS`."""
        return task_id.split("-")[0]

    def edit_prompt(self, task: Task) -> str:
        """Returns the facts and the examples of the rule."""
        return task.context

    def questions(self, task: Task, lines: Sequence[str]) -> list[str]:
        """Returns the prompts of the questions after the lines of an instruction."""
        return [ask(lines, question.question) for question in task.questions]

    def sequence(self, line: str) -> TrainingSequence:
        """Returns a line's key as the prompt and its value as the target; all of a line of another form is a target."""
        key, equals, value = line.partition(write_piece(("", "")))
        return (key + equals, value + END) if equals else ("", line + END)

    def oracles(self, task: Task, most_words: int) -> Mapping[str, Sections]:
        """Returns the edits of a perfect author, who writes rules as words and tables as weights."""
        groups = {name: tuple(map(write_piece, lines)) for name, lines in task.data.groups.items()}
        rule, table = groups.get("rule", ()), groups.get("table", ())
        lines = (*rule, *table)
        return {FREE: Sections(rule, table), WORDS: Sections(lines[:most_words]), WEIGHTS: Sections((), lines)}


def make(config: Any, model: Any = None) -> TinyTables:
    """Returns the world with the seed of an experiment."""
    del model
    return TinyTables(config.seed)


def _draw(split: str, seed: int, number: int) -> Task:
    rng = random.Random(f"tiny/tables/{split}/{seed}/{number}")
    kind = list(FACTS)[number % len(FACTS)]
    case = draw_case(rng, split, kind)
    of_rule = {"rule": QUESTIONS, "table": 0, "mixed": QUESTIONS // 2}[kind]
    asked = [*_about_rule(rng, case, of_rule), *rng.sample(case.facts, QUESTIONS - of_rule)]
    questions = tuple(Question(question, (answer,), str(place)) for place, (question, answer) in enumerate(asked))
    return Task(f"{kind}-{split}-{seed}-{number}", case.prompt, questions, kind, case)


def _about_rule(rng: random.Random, case: Case, count: int) -> list[tuple[str, str]]:
    """Returns different questions, none of which is an example, about all keys in turn."""
    found: dict[str, str] = {}
    while case.rule and len(found) < count:
        question = case.rule.family.ask(rng, case.rule.asked[len(found) % len(case.rule.asked)])
        if question not in case.examples:
            found[question] = case.rule.family.answer(question, case.rule.values)
    return list(found.items())
