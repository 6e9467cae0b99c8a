"""The tiny world: passages without end about made-up entities, small enough for a model of a million weights.

Each entity has a name and six facts drawn at random, so a passage cannot be known beforehand: whoever
answers its questions has read it. Names are divided by a hash into three splits, "pretraining",
"train" and "heldout"; what a model is trained or judged on therefore never occurred in what the embedded
model was pretrained on.

The wordings are data, in `tiny_kinds` and `tiny_words`. The documents of pretraining are made in
`tiny_pretraining`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import re
from collections.abc import Iterable, Sequence

from selfadapt.domains.knowledge import prompts
from selfadapt.domains.tiny import words
from selfadapt.domains.tiny.kinds import KINDS, VAGUE, Attribute, Kind
from selfadapt.errors import InvalidTypeError, InvalidValueError
from selfadapt.types import Question, Task

# Out of ten names: six to pretrain on, two to train on, two to judge by.
_SHARES = {"pretraining": range(6), "train": range(6, 8), "heldout": range(8, 10)}
SPLITS = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Entity:
    """Somebody or something to write about.

    Attributes:
      kind: what it is.
      name: two words.
      values: its facts, in the order of `kind.attributes`.
    """

    kind: Kind
    name: str
    values: tuple[str, ...]

    @property
    def title(self) -> str:
        """The title of everything written about it."""
        return f"{self.kind.label} {self.name}"

    @property
    def mention(self) -> str:
        """The name as it stands in a sentence."""
        return self.kind.article + self.name

    def facts(self) -> list[tuple[Attribute, str]]:
        """Returns its attributes, each with its value."""
        return list(zip(self.kind.attributes, self.values, strict=True))


@dataclasses.dataclass(frozen=True)
class LineReport:
    """What one line of an edit is.

    Attributes:
      kind: "question-answer", "statement", "vague", "wrong value", "copy" or "other".
      noun: the attribute it speaks of, "" if that cannot be told.
    """

    kind: str
    noun: str = ""

    @property
    def right(self) -> bool:
        """Whether it tells a fact of the passage, and not in the passage's own prose."""
        return self.kind in ("question-answer", "statement")


def names(kind: Kind, split: str) -> tuple[str, ...]:
    """Returns the names of a kind that belong to a split, in a fixed order.

    Args:
      kind: one of `tiny_kinds.KINDS`.
      split: "pretraining", "train" or "heldout".
    """
    return _names_by_split(KINDS.index(kind))[split]


@functools.cache
def _names_by_split(kind: int) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {split: [] for split in _SHARES}
    for first in KINDS[kind].first:
        for second in KINDS[kind].second:
            digest = hashlib.sha256(f"{KINDS[kind].label} {first} {second}".encode()).digest()
            tenth = int.from_bytes(digest[:8]) % 10
            found[next(split for split, share in _SHARES.items() if tenth in share)].append(f"{first} {second}")
    return {split: tuple(members) for split, members in found.items()}


def pool(attribute: Attribute) -> Sequence[str]:
    """Returns every value that an attribute may have."""
    return _people() if attribute.pool == "person" else words.POOLS[attribute.pool]


@functools.cache
def _people() -> tuple[str, ...]:
    return tuple(f"{first} {second}" for first in words.PERSON_FIRST for second in words.PERSON_SECOND)


def draw_entity(rng: random.Random, kind: Kind, name: str) -> Entity:
    """Returns an entity of a given kind and name with random facts."""
    values: list[str] = []
    for attribute in kind.attributes:
        # Two attributes never share a value, and nobody is her own teacher.
        values.append(rng.choice([value for value in pool(attribute) if value not in (*values, name)]))
    return Entity(kind, name, tuple(values))


def write_passage(rng: random.Random, entity: Entity) -> str:
    """Returns a passage that says the six facts in prose, in random order, some two to a sentence."""
    clauses = []
    facts = entity.facts()
    rng.shuffle(facts)
    for attribute, value in facts:
        subject = entity.mention if not clauses or rng.random() < 0.5 else entity.kind.pronoun
        clauses.append(rng.choice(attribute.prose).format(subject=subject, value=value))
    sentences = []
    while clauses:
        count = 2 if len(clauses) > 1 and rng.random() < 0.3 else 1
        sentences.append(_sentence(" and ".join(clauses[:count])))
        del clauses[:count]
    return " ".join(sentences)


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."


def sentences(passage: str) -> list[str]:
    """Returns the sentences of a passage of this world."""
    return re.split(r"(?<=\.) ", passage)


def question_answer_line(question: str, answer: str) -> str:
    """Returns a question and its answer on one line, as edits write them."""
    return f"Question: {question} Answer: {answer}"


def edit_prompt(task: Task) -> str:
    """Returns the text after which the embedded model writes an edit."""
    return prompts.edit_prompt("notes", title=task.title, context=task.context)


def answer_prompt(question: str, title: str = "") -> str:
    """Returns the text after which the embedded model answers a question.

    Args:
      question: the question.
      title: the title of the passage asked about; "" leaves its line out.
    """
    return prompts.answer_prompt(question, title=title, style="short")


def tasks(split: str, n: int, seed: int = 0) -> list[Task]:
    """Returns fresh passages, each with one question on each of its six facts.

    The first tasks of a long list are those of a short one. Different seeds give different passages;
    inside one list every name is used once before any is used again.

    Args:
      split: "train" or "heldout".
      n: how many.
      seed: any number.

    Raises:
      ValueError: the split is unknown, or `n` is negative.
    """
    if split not in SPLITS:
        raise InvalidValueError(f"the tiny world has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise InvalidValueError(f"n is {n}; the number of tasks cannot be negative")
    every = [(kind, name) for kind in KINDS for name in names(kind, split)]
    random.Random(f"tiny/{split}/{seed}/names").shuffle(every)
    return [_task(split, seed, index, *every[index % len(every)]) for index in range(n)]


def _task(split: str, seed: int, index: int, kind: Kind, name: str) -> Task:
    rng = random.Random(f"tiny/{split}/{seed}/{index}")
    entity = draw_entity(rng, kind, name)
    questions = tuple(
        Question(attribute.evaluation.format(name=entity.mention), (value,), id=attribute.noun)
        for attribute, value in entity.facts()
    )
    return Task(
        id=f"tiny-{split}-{seed}-{index}",
        context=write_passage(rng, entity),
        questions=questions,
        title=entity.title,
        data=entity,
    )


def gold_lines(task: Task) -> list[str]:
    """Returns the oracle's edit: for each fact a right question-answer line in a wording of edits."""
    rng = random.Random(f"gold/{task.id}")
    return [
        question_answer_line(rng.choice(attribute.edit_questions).format(name=_entity(task).mention), value)
        for attribute, value in _entity(task).facts()
    ]


def gold_statements(task: Task) -> list[str]:
    """Returns the oracle's edit in plain statements, one for each fact."""
    rng = random.Random(f"statements/{task.id}")
    return [
        rng.choice(attribute.statements).format(name=_entity(task).mention, value=value)
        for attribute, value in _entity(task).facts()
    ]


def classify_line(task: Task, line: str) -> LineReport:
    """Says what a line of an edit is; for reports, never for rewards.

    A line counts as a statement, a question-answer line or a vague line when it has one of the world's wordings
    and the task's name, and as a copy when it is written in the prose of passages; with a value that is not
    the passage's it is a "wrong value".

    Args:
      task: a task of this world.
      line: one line, without its newline.
    """
    entity, line = _entity(task), line.strip()
    for attribute in entity.kind.attributes:
        if any(line == wording.format(noun=attribute.noun, name=entity.mention) for wording in VAGUE):
            return LineReport("vague", attribute.noun)
    for kind in ("question-answer", "statement"):
        if report := _told(entity, kind, line):
            return report
    clauses = [_told(entity, "copy", _sentence(clause)) for clause in line.removesuffix(".").split(" and ") if clause]
    if not clauses or None in clauses:
        return LineReport("other")
    return next((report for report in clauses if report.kind == "wrong value"), clauses[0])


def _told(entity: Entity, kind: str, line: str) -> LineReport | None:
    """Returns the report of a line if it tells some fact in a wording of the given kind of line."""
    for attribute, value in entity.facts():
        for wording in _wordings(entity, attribute, kind):
            before, after = wording.split("{value}")
            found = line.removeprefix(before).removesuffix(after)
            if line == before + found + after and found in pool(attribute):
                return LineReport(kind if found == value else "wrong value", attribute.noun)
    return None


def _wordings(entity: Entity, attribute: Attribute, kind: str) -> list[str]:
    if kind == "copy":
        subjects = (entity.mention, entity.kind.pronoun)
        return [_sentence(prose.replace("{subject}", who)) for prose in attribute.prose for who in subjects]
    questions = (*attribute.edit_questions, attribute.evaluation)
    wordings = attribute.statements if kind == "statement" else [question_answer_line(q, "{value}") for q in questions]
    return [wording.replace("{name}", entity.mention) for wording in wordings]


def _entity(task: Task) -> Entity:
    if not isinstance(task.data, Entity):
        raise InvalidTypeError(f"task {task.id!r} is not of the tiny world; make its tasks with tiny_world.tasks()")
    return task.data


def every_text() -> Iterable[str]:
    """Yields texts that hold every word of the world as documents write it; the tokenizer is made from them."""
    yield from (edit_prompt(Task(id="", context="", questions=())), " ".join(["", *_people()]))
    for kind in KINDS:
        yield from (f"{kind.label} {first} {second}" for first, second in zip(kind.first, kind.second, strict=True))
        for attribute in kind.attributes:
            values = " ".join(pool(attribute))
            mentions = {"name": kind.article, "subject": f"{kind.article} {kind.pronoun}", "value": values}
            yield from (statement.format(**mentions) for statement in attribute.statements)
            yield from (vague.format(noun=attribute.noun, **mentions) for vague in VAGUE)
            for question in (attribute.evaluation, *attribute.edit_questions):
                yield question_answer_line(question.format(**mentions), values)
            for prose in attribute.prose:
                clause = prose.format(**mentions)
                yield from (_sentence(clause), f" {_sentence(clause)} and {clause}")  # alone, and after another
