"""REINFORCE: the policy gradient with a baseline that does not depend on the edit (Williams, 1992)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from selfadapt.errors import InvalidValueError
from selfadapt.outer.policy_gradient import PolicyGradient, gradient_settings
from selfadapt.outer.policy_update import Experience, Lesson

BASELINES = ("running", "task", "task_logit", "none")
CLIP = 0.01  # the least distance from 0 and from 1 that a reward has as log-odds


@dataclasses.dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """REINFORCE.

    Attributes:
      baseline: what a reward is compared with: "running", the moving average of the mean rewards of earlier rounds (of
        the round itself in the first); "task", the task's reward without an edit; "task_logit", the same with the
        difference taken between log-odds (rewards are clipped to [0.01, 0.99]), except for edits that could not be
        applied; or "none", zero.
      decay: how much of the moving average remains in a round.
    """

    baseline: str = "running"
    decay: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        self._check("baseline", self.baseline in BASELINES, f"one of {', '.join(BASELINES)}")
        self._check("decay", 0 <= self.decay < 1, "at least 0 and below 1")

    def extra(self) -> dict[str, np.ndarray]:
        """Returns the moving average, and the number of rounds in it."""
        return {"mean": np.zeros((), np.float32), "rounds": np.zeros((), np.int32)}

    def lesson(self, experience: Experience) -> Lesson:
        """Returns the lesson of rewards less the baseline."""
        mean, now = float(experience.extra["mean"]), float(experience.rewards.mean())
        first = int(experience.extra["rounds"]) == 0
        if self.baseline in ("task", "task_logit"):
            baseline = task_baselines(experience)
        else:
            baseline = np.full(len(experience.outcomes), 0.0 if self.baseline == "none" else now if first else mean)
        kept = now if first else self.decay * mean + (1 - self.decay) * now
        extra = {"mean": np.float32(kept), "rounds": np.int32(int(experience.extra["rounds"]) + 1)}
        advantages = experience.rewards - baseline
        if self.baseline == "task_logit":
            applied = [outcome.status == "ok" for outcome in experience.outcomes]
            advantages = np.where(applied, log_odds(experience.rewards) - log_odds(baseline), advantages)
        return self.taught(experience, list(advantages), extra)


def task_baselines(experience: Experience) -> np.ndarray:
    """Returns the reward of each outcome's task without an edit, `[outcomes]`.

    Raises:
      InvalidValueError: a task has none.
    """
    tasks = [outcome.edit.task_id for outcome in experience.outcomes]
    if missing := [task for task in tasks if task not in experience.baselines]:
        raise InvalidValueError(f"the task {missing[0]!r} has no baseline to compare its rewards with")
    return np.asarray([experience.baselines[task] for task in tasks])


def log_odds(rewards: np.ndarray) -> np.ndarray:
    """Returns the log-odds of rewards, in nats; those nearer to 0 or 1 than `CLIP` count as if they were there.

    >>> log_odds(np.asarray([0.5, 0.9])).round(3), bool(np.isfinite(log_odds(np.asarray([0.0, 1.0]))).all())
    (array([0.   , 2.197]), True)
    """
    clipped = np.clip(rewards, CLIP, 1 - CLIP)
    return np.log(clipped / (1 - clipped))


def make(config: Any) -> Reinforce:
    """Makes REINFORCE from `config.outer.reinforce`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer.reinforce
    return Reinforce(**gradient_settings(config, "reinforce"), baseline=fields.baseline, decay=fields.decay)
