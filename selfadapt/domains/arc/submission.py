"""ARC's submission file: two attempts at each test output of each task, checked, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.domains.arc.grids import Grid, check_grid
from selfadapt.domains.arc.tasks import ArcTask
from selfadapt.domains.arc.vote import ATTEMPTS, solved
from selfadapt.errors import InvalidValueError

KEYS = tuple(f"attempt_{number}" for number in range(1, ATTEMPTS + 1))
NO_ATTEMPT: Grid = ((0, 0), (0, 0))  # as in ARC's sample

Submission = dict[str, list[dict[str, list[list[int]]]]]


def make_submission(attempts: Mapping[str, Sequence[Sequence[Grid]]]) -> Submission:
    """Returns the contents of a submission file.

    Args:
      attempts: for each task's id, for each of its tests, up to two grids. If there is one it is given twice.
    """

    def filled(grids: Sequence[Grid]) -> dict[str, list[list[int]]]:
        grids = list(grids) or [NO_ATTEMPT]
        return {key: [list(row) for row in grids[min(place, len(grids) - 1)]] for place, key in enumerate(KEYS)}

    return {id: [filled(grids) for grids in tests] for id, tests in attempts.items()}


def check_submission(submission: Any, tasks: Sequence[ArcTask] | None = None) -> Submission:
    """Returns a submission that has the form of ARC's: `{id: [{"attempt_1": grid, "attempt_2": grid} per test]}`.

    Args:
      submission: the contents of a submission file.
      tasks: the tasks that it has to answer, all and no others; `None` to check the form alone.

    Raises:
      InvalidValueError: it has not; the message names the task and the field.
    """
    if not isinstance(submission, dict):
        raise InvalidValueError("a submission is an object with an entry for each task")
    for id, tests in submission.items():
        if not isinstance(tests, list) or not tests:
            raise InvalidValueError(f"task {id!r} of the submission must be a list with an entry for each test")
        for number, test in enumerate(tests):
            where = f"task {id!r}, test {number} of the submission"
            if not isinstance(test, dict) or set(test) != set(KEYS):
                raise InvalidValueError(f"{where} must be an object with {' and '.join(KEYS)}")
            for key in KEYS:
                try:
                    check_grid(test[key])
                except InvalidValueError as error:
                    raise InvalidValueError(f"{where}: {key!r} {error}") from None
    if tasks is not None:
        wanted, given = (
            {task.id: len(task.tests) for task in tasks},
            {id: len(tests) for id, tests in submission.items()},
        )
        for id in (*wanted, *given):
            if wanted.get(id) != given.get(id):
                raise InvalidValueError(
                    f"the submission has {given.get(id, 0)} tests of task {id!r}, and there are {wanted.get(id, 0)}"
                )
    return submission


def score(submission: Any, tasks: Sequence[ArcTask]) -> float:
    """Returns the share of tasks that a submission solves: every test of a task, each by either attempt.

    Args:
      submission: the contents of a submission file.
      tasks: the tasks, with their solutions.

    Raises:
      InvalidValueError: it is no submission for these tasks; see `check_submission`.
    """
    check_submission(submission, tasks)
    right = [
        all(
            solved([check_grid(test[key]) for key in KEYS], solution)
            for test, solution in zip(submission[task.id], task.solutions, strict=True)
        )
        for task in tasks
    ]
    return sum(right) / len(right)
