"""Makes tasks of records, with errors that name a bad record; shared by all sources of passages."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from selfadapt.errors import InvalidValueError
from selfadapt.types import Question, Task

Item = TypeVar("Item")


class DataError(InvalidValueError):
    """A data file cannot be used; the message names the file, the record, the field and the remedy."""


def task_id(title: str, context: str) -> str:
    """Returns a passage's id, which does not depend on the file it was read from.

    >>> task_id("Genghis Khan", "The Shah's army was split.")
    'genghis-khan-f8c9ae9e8b'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "passage"
    digest = hashlib.sha256(f"{title}\n{context}".encode("utf-8", "replace")).hexdigest()
    return f"{slug}-{digest[:10]}"


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """Returns `record[name]`, checked.

    Raises:
      DataError: the record is no object, or the field is missing or of another type.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: is {_kind(record)}; it must be an object with the field {name!r}")
    if name not in record:
        has = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{where}: the field {name!r} is missing (it has {has}); add it, or leave the record out")
    if not isinstance(record[name], kind):
        raise DataError(f"{where}: the field {name!r} is {_kind(record[name])}; it must be {_NAMES[kind]}")
    if kind is str and re.search("[\ud800-\udfff]", record[name]):
        raise DataError(f"{where}: the field {name!r} has half of a surrogate pair, which is no text; remove it")
    return record[name]


def text(record: Any, name: str, where: str) -> str:
    """Returns a text field that is not blank; see `field`."""
    value = field(record, name, str, where)
    if not value.strip():
        raise DataError(f"{where}: the field {name!r} is empty; fill it, or leave the record out")
    return value


_NAMES: dict[type, str] = {str: "text", list: "a list", dict: "an object", Mapping: "an object", int: "a whole number"}


def _kind(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), f"{type(value).__name__} ({value!r:.40})")


def seal_task(record: Any, where: str) -> Task:
    """Makes a task of one of SEAL's records: `{title, context, questions: [{question, answer}]}`.

    A question may have `answers` (a list) in place of `answer`. `prompt` and the lists of texts `completions`,
    `pair_completions` and `triple_completions`, if the record has them, are kept as `Task.data`.

    Raises:
      DataError: see `field`; also for an empty passage.
    """
    title = field(record, "title", str, where)
    context = text(record, "context", where)
    asked = field(record, "questions", list, where)
    questions = []
    for i, item in enumerate(asked):
        at = f"{where}, question {i}"
        question = text(item, "question", at)
        golds = item["answers"] if "answers" in item else [text(item, "answer", at)]
        questions.append(Question(question, _golds(golds, at), str(item.get("id", i))))
    extra = {}
    for name in ("completions", "pair_completions", "triple_completions"):
        if name not in record:
            continue
        extra[name] = tuple(field(record, name, list, where))
        what = name.removesuffix("s").replace("_", " ")
        for i, completion in enumerate(extra[name]):
            if not isinstance(completion, str):
                raise DataError(f"{where}, {what} {i}: is {_kind(completion)}; it must be text, which may be empty")
    if "prompt" in record:
        extra["prompt"] = field(record, "prompt", str, where)
    return Task(task_id(title, context), context, tuple(questions), title, extra or None)


def _golds(golds: Any, where: str) -> tuple[str, ...]:
    if not isinstance(golds, Sequence) or isinstance(golds, str):
        raise DataError(f"{where}: 'answers' is {_kind(golds)}; it must be a list of texts")
    for gold in golds:
        if not isinstance(gold, str) or not gold.strip():
            raise DataError(f"{where}: an answer is {gold!r}; it must be text that is not empty")
    if not golds:
        raise DataError(f"{where}: there is no answer; remove the question if it has none")
    return tuple(dict.fromkeys(golds))


def seal_tasks(records: Iterable[Any], source: str) -> list[Task]:
    """Makes tasks of SEAL's records, in order.

    Raises:
      DataError: see `seal_task`; also where two records hold the same passage.
    """
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for i, record in enumerate(records):
        task = seal_task(record, f"{source}: record {i}")
        first = seen.setdefault(task.context, i)
        if first != i:
            raise DataError(
                f"{source}: records {first} and {i} hold the same passage {task.context[:40]!r}; "
                "merge their questions into one record"
            )
        tasks.append(task)
    return tasks


def squad_tasks(rows: Iterable[Any], source: str) -> list[Task]:
    """Makes tasks of SQuAD's rows, one row per question, grouped by passage in order of first appearance.

    A row is `{id, title, context, question, answers: {text: [...]}}`; `id` may be missing. Rows without an
    answer (SQuAD 2's unanswerable questions) are left out: a passage with no other question is no task.
    Underscores in titles become spaces, as in SEAL's files.

    Raises:
      DataError: a field is missing or of the wrong type, a passage is empty, or no row has an answer.
    """
    groups: dict[tuple[str, str], list[Question]] = {}
    for i, row in enumerate(rows):
        where = f"{source}: row {i}"
        title = field(row, "title", str, where).replace("_", " ")
        context = text(row, "context", where)
        question = text(row, "question", where)
        golds = field(row, "answers", Mapping, where)
        if "text" not in golds:
            raise DataError(f"{where}: the field 'answers' has no 'text'; it must be an object with a list of texts")
        if len(golds["text"]) == 0:
            continue
        questions = groups.setdefault((title, context), [])
        questions.append(Question(question, _golds(golds["text"], where), str(row.get("id", len(questions)))))
    if not groups:
        raise DataError(f"{source}: there is no row with an answer")
    return [
        Task(task_id(title, context), context, tuple(questions), title)
        for (title, context), questions in groups.items()
    ]


def seal_subset(tasks: Sequence[Task], n: int, seed: int = 42) -> list[Task]:
    """Returns SEAL's evaluation subset: the first `n` after a shuffle by Python's `random`.

    With `squad_val.json`, 200 and the default seed these are the passages of SEAL's evaluation files.

    Raises:
      ValueError: there are fewer than `n` tasks.
    """
    if not 0 <= n <= len(tasks):
        raise InvalidValueError(f"a subset of {n} passages was asked for, and there are {len(tasks)}")
    shuffled = list(tasks)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:n]


def hold_out(tasks: Sequence[Any], given: Sequence[Any] | None, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns the tasks to train on and the held-out ones; they have no id in common.

    Args:
      tasks: tasks with an `id`.
      given: held-out tasks, which are left out of the others; `None` to hold out the first ones.
      count: how many to hold out, if none are given.
    """
    if given is None:
        return tuple(tasks[count:]), tuple(tasks[:count])
    known = {task.id for task in given}
    return tuple(task for task in tasks if task.id not in known), tuple(given)


def in_turn(pool: Sequence[Item], count: int, round: int, name: str) -> list[Item]:
    """Returns the `count` items of a round; in random order, and none comes again before all came once.

    A round has no item twice, unless there are fewer than `count`.

    Args:
      pool: all items; one or more.
      count: items per round.
      round: the round, from 0.
      name: seeds the orders.

    >>> sorted(in_turn("abcd", 2, 0, "seed") + in_turn("abcd", 2, 1, "seed"))
    ['a', 'b', 'c', 'd']
    """
    size, first, last = len(pool), round * count, (round + 1) * count
    order: list[int] = []
    for lap in range(last // size + 1):
        # What the round that spans two laps had of the earlier one comes last in the later one.
        had = set(order[len(order) // count * count :])
        order += sorted(random.Random(f"{name} {lap}").sample(range(size), size), key=had.__contains__)
    return [pool[index] for index in order[first:last]]
