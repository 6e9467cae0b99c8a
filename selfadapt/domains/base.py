"""What a domain supplies to the loop. A new domain is one file with these methods and a `make`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from selfadapt.types import ContextEdit, Task, Update

Applied = Update | ContextEdit


class Domain(Protocol):
    """Tasks, the edit's prompt, edit -> update, questions and grading.

    A module of a domain has a function `make(config, model) -> Domain`, which `make_domain` calls. It
    raises `UserError` where the config or the data cannot be used, before any compute is spent.
    """

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns `count` tasks: of "train" other ones each round, of "heldout" always the same."""

    def edit_prompt(self, task: Task) -> str:
        """Returns the text that the policy continues with an edit."""

    def apply(self, task: Task, text: str | None) -> Applied:
        """Turns an edit into what is done with it: training (`Update`) or a new context (`ContextEdit`).

        Args:
          task: the task that the edit was written for.
          text: the edit; `None` for adapting without one (SEAL: training on the passage alone).
        """

    def unchanged(self, task: Task) -> Applied:
        """Returns what leaves the model as it is."""

    def baseline(self, task: Task) -> Applied:
        """Returns what an edit is compared with in training: nothing at all, or adapting without an edit."""

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the evaluation's prompts; `context` is what a `ContextEdit` put in place, "" if none did."""

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns a verdict in [0, 1] for each answer to each task's questions, in order."""

    def oracle(self, task: Task) -> str | None:
        """Returns the edit that a perfect author would write, `None` if there is no such thing."""

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Counts what an edit consists of, by kind, for reports only; empty if the domain cannot tell."""
