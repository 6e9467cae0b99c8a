"""Domains: where tasks come from, what an edit is, and how an adapted model is judged."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from selfadapt.domains.base import Applied, Domain
from selfadapt.errors import UserError

if TYPE_CHECKING:
    from selfadapt.models.model import Model

__all__ = ["Applied", "Domain", "make_domain"]


def make_domain(config: Any, model: Model) -> Domain:
    """Makes the domain that `config.domain` names.

    Args:
      config: the experiment; `config.domain` is the name of a module here ("knowledge"), or the dotted
        path of one elsewhere ("my_package.my_domain"). The module has `make(config, model)`.
      model: the model that will be adapted; domains use its tokenizer and its context's length.

    Raises:
      UserError: there is no such module, or it has no `make`.
    """
    name = config.domain
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        parts = ("base", "prompts", "tiny")
        known = [entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith(parts)]
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"config.domain is {name!r}, and there is no such module{f'; did you mean {near[0]!r}?' if near else ''} "
            f"(domains here: {', '.join(known)}; one of your own is named by its dotted path)"
        ) from error
    if not hasattr(module, "make"):
        raise UserError(f"config.domain is {name!r}, and {module.__file__} has no function make(config, model)")
    return module.make(config, model)
