"""Outer updates: how outcomes make a better policy."""

from __future__ import annotations

from typing import Any

from selfadapt.config import find_factory
from selfadapt.outer.base import OuterUpdate, Report, Trains

__all__ = ["OuterUpdate", "Report", "Trains", "make_outer"]

NAMES = ("rest_em", "reinforce", "rloo", "grpo", "ppo", "dpo")


def make_outer(config: Any) -> OuterUpdate:
    """Makes the outer update that `config.outer.name` names.

    Args:
      config: the resolved experiment; `config.outer.name` is the name of a module here, or the dotted path of
        one elsewhere. The module has `make(config)`.

    Raises:
      UserError: there is no such module, it has no `make`, or a field of its group cannot be used.
    """
    return find_factory(config.outer.name, "config.outer.name", __name__, NAMES)(config)
