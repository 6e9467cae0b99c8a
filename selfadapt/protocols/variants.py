"""Variants: what a protocol's models learn from, and which of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfadapt.domains import Domain
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import Model, load_model
from selfadapt.parallel.sharding import make_mesh
from selfadapt.protocols.policies import trained_policy
from selfadapt.types import Task, Update

NONE, PASSAGE, UNTRAINED, POLICY, ORACLE = "none", "passage", "untrained", "policy", "oracle"
VARIANTS = (NONE, PASSAGE, UNTRAINED, POLICY, ORACLE)
PAIRS = (  # a and b, for a minus b
    (POLICY, NONE),
    (POLICY, PASSAGE),
    (POLICY, UNTRAINED),
    (ORACLE, POLICY),
    (PASSAGE, NONE),
    (UNTRAINED, PASSAGE),
)


def check_fields(config: Any, known: Sequence[str] = VARIANTS) -> None:
    """Checks the fields that protocols with variants share: `config.protocol.variants`, and those of sampling.

    Args:
      config: the resolved config.
      known: the variants that there are.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.protocol
    if not fields.variants or len(set(fields.variants)) < len(fields.variants):
        raise InvalidValueError(f"config.protocol.variants is {fields.variants}; it must name variants, each once")
    for name in fields.variants:
        if name not in known:
            raise InvalidValueError(f"config.protocol.variants has {name!r}; a variant is one of {', '.join(known)}")
    if UNTRAINED in fields.variants and not fields.policy:
        raise InvalidValueError(
            f"config.protocol.variants has {UNTRAINED!r}, a control beside a trained policy, and "
            f"config.protocol.policy names none; without it {POLICY!r} is the untrained one"
        )
    if not (config.sampling.temperature >= 0 and 0 < config.sampling.top_p <= 1):
        raise InvalidValueError("config.sampling: temperature must be 0 or more, and top_p above 0 and at most 1")


def load_models(config: Any) -> tuple[Model, Model]:
    """Returns the model of a config, and the policy that was trained from it: the same model if it names none.

    Raises:
      UserError: a model cannot be used.
    """
    untrained = load_model(config.model, dtype=config.dtype, mesh=make_mesh(**config.mesh))
    path = config.protocol.policy
    return untrained, trained_policy(untrained, path, config.dtype) if path else untrained


def check_domain(config: Any, domain: Domain, tasks: Sequence[Task]) -> None:
    """Checks that the variants of a config can be learned in a domain.

    Raises:
      InvalidValueError: the domain trains on nothing without an edit, or has no oracle for a variant.
    """
    if not all(isinstance(domain.apply(task, None), Update) for task in tasks):
        raise InvalidValueError(
            f"config.domain.name is {config.domain.name!r}, which trains on nothing without an edit; the "
            f"{config.protocol.name} protocol needs a domain that trains on its contexts, such as 'knowledge'"
        )
    if ORACLE in config.protocol.variants and any(domain.oracle(task) is None for task in tasks):
        raise InvalidValueError(f"config.protocol.variants has {ORACLE!r}, and the domain has no oracle for some tasks")
