"""The protocol of domains. A new domain is one file with these methods and a function `make`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from selfadapt.types import ContextEdit, Task, Update

Applied = Update | ContextEdit


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
        """Turns an edit into training (`Update`) or a new context (`ContextEdit`).

        Args:
          task: the task that the edit was written for.
          text: the edit; `None` for adapting without one (SEAL: training on the passage alone).
        """

    def unchanged(self, task: Task) -> Applied:
        """Returns the application that leaves the model unchanged."""

    def baseline(self, task: Task) -> Applied:
        """Returns the application that edits are compared with: no change, or adapting without an edit."""

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the evaluation's prompts; `context` is that of a `ContextEdit`, or ""."""

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns a verdict in [0, 1] for each answer to each task's questions, in order."""

    def oracle(self, task: Task) -> str | None:
        """Returns the edit that a perfect author would write, or `None`."""

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns counts of an edit's parts by kind, for reports; empty if the domain does not classify them."""
