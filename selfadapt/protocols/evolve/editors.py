"""Who writes edits in the evolution protocol, and who answers: models that are loaded, or chat models at endpoints."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from selfadapt.domains.instructions import Instructions, Writer, make_style
from selfadapt.errors import InvalidValueError
from selfadapt.models.endpoint import Endpoint
from selfadapt.models.model import Model, load_model
from selfadapt.models.policy import Policy
from selfadapt.protocols.evolve.variants import ENDPOINT, EVOLVED, TRAINED, UNTRAINED


@dataclasses.dataclass(frozen=True)
class Editor:
    """An editor.

    Attributes:
      writer: the model that writes.
      domain: the domain with the style that the editor reads and writes in, and its limits.
    """

    writer: Writer
    domain: Instructions


def make_endpoint(config: Any, group: str) -> Endpoint:
    """Makes the endpoint that a group of fields of `config.protocol` describes.

    Raises:
      InvalidValueError: a field is missing or cannot be used.
    """
    where = f"config.protocol.{group}"
    options = {name: value for name, value in config.protocol[group].items() if value not in (None, "")}
    if "model" not in options:
        raise InvalidValueError(f"{where}.model is missing; give the model's name at the endpoint")
    if "parameters" in options:
        try:
            options["parameters"] = json.loads(options["parameters"])
        except ValueError as error:
            raise InvalidValueError(f"{where}.parameters is no JSON ({error})") from None
        if not isinstance(options["parameters"], dict):
            raise InvalidValueError(f"{where}.parameters must be a JSON object, the fields of a request by name")
    try:
        return Endpoint(**options)
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from None


def make_student(config: Any, model: Model) -> Model | Endpoint:
    """Returns what `config.student` names; `model`, that of `config.model`, if it names nothing else.

    Raises:
      UserError: the model or the endpoint cannot be used.
    """
    if config.student == ENDPOINT:
        return make_endpoint(config, "student_endpoint")
    if config.student in ("", config.model):
        return model
    return load_model(config.student, dtype=config.dtype, mesh=model.mesh)


def make_editors(config: Any, domain: Instructions, untrained: Model, trained: Model) -> dict[str, Editor]:
    """Returns the editors that the variants of a config need, by name.

    An editor at an endpoint is asked in the words of `config.domain.prompt`, whatever the style of the source.

    Raises:
      UserError: the endpoint or the prompt cannot be used.
    """
    editors = {UNTRAINED: Editor(Policy(untrained), domain), TRAINED: Editor(Policy(trained), domain)}
    if any(name in EVOLVED and EVOLVED[name].editor == ENDPOINT for name in config.protocol.variants):
        writer = make_endpoint(config, "editor_endpoint")
        room = dataclasses.replace(domain.room, editor=writer)
        editors[ENDPOINT] = Editor(writer, dataclasses.replace(domain, style=make_style(config, writer), room=room))
    return editors
