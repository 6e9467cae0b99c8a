"""Successive halving: more inner runs for the better edits of each task.

A reward measured by one inner run is noisy, and the best of several noisy rewards is partly luck. For the same number
of runs, halving measures the edits that can win more often and drops the others early (Karnin, Koren and Somekh 2013;
Jamieson and Talwalkar, arXiv 1502.07943).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from selfadapt.errors import InvalidValueError
from selfadapt.outer.select import better_half
from selfadapt.types import Outcome


def check(stages: Sequence[int], edits: int) -> None:
    """Refuses stages that have nothing to halve.

    Args:
      stages: further inner runs of an edit by stage, `config.halving`.
      edits: edits of each task.

    Raises:
      InvalidValueError: a stage has no runs, or a single edit is left before it.
    """
    if not all(isinstance(runs, int) and runs >= 1 for runs in stages):
        raise InvalidValueError(f"config.halving is {tuple(stages)}; each stage needs at least 1 inner run")
    most = (edits - 1).bit_length()  # halvings, rounded up, after which one edit is left
    if len(stages) > most:
        raise InvalidValueError(
            f"config.halving has {len(stages)} stages, and {edits} edits of a task can be halved {most} times; leave "
            "out stages, or raise config.edits"
        )


def halve(
    outcomes: Sequence[Outcome], stages: int, measure: Callable[[int, Sequence[Outcome]], Sequence[Outcome]]
) -> list[Outcome]:
    """Measures the better edits of each task further, stage by stage.

    Args:
      outcomes: of all edits, each with as many runs.
      stages: how often the better half of the edits that are left of each task is measured further.
      measure: called with a stage, counted from 0, and the outcomes of the edits that are left; returns the outcomes
        of further runs of these edits, in the same order.

    Returns:
      The outcomes of all edits, in their order. A reward is the mean over all verdicts of its edit. Without stages
      they are as they were; else those that had no part in the last stage are `eliminated`.
    """
    latest = {_key(outcome): outcome for outcome in outcomes}
    left = list(outcomes)
    for stage in range(stages):
        left = better_half(left)
        if not left:
            break
        left = [_joined(before, after) for before, after in zip(left, measure(stage, left), strict=True)]
        latest |= {_key(outcome): outcome for outcome in left}
    kept = {_key(outcome) for outcome in left}
    return [dataclasses.replace(latest[key], eliminated=key not in kept) for key in map(_key, outcomes)]


def _key(outcome: Outcome) -> tuple[str, int]:
    return outcome.edit.task_id, outcome.edit.sample


def _joined(before: Outcome, after: Outcome) -> Outcome:
    """Returns the outcome over the runs of two outcomes of one edit, with the status of the later."""
    verdicts = before.verdicts + after.verdicts
    return dataclasses.replace(
        after,
        reward=float(np.mean(verdicts)),
        answers=before.answers + after.answers,
        verdicts=verdicts,
        runs=before.runs + after.runs,
    )
