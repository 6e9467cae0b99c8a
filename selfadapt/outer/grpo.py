"""GRPO: advantages relative to a task's other edits, in a clipped surrogate (DeepSeekMath, arXiv 2402.03300)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from selfadapt.engine.policy import Loss
from selfadapt.outer.losses import PolicyLoss
from selfadapt.outer.policy_gradient import PolicyGradient, gradient_settings
from selfadapt.outer.policy_update import Experience

EPSILON = 1e-4  # as in TRL's GRPOTrainer


@dataclasses.dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Group relative policy optimization.

    Attributes:
      clip: how far a token's ratio may fall below 1 before its gradient ends.
      clip_high: how far it may rise above 1; more than `clip` keeps more of rare tokens (DAPO, arXiv 2503.14476).
      divide_by_std: divide advantages by the standard deviation of the task's rewards, or not (Dr. GRPO, arXiv
        2503.20783, which has `normalize` "constant" as well).
    """

    clip: float = 0.2
    clip_high: float = 0.2
    divide_by_std: bool = True

    def __post_init__(self):
        super().__post_init__()
        self._check("clip", 0 < self.clip < 1, "above 0 and below 1")
        self._check("clip_high", self.clip_high > 0, "above 0")

    @property
    def loss(self) -> Loss:
        """The clipped surrogate."""
        return PolicyLoss((self.clip, self.clip_high), self.kl, self.entropy)

    def advantages(self, experience: Experience) -> np.ndarray:
        """Returns each reward less the mean of its task's, divided by their standard deviation."""
        result = np.zeros(len(experience.outcomes))
        for group in experience.by_task():
            result[group] = group_advantages(experience.rewards[group], self.divide_by_std)
        return result


def group_advantages(rewards: np.ndarray, divide_by_std: bool) -> np.ndarray:
    """Returns the advantages of a task's edits; zeros where all rewards are equal, or there is one.

    >>> group_advantages(np.asarray([1.0, 0.0, 0.5]), divide_by_std=False)
    array([ 0.5, -0.5,  0. ])
    """
    advantages = rewards - rewards.mean()
    if len(rewards) < 2 or np.ptp(rewards) == 0:
        return np.zeros_like(advantages)
    return advantages / (rewards.std(ddof=1) + EPSILON) if divide_by_std else advantages


def make(config: Any) -> GRPO:
    """Makes GRPO from `config.outer.grpo`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer.grpo
    own = {name: fields[name] for name in ("clip", "clip_high", "divide_by_std")}
    return GRPO(**gradient_settings(config, "grpo"), **own)
