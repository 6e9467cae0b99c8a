"""Sources of tasks: passages with questions, from files and hubs, made on demand, or a user's own."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Protocol

from selfadapt import data
from selfadapt.errors import UserError
from selfadapt.types import Task


class TaskSource(Protocol):
    """Where the knowledge domain's passages and questions come from."""

    @property
    def name(self) -> str:
        """What messages call the source."""

    @property
    def grader(self) -> str:
        """The grader that suits its gold answers, for `config.grader.name = "auto"`."""

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns `count` tasks: new ones each round for "train", always the same for "heldout".

        Raises:
          UserError: there are fewer.
        """

    def oracle(self, task: Task) -> str | None:
        """Returns the edit that a perfect author would write, or `None`."""

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns counts of an edit's lines by kind, for reports; empty if the source does not classify them."""


# Sources that make their tasks, by the `config.data.path` that chooses them. Each is a module with a function
# `make(config)`. They are named here and imported on demand, because they import this package's prompts.
SOURCES = {"tiny_world": "selfadapt.domains.tiny.source"}


@dataclasses.dataclass(frozen=True)
class Passages:
    """Passages that were read from a file or a hub.

    Attributes:
      name: the file or the hub's name.
      train: the passages to train on.
      heldout: the passages to evaluate on.
      seed: chooses the passages of each round.
    """

    name: str
    train: tuple[Task, ...]
    heldout: tuple[Task, ...]
    seed: int = 0
    grader = "containment"  # answers in sentences contain a gold answer and never equal it

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns passages; those of "train" come in random order, and none comes again before all came once.

        Raises:
          UserError: there are too few passages.
        """
        pool = self.heldout if split == "heldout" else self.train
        if count > len(pool):
            raise UserError(
                f"config.data.path: {self.name} has {len(pool)} passages for {split!r}, and {count} are needed; "
                "lower config.contexts or config.evaluation.contexts, or give more data"
            )
        if split == "heldout":
            return list(pool[:count])
        return data.in_turn(pool, count, round, f"passages {self.seed}")

    def oracle(self, task: Task) -> str:
        """Returns a line with the question and the first gold answer for each question of a passage."""
        return "\n".join(f"Question: {question.question} Answer: {question.answers[0]}" for question in task.questions)

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns nothing: the lines of such edits are not classified."""
        del task, text
        return {}


def make_source(config: Any, keep: Callable[[Task], bool]) -> TaskSource:
    """Returns the source that `config.data` describes.

    Args:
      config: the experiment; its fields `data`, `seed` and `evaluation.contexts` are used.
      keep: decides which passages of a file or a hub are used.

    Raises:
      UserError: the data cannot be read.
    """
    if config.data.path in SOURCES:
        return importlib.import_module(SOURCES[config.data.path]).make(config)
    return read_passages(config, keep)


def read_passages(config: Any, keep: Callable[[Task], bool]) -> Passages:
    """Reads the passages of `config.data.path`, and the held-out ones of `config.data.eval_path` if there is one.

    Both are put in SEAL's random order, if `config.data.shuffle` is set. Without `eval_path`, the first
    `config.evaluation.contexts` passages are held out; with it, passages that are in both files are not trained on.
    Passages to train on need no questions where `config.domain.questions` is "written".

    Raises:
      UserError: a file cannot be read, a held-out passage has no questions, or `keep` raises it.
    """
    written = config.domain.get("questions") == "written"

    def read(path: str, split: str | None = None, unasked: bool = False) -> list[Task]:
        tasks = data.load_tasks(path, split=split, unasked=unasked)
        if config.data.shuffle:
            tasks = data.seal_subset(tasks, len(tasks))
        return [task for task in tasks if keep(task)]

    tasks = read(config.data.path, config.data.split or None, written)
    given = read(config.data.eval_path) if config.data.eval_path else None
    train, heldout = data.hold_out(tasks, given, config.evaluation.contexts)
    for task in heldout:
        if not task.questions:
            raise UserError(
                f"config.data.path: {config.data.path}: the passage {task.title!r} ({task.id}) is held out and has no "
                "questions; name a file of passages with questions in config.data.eval_path"
            )
    return Passages(config.data.path, train, heldout, config.seed)
