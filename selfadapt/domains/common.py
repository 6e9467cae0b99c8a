"""What domains share: the inner update of a config, and whether a text fits into a model's context."""

from __future__ import annotations

from typing import Any

from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import resolve_targets
from selfadapt.types import Update


def inner_update(config: Any, architecture: ModelConfig) -> Update:
    """Returns the inner update of a resolved config, without its sequences.

    Raises:
      InvalidValueError: a hyper-parameter is out of range, or a target is no projection of the architecture.
    """
    update = Update((), **config.inner)
    return update.replace(targets=resolve_targets(update.targets, architecture))


def surely_fits(text: str, limit: int) -> bool:
    """Whether a text has at most `limit` tokens, found without its tokenizer; short texts have, others may have."""
    # A token is at least a byte, apart from a few that tokenizers put around a text.
    return len(text.encode("utf-8", "replace")) + 8 <= limit


def count_tokens(tokenizer: Any, text: str) -> int:
    """Returns the number of a text's tokens, those that the tokenizer puts around it included."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def fits(tokenizer: Any, text: str, limit: int) -> bool:
    """Returns whether a text has at most `limit` tokens."""
    return surely_fits(text, limit) or count_tokens(tokenizer, text) <= limit
