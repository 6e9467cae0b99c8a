"""What the outer loop carries from round to round: the policy, the student, and the outer update's state."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its version, and an adapter if its training was not merged.

    Attributes:
      model: the weights.
      version: how many times it has been improved; rewards carry it.
      adapter: a stack of one adapter that belongs to the policy, or `None`.
    """

    model: Model
    version: int = 0
    adapter: Adapters | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """The state of the outer loop between rounds.

    Attributes:
      policy: writes the edits.
      student: is adapted and scored; the same object as the policy in SEAL, another model in teacher-student
        training.
      round: rounds finished.
      outer: the outer update's own state, a pytree of arrays (`selfadapt.outer.OuterUpdate.init`).
    """

    policy: Policy
    student: Policy
    round: int = 0
    outer: Any = None
