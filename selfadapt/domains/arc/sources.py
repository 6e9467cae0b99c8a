"""Sources of ARC tasks: ARC-AGI's files, the tiny world of grids, or a user's own."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Protocol

from selfadapt import data
from selfadapt.domains.arc.format import Format
from selfadapt.domains.arc.tasks import ArcTask, load_tasks
from selfadapt.errors import UserError


class TaskSource(Protocol):
    """Where the domain's tasks come from."""

    @property
    def name(self) -> str:
        """What messages call the source."""

    @property
    def style(self) -> Format | None:
        """How its tasks are written, where the model needs another format than that of the config."""

    def tasks(self, split: str, count: int, round: int = 0) -> list[ArcTask]:
        """Returns `count` tasks with solutions: new ones each round for "train", always the same for "heldout".

        Raises:
          UserError: there are fewer.
        """


# Sources that make their tasks, by the `config.data.path` that chooses them. Each is a module with `make(config)`.
SOURCES = {"tiny_grids": "selfadapt.domains.tiny.grids.source"}


@dataclasses.dataclass(frozen=True)
class ArcFiles:
    """Tasks that were read from files.

    Attributes:
      name: the file or folder.
      train: the tasks to train on.
      heldout: the tasks to evaluate on.
      seed: chooses the tasks of each round.
    """

    name: str
    train: tuple[ArcTask, ...]
    heldout: tuple[ArcTask, ...]
    seed: int = 0
    style = None

    def tasks(self, split: str, count: int, round: int = 0) -> list[ArcTask]:
        """Returns tasks; those of "train" come in random order, and none comes again before all came once.

        Raises:
          UserError: there are too few tasks.
        """
        pool = self.heldout if split == "heldout" else self.train
        if count > len(pool):
            raise UserError(
                f"config.data.path: {self.name} has {len(pool)} tasks for {split!r}, and {count} are needed; lower "
                "config.contexts, config.evaluation.contexts or config.evaluation.search, or give more tasks"
            )
        return list(pool[:count]) if split == "heldout" else data.in_turn(pool, count, round, f"arc {self.seed}")


def make_source(config: Any, keep: Callable[[ArcTask], bool]) -> TaskSource:
    """Returns the source that `config.data` describes.

    Args:
      config: the experiment; its fields `data`, `seed` and `evaluation.contexts` are used.
      keep: decides which tasks of files are used.

    Raises:
      UserError: the data cannot be read.
    """
    if config.data.path in SOURCES:
        return importlib.import_module(SOURCES[config.data.path]).make(config)
    return read_tasks(config, keep)


def read_tasks(config: Any, keep: Callable[[ArcTask], bool]) -> ArcFiles:
    """Reads the tasks of `config.data.path`, and the held-out ones of `config.data.eval_path` if there is one.

    Without `eval_path`, the first `config.evaluation.contexts` tasks are held out; with it, tasks that are in both are
    not trained on.

    Raises:
      UserError: a file cannot be read, a task has no solution, or `keep` raises it.
    """

    def read(prefix: str) -> list[ArcTask]:
        fields = (config.data[f"{prefix}{name}"] for name in ("path", "solutions", "ids"))
        path, solutions, ids = fields
        if not path:
            raise UserError(f"config.data.{prefix}path is empty; name a file of ARC challenges or a folder of tasks")
        tasks = load_tasks(path, solutions or None, list(ids) or None)
        for task in tasks:
            if not task.solutions:
                raise UserError(
                    f"{path}: task {task.id!r} has no solution, by which it is judged; name the file of solutions in "
                    f"config.data.{prefix}solutions"
                )
        return [task for task in tasks if keep(task)]

    tasks = read("")
    given = read("eval_") if config.data.eval_path else None
    train, heldout = data.hold_out(tasks, given, config.evaluation.contexts)
    return ArcFiles(config.data.path, train, heldout, config.seed)
