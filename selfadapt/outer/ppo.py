"""PPO: a clipped surrogate with advantages from a value head (arXiv 1707.06347)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine.policy import Loss, Rows, Statistics
from selfadapt.outer.losses import PolicyLoss
from selfadapt.outer.policy_gradient import PolicyGradient, gradient_settings
from selfadapt.outer.policy_update import Experience, Lesson
from selfadapt.outer.reinforce import task_baselines

BASELINES = ("task", "none")


@dataclasses.dataclass(frozen=True)
class ValueLoss:
    """The surrogate, and the squared error of the value head's predictions V of the returns.

    The error is max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2, with returns R in `Rows.data["returns"]` and
    the predictions before the round V_old in `Rows.data["values"]`. It trains the value head alone.

    Attributes:
      policy: the surrogate.
      clip: c, how far a prediction may move in a round before its gradient ends.
    """

    policy: PolicyLoss
    clip: float

    def __call__(self, statistics: Statistics, rows: Rows) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the sum of both, and the numbers of the surrogate with the error as "value_loss"."""
        loss, numbers = self.policy(statistics, rows)
        data, values = rows.data, statistics.values
        assert values is not None, "the loss of values needs a value head"
        near = jnp.clip(values, data["values"] - self.clip, data["values"] + self.clip)
        error = jnp.maximum((values - data["returns"]) ** 2, (near - data["returns"]) ** 2) / 2
        value_loss = (data["weight"] * error).sum()
        return loss + value_loss, numbers | {"value_loss": value_loss}


@dataclasses.dataclass(frozen=True)
class PPO(PolicyGradient):
    """Proximal policy optimization with tokens as actions; the reward comes with the last one.

    Attributes:
      clip: how far a token's ratio may move from 1 before its gradient ends.
      value_clip: the same for a prediction of the value head.
      discount: of later rewards, per token (gamma).
      trace: the share of the next token's error in a token's advantage (lambda of generalized advantage estimation).
      baseline: what is subtracted from rewards first: "task", the task's reward without an edit, or "none".
      whiten: subtract the mean of all tokens' advantages, and divide by their standard deviation.
    """

    clip: float = 0.2
    value_clip: float = 0.2
    discount: float = 1.0
    trace: float = 0.95
    baseline: str = "task"
    whiten: bool = True

    def __post_init__(self):
        super().__post_init__()
        self._check("clip", 0 < self.clip < 1, "above 0 and below 1")
        self._check("value_clip", self.value_clip > 0, "above 0")
        for field in ("discount", "trace"):
            self._check(field, 0 <= getattr(self, field) <= 1, "at least 0 and at most 1")
        self._check("baseline", self.baseline in BASELINES, f"one of {', '.join(BASELINES)}")

    @property
    def loss(self) -> Loss:
        """The clipped surrogate and the loss of the value head."""
        return ValueLoss(PolicyLoss((self.clip, self.clip), self.kl, self.entropy), self.value_clip)

    def value_head(self, hidden: int) -> dict[str, np.ndarray]:
        """Returns a head that predicts zero."""
        return {"kernel": np.zeros(hidden, np.float32), "bias": np.zeros((), np.float32)}

    def lesson(self, experience: Experience) -> Lesson:
        """Returns the lesson of advantages by token."""
        rewards = experience.rewards - (task_baselines(experience) if self.baseline == "task" else 0.0)
        values = [np.asarray(each.values, float) for each in experience.before]
        pairs = [
            generalized_advantages(float(reward), own, self.discount, self.trace)
            for reward, own in zip(rewards, values, strict=True)
        ]
        advantages, returns = [own for own, _ in pairs], [own for _, own in pairs]
        flat = np.concatenate(advantages)
        if self.whiten and flat.size:
            advantages = [(own - flat.mean()) / (flat.std() + 1e-8) for own in advantages]
        lesson = self.taught(experience, advantages, more={"values": values, "returns": returns})
        spread = np.concatenate(returns).var() if flat.size else 0.0
        explained = 1 - np.concatenate([r - v for r, v in zip(returns, values, strict=True)]).var() / max(spread, 1e-12)
        return dataclasses.replace(lesson, metrics={"value_explained": float(explained)})


def generalized_advantages(
    reward: float, values: np.ndarray, discount: float, trace: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the advantages and returns of an edit's tokens, each `[tokens]` (GAE, arXiv 1506.02438, equation 16).

    Args:
      reward: of the edit, which comes with its last token.
      values: predictions before each token, `[tokens]`.
      discount: gamma.
      trace: lambda.

    >>> generalized_advantages(1.0, np.asarray([0.5, 0.25]), discount=1.0, trace=0.5)
    (array([0.125, 0.75 ]), array([0.625, 1.   ]))
    """
    advantages, following, later = np.zeros(len(values)), 0.0, 0.0
    for place in reversed(range(len(values))):
        error = (reward if place == len(values) - 1 else 0.0) + discount * following - values[place]
        later = error + discount * trace * later
        advantages[place], following = later, values[place]
    return advantages, advantages + values


def make(config: Any) -> PPO:
    """Makes PPO from `config.outer.ppo`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer.ppo
    names = ("clip", "value_clip", "discount", "trace", "baseline", "whiten")
    return PPO(**gradient_settings(config, "ppo"), **{name: fields[name] for name in names})
