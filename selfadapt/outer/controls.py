"""Controls: outer updates that should not work, to show what a result is due to."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.models.policy import Policy, State
from selfadapt.outer.base import OuterUpdate, Report
from selfadapt.types import Outcome


@dataclasses.dataclass(frozen=True)
class ShuffledRewards:
    """Another outer update, on rewards permuted among the edits of each task, which carry no information.

    Attributes:
      inner: the outer update.
      seed: seeds the permutations; each round has others.
    """

    inner: OuterUpdate
    seed: int = 0

    def init(self, policy: Policy) -> Any:
        """Returns the state of the inner update."""
        return self.inner.init(policy)

    def update(
        self, pytree: Any, state: State, baselines: Mapping[str, float], outcomes: Sequence[Outcome]
    ) -> tuple[Any, State, Report]:
        """Permutes the rewards and calls the inner update."""
        return self.inner.update(pytree, state, baselines, shuffled(outcomes, self.seed + state.round))


def shuffled(outcomes: Sequence[Outcome], seed: int) -> list[Outcome]:
    """Returns the outcomes with rewards, and the runs they are means of, permuted among the edits of each task."""
    groups: dict[str, list[int]] = {}
    for index, outcome in enumerate(outcomes):
        groups.setdefault(outcome.edit.task_id, []).append(index)
    result = list(outcomes)
    for task, indices in groups.items():
        measured = [outcomes[index] for index in indices]
        random.Random(f"shuffle {seed} {task}").shuffle(measured)
        for index, other in zip(indices, measured, strict=True):
            result[index] = dataclasses.replace(
                outcomes[index], reward=other.reward, runs=other.runs, eliminated=other.eliminated
            )
    return result
