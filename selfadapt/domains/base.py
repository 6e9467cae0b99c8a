"""The protocol of domains. A new domain is one file with these methods and a function `make`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from selfadapt.types import ContextEdit, Outcome, Rejected, Task, Update

if TYPE_CHECKING:
    from selfadapt.models.policy import State
    from selfadapt.telemetry.progress import Phase

Applied = Update | ContextEdit | Rejected


class Domain(Protocol):
    """Tasks, the edit's prompt, edit -> update, questions and grading.

    A domain's module has a function `make(config, policy, student) -> Domain`, which `make_domain` calls with
    the two models (one and the same by default). It raises `UserError` for everything in the config or the data
    that cannot be used, before any compute is spent.
    """

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns `count` tasks: new ones each round for "train", always the same for "heldout"."""

    def edit_prompt(self, task: Task) -> str:
        """Returns the text that the policy continues with an edit."""

    def apply(self, task: Task, text: str | None) -> Applied:
        """Turns an edit into training (`Update`), a new context (`ContextEdit`), or both (`ContextUpdate`).

        Args:
          task: the task that the edit was written for.
          text: the edit; `None` for adapting without one (SEAL: training on the passage alone). Where a domain has
            nothing to adapt to without an edit, it returns what `unchanged` does.

        Raises:
          InvalidEdit: the edit cannot be applied; the message is the reason. It is then scored as the unchanged model,
            with the reason as the outcome's status.
        """

    def unchanged(self, task: Task) -> Applied:
        """Returns the application that leaves the model unchanged."""

    def baseline(self, task: Task) -> Applied:
        """Returns the application that edits are compared with: no change, or adapting without an edit."""

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the evaluation's prompts; `context` is that of the edit, or ""."""

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns the verdicts on the answers to each task's questions, in [0, 1]; their mean is the reward.

        There is one verdict for each answer, in order, or fewer where several answers are judged together.
        """

    def oracle(self, task: Task) -> str | None:
        """Returns the edit that a perfect author would write, or `None`."""

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns counts of an edit's parts by kind, for reports; empty if the domain does not classify them.

        Where an edit is made of choices, the kinds are their values, such as "epochs: 2".
        """


@runtime_checkable
class Searchable(Protocol):
    """A domain whose edits are choices that suit any task, so that they can be enumerated and drawn at random.

    The evaluation then has a row of random edits and one of the edit that is best for all tasks.
    """

    def candidates(self) -> list[str]:
        """Returns the edits among which the best constant one is searched."""

    def random_edit(self, draw: random.Random) -> str:
        """Returns a random edit."""


@runtime_checkable
class Referenced(Protocol):
    """A domain with reference rows beside those of every domain; they are scored with the untrained student."""

    def references(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[Applied]]:
        """Returns further reference rows by name: what is applied to each of the held-out tasks, in their order.

        Raises:
          UserError: a row cannot be computed. It is called before any compute is spent.
        """


@runtime_checkable
class Narrowed(Protocol):
    """A domain with narrower forms of itself, each with fewer kinds of edit to choose from.

    The evaluation then has control rows of what the untrained and the last policy write in each of them.
    """

    def narrowed(self) -> Mapping[str, Domain]:
        """Returns the narrower forms by the name of what is left; they have the same tasks."""


@runtime_checkable
class Prepared(Protocol):
    """A domain whose tasks are made with the models, once, before the first round."""

    def prepare(self, state: State, phase: Phase) -> Domain:
        """Returns the domain with these tasks.

        Until then `tasks` returns as many of them with what needs no model, and raises what it would raise later. A run
        that resumes calls this again: what takes long is looked up in `selfadapt.checkpoint.units.current()`.

        Args:
          state: the state before the first round.
          phase: wraps each phase, for a progress display; it is called with the phase's name and number of units.
        """

    def artifacts(self) -> Mapping[str, Any]:
        """Returns JSON files about the preparation by their path in the workdir."""


@runtime_checkable
class Rated(Protocol):
    """A domain that can rate an edit by its text, for a reward that needs no inner update (`config.reward`)."""

    def rate(self, tasks: Sequence[Task], texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Returns the ratings of the edit of each task; `selfadapt.graders.rubric` makes rewards of them."""


@runtime_checkable
class Recorded(Protocol):
    """A domain that adds to what a run records."""

    def record(self, task: Task, outcome: Outcome) -> dict[str, Any]:
        """Returns further fields of an edit's line in `edits.jsonl`."""

    def numbers(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Returns scalars about a row of the evaluation, beside the mean reward."""

    def files(self, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Returns JSON files for the workdir by name, made of the last policy's outcomes on the held-out tasks."""
