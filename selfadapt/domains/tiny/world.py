"""The tiny world: any number of passages about made-up entities, simple enough for a model of a million weights.

Each entity has a name and six facts drawn at random, so its questions cannot be answered without its passage.
Names are divided by a hash into three splits, "pretraining", "train" and "heldout". No entity of "train" or
"heldout" is the subject of any document that the embedded model was pretrained on.

Their names do not all stay out of pretraining: an artist has the name of a person, and persons are the values of
attributes such as "mayor" and "teacher". All 306 "train" and 312 "heldout" names of artists (of 1,260 and 1,233 names
of all kinds) occur in pretraining as the values of other entities, about 37 times each, and never with a fact of their
own; names of cities, companies and birds do not occur (`python -m benchmarks.pretraining_names`).

The wordings are data, in `kinds` and `words`. `edits` reads and writes edits, `pretraining` makes the documents of
pretraining.
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
from selfadapt.domains.tiny.splits import SPLITS
from selfadapt.errors import InvalidValueError
from selfadapt.types import Question, Task

# Out of ten names: six to pretrain on, two to train on, two to judge by.
_SHARES = {"pretraining": range(6), "train": range(6, 8), "heldout": range(8, 10)}


@dataclasses.dataclass(frozen=True)
class Entity:
    """The subject of a passage: a name of some kind with six facts.

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
        """The name as it is written within a sentence."""
        return self.kind.article + self.name

    def facts(self) -> list[tuple[Attribute, str]]:
        """Returns its attributes, each with its value."""
        return list(zip(self.kind.attributes, self.values, strict=True))


def names(kind: Kind, split: str) -> tuple[str, ...]:
    """Returns the names of a kind that belong to a split, in a fixed order.

    Args:
      kind: one of `kinds.KINDS`.
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
        # No two attributes share a value, and nobody is her own teacher.
        values.append(rng.choice([value for value in pool(attribute) if value not in (*values, name)]))
    return Entity(kind, name, tuple(values))


def write_passage(rng: random.Random, entity: Entity) -> str:
    """Returns a passage that states the six facts in prose, in random order, one or two per sentence."""
    clauses: list[str] = []
    facts = entity.facts()
    rng.shuffle(facts)
    for attribute, value in facts:
        subject = entity.mention if not clauses or rng.random() < 0.5 else entity.kind.pronoun
        clauses.append(rng.choice(attribute.prose).format(subject=subject, value=value))
    sentences = []
    while clauses:
        count = 2 if len(clauses) > 1 and rng.random() < 0.3 else 1
        sentences.append(sentence(" and ".join(clauses[:count])))
        del clauses[:count]
    return " ".join(sentences)


def sentence(clause: str) -> str:
    """Returns a clause of prose as a sentence, with a capital letter and a full stop."""
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
    """Returns passages, each with one question on each of its six facts.

    A longer list starts with the tasks of a shorter one. Different seeds give different passages; within a
    list every name is used once before any is used again.

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
    subjects = _subjects(split, seed)
    return [_task(split, seed, index, *subjects[index % len(subjects)]) for index in range(n)]


def task(task_id: str) -> Task:
    """Returns the task with a given id.

    Raises:
      ValueError: no task of this world has that id.

    >>> task("tiny-heldout-3-1") == tasks("heldout", 2, seed=3)[1]
    True
    """
    found = re.fullmatch(r"tiny-(\w+)-(-?\d+)-(\d+)", task_id)
    if found is None or found[1] not in SPLITS:
        raise InvalidValueError(f"{task_id!r} is no id of the tiny world, such as 'tiny-heldout-0-12'")
    split, seed, index = found[1], int(found[2]), int(found[3])
    subjects = _subjects(split, seed)
    return _task(split, seed, index, *subjects[index % len(subjects)])


@functools.lru_cache(maxsize=8)
def _subjects(split: str, seed: int) -> tuple[tuple[Kind, str], ...]:
    """Returns every kind and name of a split in the order in which tasks use them."""
    every = [(kind, name) for kind in KINDS for name in names(kind, split)]
    random.Random(f"tiny/{split}/{seed}/names").shuffle(every)
    return tuple(every)


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


def every_text() -> Iterable[str]:
    """Yields texts with every word of the world as documents write it; the tokenizer is built from them."""
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
                yield from (sentence(clause), f" {sentence(clause)} and {clause}")  # alone, and after another
