"""Sources of environments by name: the tiny world of rules, multiple choice, text-to-SQL, or a user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selfadapt.config import find_factory
from selfadapt.domains.instructions.environment import EnvironmentSource
from selfadapt.errors import InvalidValueError
from selfadapt.models.endpoint import Endpoint
from selfadapt.models.model import Model

# Modules with `make(config, model)`, by the `config.data.source` that chooses them.
SOURCES = {
    "tiny_rules": "selfadapt.domains.tiny.rules.source",
    "choice": "selfadapt.domains.choice.environments",
    "sql": "selfadapt.domains.sql.environments",
}


def make_source(config: Any, model: Model | Endpoint) -> EnvironmentSource:
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


def chat_tokenizer(config: Any, model: Model | Endpoint) -> Any:
    """Returns the tokenizer that writes a model's prompts as chats.

    It is `None` without `config.domain.chat`, and for an endpoint, which makes a chat of any text.

    Raises:
      InvalidValueError: it has no chat template.
    """
    if not config.domain.chat or isinstance(model, Endpoint):
        return None
    if not getattr(model.tokenizer, "chat_template", None):
        raise InvalidValueError(
            f"config.domain.chat is True, and the tokenizer of {model.name} has no chat template; set it to False, or "
            "use an instruct model"
        )
    return model.tokenizer


def holdout_size(fields: Any) -> int:
    """Returns `config.data.holdout`, given `config.data`.

    Raises:
      InvalidValueError: it is less than 1.
    """
    if fields.holdout < 1:
        raise InvalidValueError(f"config.data.holdout is {fields.holdout}; it must be at least 1")
    return fields.holdout


def kept(field: str, found: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of a data set that a field chooses, in its order; all of them if it is empty.

    Raises:
      InvalidValueError: one of them is not in the data set.
    """
    if missing := [id for id in ids if id not in found]:
        raise InvalidValueError(f"{field} has {missing[0]!r}; there are {', '.join(found)}")
    return tuple(ids) or tuple(found)


def at_turn(source: str, split: str, names: Sequence[str], count: int, round: int) -> Iterator[tuple[str, int]]:
    """Yields the names of a round's environments, each with how often it came before; only training ones come again.

    Raises:
      InvalidValueError: there is no such split, or there are too few held-out ones.
    """
    if split not in ("train", "heldout"):
        raise InvalidValueError(f"{source} have no split {split!r}; choose train or heldout")
    if split == "heldout" and count > len(names):
        raise InvalidValueError(
            f"{source} have {len(names)} environments to hold out, and {count} are needed; lower "
            "config.evaluation.contexts"
        )
    first = count * round if split == "train" else 0
    for place in range(first, first + count):
        yield names[place % len(names)], place // len(names)
