"""RLOO: REINFORCE whose baseline is the mean reward of a task's other edits (arXiv 2402.14740)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from selfadapt.outer.policy_gradient import PolicyGradient, gradient_settings
from selfadapt.outer.policy_update import Experience


@dataclasses.dataclass(frozen=True)
class RLOO(PolicyGradient):
    """REINFORCE leave-one-out."""

    def advantages(self, experience: Experience) -> np.ndarray:
        """Returns each reward less the mean of those of the task's other edits."""
        result = np.zeros(len(experience.outcomes))
        for group in experience.by_task():
            result[group] = leave_one_out(experience.rewards[group])
        return result


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """Returns the advantages of a task's edits; zeros where all rewards are equal, or there is one.

    >>> leave_one_out(np.asarray([1.0, 0.0, 0.5]))
    array([ 0.75, -0.75,  0.  ])
    """
    if len(rewards) < 2 or np.ptp(rewards) == 0:
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)


def make(config: Any) -> RLOO:
    """Makes RLOO from `config.outer.rloo`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    return RLOO(**gradient_settings(config, "rloo"))
