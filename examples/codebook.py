"""A domain in one file: remember what each word of a made-up code means.

A passage spells out a short code ("red means 4. ..."), an edit is what the policy notes about it, and
the questions ask for the meanings without the passage. From the root of the repository:

    PYTHONPATH=. selfadapt train --config=quickstart --config.domain.name=examples.codebook --workdir=runs/codebook
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from selfadapt import Question, Task, Update
from selfadapt.domains import Applied
from selfadapt.types import ContextEdit

WORDS = ("red", "blue", "green", "gold", "white", "black")


@dataclasses.dataclass(frozen=True)
class Codebook:
    """The domain.

    Attributes:
      seed: chooses the codes.
      update: how an adapter learns an edit; its sequences are filled in.
    """

    seed: int
    update: Update

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns fresh codes: others in each round of "train", always the same ones of "heldout"."""
        return [self._task(f"{split} {round if split == 'train' else 0} {index}") for index in range(count)]

    def _task(self, name: str) -> Task:
        draw = random.Random(f"codebook {self.seed} {name}")
        code = {word: str(draw.randrange(10)) for word in draw.sample(WORDS, 3)}
        questions = tuple(Question(f"What does {word} mean?", (digit,), id=word) for word, digit in code.items())
        context = " ".join(f"{word} means {digit}." for word, digit in code.items())
        return Task(id=name, context=context, questions=questions)

    def edit_prompt(self, task: Task) -> str:
        """Returns the passage under a heading; the policy continues it."""
        return f"Code\n{task.context}\nNotes:\n"

    def apply(self, task: Task, text: str | None) -> Applied:
        """Trains on every line of the edit, and on the passage."""
        lines = [line.strip() for line in (text or "").split("\n") if line.strip()]
        return self.update.replace(sequences=[*lines, task.context])

    def unchanged(self, task: Task) -> Applied:
        """Leaves the model as it is."""
        del task
        return ContextEdit("")

    def baseline(self, task: Task) -> Applied:
        """Compares edits with training on the passage alone."""
        return self.apply(task, None)

    def questions(self, task: Task, context: str) -> list[str]:
        """Asks for each meaning, after `context` where an edit put something there."""
        return [f"{context}\nQuestion: {question.question} Answer:".lstrip() for question in task.questions]

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """An answer is right when it begins with the digit."""
        return [
            [float(text.strip().startswith(q.answers)) for q, text in zip(task.questions, texts, strict=True)]
            for task, texts in zip(tasks, answers, strict=True)
        ]

    def oracle(self, task: Task) -> str:
        """Notes each meaning as the question and its answer."""
        return "\n".join(f"Question: {q.question} Answer: {q.answers[0]}" for q in task.questions)

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Counts an edit's lines by whether they name a word of the code."""
        words = [question.id for question in task.questions]
        lines = [line for line in text.split("\n") if line.strip()]
        named = sum(any(word in line for word in words) for line in lines)
        return {"names a word": named, "other": len(lines) - named}


def make(config, policy, student) -> Codebook:
    """Makes the domain; `selfadapt train` calls this where `config.domain.name` names this module."""
    del policy, student  # this domain needs no tokenizer
    return Codebook(
        config.seed, Update((), rank=8, alpha=16, targets="all-linear", learning_rate=1e-2, epochs=40, batch_size=16)
    )
