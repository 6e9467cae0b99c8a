"""Sources of environments by name: the tiny world of rules, or a user's own."""

from __future__ import annotations

from typing import Any

from selfadapt.config import find_factory
from selfadapt.domains.instructions.environment import EnvironmentSource
from selfadapt.models.model import Model

# Modules with `make(config, model)`, by the `config.data.source` that chooses them.
SOURCES = {"tiny_rules": "selfadapt.domains.tiny.rules.source"}


def make_source(config: Any, model: Model) -> EnvironmentSource:
    """Returns the source that `config.data` describes.

    Args:
      config: the experiment; `config.data.source` is a key of `SOURCES`, or the dotted path of a module with
        `make(config, model)`.
      model: the model that answers, for its tokenizer.

    Raises:
      UserError: there is no such source, or its data cannot be read.
    """
    name = config.data.source
    return find_factory(SOURCES.get(name, name), "config.data.source", __name__, tuple(SOURCES))(config, model)
