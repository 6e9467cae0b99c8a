"""DPO: the best edit of a task is preferred to the worst (arXiv 2305.18290)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from selfadapt.engine.policy import Loss, Rows, Statistics
from selfadapt.outer.policy_update import Experience, Lesson, PolicyUpdate, settings


@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
    """-log sigmoid(beta (D_best - D_worst)), D = log p - log p_start of an edit (equation 7 of the paper).

    Rows are pairs: the better edit, then the worse. `Rows.data["reference"]` has the log-probabilities under the
    starting policy.

    Attributes:
      beta: how much the policy is held at the start.
    """

    beta: float

    def __call__(self, statistics: Statistics, rows: Rows) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the weighted sum, and sums over pairs: "pairs", "accuracy" and "margin" (beta (D_best - D_worst))."""
        gain = (statistics.logprobs - rows.data["reference"]).sum(-1).reshape(-1, 2)
        weight = rows.data["weight"].max(-1).reshape(-1, 2)[:, 0]
        margin = self.beta * (gain[:, 0] - gain[:, 1])
        real = weight > 0
        numbers = {"pairs": real, "accuracy": real & (margin > 0), "margin": jnp.where(real, margin, 0.0)}
        sums = {name: each.sum().astype(jnp.float32) for name, each in numbers.items()}
        return -(weight * jax.nn.log_sigmoid(margin)).sum(), sums


@dataclasses.dataclass(frozen=True)
class DPO(PolicyUpdate):
    """Direct preference optimization; `training.batch_size` is the pairs of an optimizer step.

    Attributes:
      beta: how much the policy is held at the start.
      margin: how much more reward the better edit must have; tasks without such a pair teach nothing.
    """

    beta: float = 0.1
    margin: float = 0.0

    group_size: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        self._check("beta", self.beta > 0, "above 0")
        self._check("margin", self.margin >= 0, "a number of at least 0")

    @property
    def loss(self) -> Loss:
        """The loss of pairs."""
        return PreferenceLoss(self.beta)

    def lesson(self, experience: Experience) -> Lesson:
        """Returns the lesson of each task's best edit that could be applied, and its worst."""
        pairs = []
        for group in experience.by_task():
            able = [index for index in group if experience.outcomes[index].edit.tokens]
            fine = [index for index in able if experience.outcomes[index].status == "ok"]
            if not fine:
                continue
            best = max(fine, key=lambda index: experience.outcomes[index].reward)
            worst = min(able, key=lambda index: experience.outcomes[index].reward)
            if experience.outcomes[best].reward - experience.outcomes[worst].reward > self.margin:
                pairs.append((best, worst))
        return Lesson(pairs, [True] * len(pairs), {"reference": experience.reference})

    def weights(self, chosen: Sequence[tuple[int, ...]], sizes: Mapping[int, int]) -> dict[int, float]:
        """Returns one over the number of pairs, for the mean over pairs."""
        return dict.fromkeys(sizes, 1 / len(chosen))

    def most(self, contexts: int, edits: int) -> int:
        """Returns the edits of one pair for each task."""
        return contexts * self.group_size


def make(config: Any) -> DPO:
    """Makes DPO from `config.outer.dpo`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer.dpo
    return DPO(**settings(config, "dpo"), beta=fields.beta, margin=fields.margin)
