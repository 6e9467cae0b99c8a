"""A domain in which the policy decides, by what it writes, between a new context and an update of the weights.

SEAL's edits (arXiv 2506.10943) are always trained on and LSE's (arXiv 2603.18620) are always instructions. Here an edit
has sections of either kind (`sections`), and the reward is the accuracy on the task's questions, however it came about.
The policy itself learns which way pays for which task.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from selfadapt.config import find_factory
from selfadapt.domains.base import Applied, Domain
from selfadapt.domains.common import count_tokens, fits, inner_update
from selfadapt.domains.weights_or_words.sections import FREE, SECTIONS, WEIGHTS, WORDS, Sections, marker, parse_sections
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.models.model import Model
from selfadapt.types import ContextEdit, ContextUpdate, Outcome, Task, TrainingSequence, Update

SOURCES = {"tiny_tables": "selfadapt.domains.tiny.tables.source"}


class CaseSource(Protocol):
    """Where tasks come from; their `Task.title` is the kind of task that reports distinguish."""

    @property
    def name(self) -> str:
        """What messages call the source."""

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns `count` tasks: new ones each round for "train", always the same for "heldout".

        Raises:
          UserError: there is no such split, or there are fewer tasks.
        """

    def kind(self, task_id: str) -> str:
        """Returns the kind of a task, given its id."""

    def edit_prompt(self, task: Task) -> str:
        """Returns the text that the policy continues with an edit."""

    def questions(self, task: Task, lines: Sequence[str]) -> list[str]:
        """Returns the prompts of the questions after an instruction of some lines, or of none."""

    def sequence(self, line: str) -> TrainingSequence:
        """Returns what training on a line is; any text can be one."""

    def oracles(self, task: Task, most_words: int) -> Mapping[str, Sections]:
        """Returns the edits of a perfect author: under WORDS and WEIGHTS of this way alone, under FREE the best one."""


@dataclasses.dataclass(frozen=True)
class WeightsOrWords:
    """The domain; `make` builds it from a config.

    Attributes:
      source: supplies tasks, prompts and the form of training sequences.
      student: the model that is adapted and answers.
      update: the training of an adapter on the lines of a section; its sequences are filled in.
      most_words: the most lines of an instruction.
      answer_tokens: the most tokens of an answer, which follows the instruction in the student's context.
      way: `FREE`, or the only section that edits have.
    """

    source: CaseSource
    student: Model
    update: Update
    most_words: int
    answer_tokens: int
    way: str = FREE

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns the source's tasks."""
        return self.source.tasks(split, count, round)

    def edit_prompt(self, task: Task) -> str:
        """Returns the text that the policy continues; it ends with the marker where there is one way only."""
        prompt = self.source.edit_prompt(task)
        return prompt if self.way == FREE else f"{prompt}{marker(self.way)}\n"

    def sections(self, text: str) -> Sections:
        """Returns the sections of an edit that are applied.

        Raises:
          InvalidEdit: the text does not have the form of `parse_sections`.
        """
        if self.way == FREE:
            return parse_sections(text, most_words=self.most_words)
        found = parse_sections(f"{marker(self.way)}\n{text}", most_words=self.most_words)
        return Sections(**{self.way: getattr(found, self.way)})

    def apply(self, task: Task, text: str | None) -> Applied:
        """Returns the lines of the sections as a context, as training, or as both; without an edit, no change.

        Raises:
          InvalidEdit: the text has no sections that can be used, or an instruction that makes prompts too long.
        """
        return self.unchanged(task) if text is None else self._applied(task, self.sections(text))

    def _applied(self, task: Task, sections: Sections) -> Applied:
        limit = self.student.config.max_position_embeddings - self.answer_tokens
        for prompt in self.source.questions(task, sections.words) if sections.words else ():
            if not fits(self.student.tokenizer, prompt, limit):
                tokens = count_tokens(self.student.tokenizer, prompt)
                raise InvalidEdit(
                    f"the lines under {marker(WORDS)!r} make a prompt of {tokens} tokens, and the model's context "
                    f"leaves {limit}"
                )
        context = "\n".join(sections.words)
        if not sections.weights:
            return ContextEdit(context)
        update = self.update.replace(sequences=tuple(map(self.source.sequence, sections.weights)))
        return ContextUpdate.of(update, context) if context else update

    def unchanged(self, task: Task) -> Applied:
        """Returns no context and no training."""
        del task
        return ContextEdit("")

    def baseline(self, task: Task) -> Applied:
        """Compares edits with the unchanged model."""
        return self.unchanged(task)

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the prompts of the questions, after the lines of a context if there is one."""
        return self.source.questions(task, context.split("\n") if context else ())

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """An answer is right if it is one of the question's, apart from spaces around it."""
        return [
            [float(text.strip() in question.answers) for question, text in zip(task.questions, texts, strict=True)]
            for task, texts in zip(tasks, answers, strict=True)
        ]

    def oracle(self, task: Task) -> str:
        """Returns what a perfect author writes after the prompt; it chooses the way by the kind of task, if it may."""
        text = self._oracle(task, self.way).write()
        return text if self.way == FREE else text.removeprefix(f"{marker(self.way)}\n")

    def _oracle(self, task: Task, way: str) -> Sections:
        return self.source.oracles(task, self.most_words)[way]

    def references(self, tasks: Sequence[Task]) -> dict[str, list[Applied]]:
        """Returns the rows of a perfect author who has one way only."""
        ways = SECTIONS if self.way == FREE else ()
        return {f"oracle, {way} only": [self._applied(task, self._oracle(task, way)) for task in tasks] for way in ways}

    def narrowed(self) -> Mapping[str, Domain]:
        """Returns the domain with words only, and with weights only."""
        if self.way != FREE:
            return {}
        return {f"{way} only": dataclasses.replace(self, way=way) for way in SECTIONS}

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns the way of an edit as a choice that is named by the kind of the task."""
        try:
            way = self.sections(text).way
        except InvalidEdit:
            way = "invalid"
        return {f"{task.title}: {way}": 1}

    def record(self, task: Task, outcome: Outcome) -> dict[str, Any]:
        """Returns nothing: the kinds of `describe` are recorded already."""
        del task, outcome
        return {}

    def numbers(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Returns the mean reward of each kind of task, as "reward, KIND"."""
        rewards = collections.defaultdict(list)
        for outcome in outcomes:
            rewards[self.source.kind(outcome.edit.task_id)].append(outcome.reward)
        return {f"reward, {kind}": float(np.mean(some)) for kind, some in rewards.items()}

    def files(self, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Returns no files."""
        del tasks, outcomes
        return {}


def make(config: Any, policy: Model, student: Model | None = None, *, source: CaseSource | None = None) -> Domain:
    """Makes the domain from an experiment (`selfadapt.defaults.experiment("weights_or_words")`).

    Args:
      config: the resolved experiment.
      policy: the model that writes edits.
      student: the model that is adapted and answers; the policy by default.
      source: tasks of your own, in place of what `config.data.source` names.

    Raises:
      UserError: a field's value cannot be used.
    """
    student = policy if student is None else student
    fields = config.domain
    if fields.way not in (FREE, WORDS, WEIGHTS):
        raise InvalidValueError(f"config.domain.way is {fields.way!r}; it must be one of {FREE}, {WORDS}, {WEIGHTS}")
    if fields.most_words < 1:
        raise InvalidValueError(f"config.domain.most_words is {fields.most_words}; it must be at least 1")
    if source is None:
        name = config.data.source
        factory = find_factory(SOURCES.get(name, name), "config.data.source", __name__, tuple(SOURCES))
        source = factory(config, student)
    return WeightsOrWords(
        source=source,
        student=student,
        update=inner_update(config, student.config).replace(loss="target"),
        most_words=fields.most_words,
        answer_tokens=config.answer.max_new_tokens,
        way=fields.way,
    )
