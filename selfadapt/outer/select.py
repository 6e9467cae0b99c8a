"""Which edits the policy learns from: the E-step of ReST-EM (SEAL, arXiv 2506.10943, section 3.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from selfadapt.errors import InvalidValueError
from selfadapt.telemetry.statistics import mean_and_stderr
from selfadapt.types import Outcome

METHODS = ("best", "best_improving", "improvement", "solved", "top_fraction")


@dataclasses.dataclass(frozen=True)
class Selection:
    """One of the selections below, by name.

    Attributes:
      method: "best" (`best_of`), "best_improving", "improvement", "solved" or "top_fraction".
      k: the most edits of each task, for the first two.
      margin: how much above the baseline an improvement has to be, for the middle two.
      fraction: of all edits, for the last.
      z: select by a lower confidence bound of the reward instead of the reward: so many standard errors over the inner
        runs below it (`lower_bound`).

    Raises:
      InvalidValueError: the method is unknown, or a number is out of range.
    """

    method: str = "best"
    k: int = 1
    margin: float = 0.0
    fraction: float = 0.2
    z: float = 0.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise InvalidValueError(
                f"config.outer.rest_em.select is {self.method!r}; it must be one of {', '.join(METHODS)}"
            )
        if self.k < 1 or not 0 < self.fraction <= 1:
            raise InvalidValueError(
                f"config.outer.rest_em has k {self.k} and fraction {self.fraction}; k must be at least 1, and fraction "
                "above 0 and at most 1"
            )
        if not 0 <= self.z < math.inf:
            raise InvalidValueError(f"config.outer.rest_em.z is {self.z}; it must be a finite number of at least 0")

    def __call__(self, outcomes: Sequence[Outcome], baselines: Mapping[str, float]) -> list[Outcome]:
        """Returns the outcomes to learn from.

        Raises:
          InvalidValueError: the outcomes mix policy versions, a task has no baseline, or an edit has no runs.
        """
        if not self.z:
            return self._chosen(outcomes, baselines)
        able = _eligible(outcomes)
        bounded = [dataclasses.replace(outcome, reward=lower_bound(outcome, self.z)) for outcome in able]
        original = {(outcome.edit.task_id, outcome.edit.sample): outcome for outcome in able}
        chosen = self._chosen(bounded, baselines)
        return [original[outcome.edit.task_id, outcome.edit.sample] for outcome in chosen]

    def _chosen(self, outcomes: Sequence[Outcome], baselines: Mapping[str, float]) -> list[Outcome]:
        if self.method == "best":
            return best_of(outcomes, self.k)
        if self.method == "best_improving":
            return best_improving(outcomes, baselines, self.k, self.margin)
        if self.method == "improvement":
            return improvement(outcomes, baselines, self.margin)
        if self.method == "solved":
            return solved(outcomes)
        return top_fraction(outcomes, self.fraction)

    def most(self, contexts: int, edits: int) -> int:
        """Returns the largest number of edits that can be selected from `contexts` tasks of `edits` edits each."""
        if self.method in ("improvement", "solved"):
            return contexts * edits
        if self.method == "top_fraction":
            return max(1, round(self.fraction * contexts * edits))
        return contexts * min(self.k, edits)


def check_versions(outcomes: Sequence[Outcome], what: str) -> None:
    """Refuses outcomes of different policies.

    A reward depends on the weights it was measured with (SEAL, section 3.1), so rewards of two
    versions cannot be ranked against each other.

    Args:
      outcomes: the outcomes.
      what: what compares them, for the error.

    Raises:
      InvalidValueError: they mix versions.
    """
    versions = {(outcome.edit.policy_version, outcome.policy_version) for outcome in outcomes}
    if len(versions) > 1:
        listed = ", ".join(f"written by {wrote} and scored with {scored}" for wrote, scored in sorted(versions))
        raise InvalidValueError(
            f"the outcomes mix policy versions: {listed}; {what} needs one version, so sample and score again"
        )


def _eligible(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Drops what nothing can be learnt from or was eliminated, and refuses rewards of different policies."""
    outcomes = list(outcomes)
    check_versions(outcomes, "a selection")
    return [
        outcome
        for outcome in outcomes
        if outcome.status == "ok"
        and not outcome.eliminated
        and outcome.edit.text.strip()
        and math.isfinite(outcome.reward)
    ]


def _by_task(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.edit.task_id, []).append(outcome)
    return {task: sorted(group, key=lambda outcome: outcome.edit.sample) for task, group in groups.items()}


def best_of(outcomes: Iterable[Outcome], k: int = 1) -> list[Outcome]:
    """Selects the `k` best edits of every task, as SEAL's code does; of equal ones, the earlier sample.

    The reward is taken as it is: the best of a task's edits is selected even where all of them hurt.

    Args:
      outcomes: of any number of tasks, told apart by `edit.task_id`. Edits that are empty, that could
        not be applied, that were eliminated or whose reward is not finite are passed over.
      k: how many of each task.

    Returns:
      The selected outcomes, task by task in order of first appearance, the best first.

    Raises:
      ValueError: the outcomes mix policy versions, or `k` is below 1.
    """
    if k < 1:
        raise InvalidValueError(f"k is {k!r}; it must be at least 1")
    groups = _by_task(_eligible(outcomes)).values()
    return [outcome for group in groups for outcome in sorted(group, key=lambda outcome: -outcome.reward)[:k]]


def better_half(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Selects the better half of the edits of every task, rounded up: what a stage of successive halving leaves.

    Args:
      outcomes: as for `best_of`; the edits that it passes over do not count.

    Returns:
      The selected outcomes, task by task in order of first appearance, the best first.

    Raises:
      ValueError: the outcomes mix policy versions.
    """
    groups = _by_task(_eligible(outcomes)).values()
    return [outcome for group in groups for outcome in best_of(group, (len(group) + 1) // 2)]


def lower_bound(outcome: Outcome, z: float) -> float:
    """Returns an outcome's reward less `z` standard errors of a mean over its inner runs.

    A single run, as of an edit that trains nothing, is taken as exact: `config.inner_runs` must be 2 where edits train.

    Raises:
      InvalidValueError: the outcome has no runs, so that nothing is known of the error.
    """
    if not outcome.runs:
        raise InvalidValueError(
            f"edit {outcome.edit.sample} of {outcome.edit.task_id} has no inner runs, which a lower bound needs"
        )
    if len(outcome.runs) == 1:
        return outcome.reward
    return outcome.reward - z * mean_and_stderr(outcome.runs)[1]


def improvement(outcomes: Iterable[Outcome], baselines: Mapping[str, float], margin: float = 0.0) -> list[Outcome]:
    """Selects every edit that improves on its task's baseline, as SEAL's paper says (Eq. 2).

    Args:
      outcomes: as for `best_of`.
      baselines: the reward of each task without an edit, by task id.
      margin: how much more than the baseline is an improvement; 0 means anything more.

    Returns:
      The selected outcomes, task by task in order of first appearance, by sample.

    Raises:
      ValueError: the outcomes mix policy versions, or a task has no baseline.
    """
    groups = _by_task(_eligible(outcomes))
    missing = [task for task in groups if task not in baselines]
    if missing:
        raise InvalidValueError(
            f"{len(missing)} tasks have no baseline to improve on, the first of them {missing[0]!r}"
        )
    return [outcome for task, group in groups.items() for outcome in group if outcome.reward - baselines[task] > margin]


def solved(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Selects every edit of reward 1, as SEAL does where a task is solved or not (few-shot ARC, section 4.2).

    Args:
      outcomes: as for `best_of`.

    Returns:
      The selected outcomes, task by task in order of first appearance, by sample.

    Raises:
      ValueError: the outcomes mix policy versions.
    """
    return [outcome for group in _by_task(_eligible(outcomes)).values() for outcome in group if outcome.reward >= 1.0]


def top_fraction(outcomes: Iterable[Outcome], fraction: float) -> list[Outcome]:
    """Selects the best edits of all tasks together; of equal ones, the earlier.

    Rewards are compared across tasks, so easy tasks contribute more: give gains over the baseline as
    rewards where that matters.

    Args:
      outcomes: as for `best_of`.
      fraction: in (0, 1], of the edits that can be learnt from; rounded up to a whole edit.

    Returns:
      The selected outcomes, the best first.

    Raises:
      ValueError: the outcomes mix policy versions, or `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise InvalidValueError(f"fraction is {fraction!r}; it must be in (0, 1]")
    ordered = [outcome for group in _by_task(_eligible(outcomes)).values() for outcome in group]
    # Rounding keeps 0.2 of 250 at 50, where the product may lie a hair above.
    count = math.ceil(round(fraction * len(ordered), 9))
    return sorted(ordered, key=lambda outcome: -outcome.reward)[:count]


def best_improving(
    outcomes: Iterable[Outcome], baselines: Mapping[str, float], k: int = 1, margin: float = 0.0
) -> list[Outcome]:
    """Selects the `k` best edits of every task among those that improve on its baseline; see both functions above."""
    return best_of(improvement(outcomes, baselines, margin), k)
