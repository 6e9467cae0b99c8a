"""What the outer loop carries from round to round: who writes edits, and who is adapted to them."""

from __future__ import annotations

import dataclasses

from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its version, and an adapter where its training was not merged.

    Attributes:
      model: the weights.
      version: how often it has been improved; rewards carry it.
      adapter: a stack of one adapter that belongs to the policy, or `None`.
    """

    model: Model
    version: int = 0
    adapter: Adapters | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """Where the outer loop stands.

    Attributes:
      policy: writes the edits.
      student: is adapted and judged; the policy itself in SEAL, another in teacher-student training.
      round: rounds finished.
    """

    policy: Policy
    student: Policy
    round: int = 0
