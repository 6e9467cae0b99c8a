"""Domains: the tasks, what an edit is, and how an adapted model is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfadapt.config import find_factory
from selfadapt.domains.base import Applied, Domain, Narrowed, Prepared, Rated, Recorded, Referenced, Searchable

if TYPE_CHECKING:
    from selfadapt.models.endpoint import Endpoint
    from selfadapt.models.model import Model

__all__ = [
    "Applied",
    "Domain",
    "Narrowed",
    "Prepared",
    "Rated",
    "Recorded",
    "Referenced",
    "Searchable",
    "make_domain",
]

NAMES = ("arc", "instructions", "knowledge", "weights_or_words")


def make_domain(config: Any, policy: Model, student: Model | Endpoint | None = None) -> Domain:
    """Makes the domain that `config.domain.name` names.

    Args:
      config: the resolved experiment (`selfadapt.defaults.resolve`); `config.domain.name` is the name of a module
        here ("knowledge"), or the dotted path of one elsewhere ("my_package.my_domain"). The module has
        `make(config, policy, student)`.
      policy: the model that writes edits; domains use its tokenizer and context length for edit prompts.
      student: the model that is adapted and answers questions; the policy by default. An endpoint only answers, which
        is all that the domain "instructions" needs.

    Raises:
      UserError: there is no such module, it has no `make`, or a field of the domain cannot be used.
    """
    make = find_factory(config.domain.name, "config.domain.name", __name__, NAMES)
    return make(config, policy, policy if student is None else student)
