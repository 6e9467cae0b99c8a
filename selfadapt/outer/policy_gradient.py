"""Policy gradients: updates that give each edit, or each of its tokens, an advantage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.engine.policy import Loss
from selfadapt.outer.losses import NORMALIZATIONS, PolicyLoss, token_weights
from selfadapt.outer.policy_update import Experience, Lesson, PolicyUpdate, settings


@dataclasses.dataclass(frozen=True)
class PolicyGradient(PolicyUpdate):
    """A `PolicyUpdate` whose loss is `PolicyLoss`: each edit has an advantage.

    Attributes:
      normalize: how the loss is averaged over tokens (`losses.token_weights`).
      edit_tokens: the most tokens of an edit, for "constant".
      kl: coefficient of the divergence from the starting policy.
      entropy: coefficient of the entropy bonus.
    """

    normalize: str = "tokens"
    edit_tokens: int = 1
    kl: float = 0.0
    entropy: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self._check("normalize", self.normalize in NORMALIZATIONS, f"one of {', '.join(NORMALIZATIONS)}")
        for field in ("kl", "entropy"):
            self._check(field, getattr(self, field) >= 0, "a number of at least 0")

    @property
    def loss(self) -> Loss:
        """The surrogate without clipping."""
        return PolicyLoss(None, self.kl, self.entropy)

    def advantages(self, experience: Experience) -> np.ndarray:
        """Returns the advantage of each edit, `[outcomes]`."""
        raise NotImplementedError

    def lesson(self, experience: Experience) -> Lesson:
        """Returns the lesson of edits that have one advantage for all of their tokens."""
        return self.taught(experience, list(self.advantages(experience)))

    def taught(
        self, experience: Experience, advantages: Sequence[Any], extra: Any = (), more: Mapping[str, Any] | None = None
    ) -> Lesson:
        """Returns the lesson of edits with advantages.

        Args:
          experience: the round.
          advantages: a number for each edit, or one for each of its tokens.
          extra: what the update keeps for the next round.
          more: further data of the loss.
        """
        data: dict[str, Any] = {"advantage": advantages, "old": [each.edit.logprobs for each in experience.outcomes]}
        if self.kl:
            data["reference"] = experience.reference
        always = bool(self.kl or self.entropy or more)
        groups = [(index,) for index, outcome in enumerate(experience.outcomes) if outcome.edit.tokens]
        teaches = [always or bool(np.any(np.asarray(advantages[index]))) for (index,) in groups]
        return Lesson(groups, teaches, data | dict(more or {}), extra)

    def weights(self, chosen: Sequence[tuple[int, ...]], sizes: Mapping[int, int]) -> dict[int, float]:
        """Returns `losses.token_weights` of a step's edits."""
        return token_weights(self.normalize, sizes, self.edit_tokens)


def gradient_settings(config: Any, name: str) -> dict[str, Any]:
    """Returns the arguments of `PolicyGradient` from `config.outer.<name>`; see `settings`."""
    fields = config.outer[name]
    own = {key: fields[key] for key in ("normalize", "kl", "entropy")}
    return settings(config, name) | own | {"edit_tokens": config.sampling.max_new_tokens}
