"""The protocol of outer updates: how outcomes make a better policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from selfadapt.models.policy import Policy, State
from selfadapt.types import Outcome, TokenSequence, Update


@dataclasses.dataclass(frozen=True)
class Report:
    """What one outer update did.

    Attributes:
      learned: the edits that the policy learned from, as (task id, sample index).
      metrics: scalars by name, such as losses in nats per token.
    """

    learned: frozenset[tuple[str, int]] = frozenset()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class OuterUpdate(Protocol):
    """Trains the policy on outcomes; explicit state in the style of an optax transformation.

    It knows no domain. Work inside `update` that takes long can be kept across an interruption with
    `selfadapt.checkpoint.units.current()`.
    """

    def init(self, policy: Policy) -> Any:
        """Returns the update's state before the first round: a pytree of arrays, `()` if there is none.

        The state is saved after each round and restored with the shapes and shardings that `init` gives it.
        """

    def update(
        self, pytree: Any, state: State, baselines: Mapping[str, float], outcomes: Sequence[Outcome]
    ) -> tuple[Any, State, Report]:
        """Returns the update's next state, the loop's state with a new policy, and a report.

        Args:
          pytree: the update's state.
          state: the loop's state; its `round` and `outer` are set by the loop afterwards.
          baselines: the reward of each task without an edit, by task id.
          outcomes: what became of each edit: the prompt, the sampled tokens and their log-probabilities, the
            reward, and the versions of the policy that wrote it and of the student that was adapted.

        Raises:
          ValueError: the outcomes mix versions, or training failed.
        """


@runtime_checkable
class Trains(Protocol):
    """An outer update that trains the policy on edits, so that its cost can be planned.

    Attributes:
      train: what is trained: "lora", an adapter, or "all" weights.
      merge: whether a second copy of the weights is made, of the trained policy.
      keep_master: whether float32 copies of merged weights are kept where the model has another dtype.
    """

    @property
    def train(self) -> str:
        """See above."""

    @property
    def merge(self) -> bool:
        """See above."""

    @property
    def keep_master(self) -> bool:
        """See above."""

    def largest_update(self, contexts: int, edits: int, sequences: Sequence[TokenSequence]) -> Update:
        """Returns the training of one round with as many edits as the selection can choose.

        Args:
          contexts: tasks per round.
          edits: edits per task.
          sequences: prompts with their edits, one or more; they are repeated as often as needed.
        """
