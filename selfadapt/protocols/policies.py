"""The model that a protocol starts from: that of the config, or a policy that was trained from it."""

from __future__ import annotations

import os
import pathlib

from selfadapt.errors import InvalidValueError
from selfadapt.models import peft
from selfadapt.models.model import Model, load_model, read_architecture


def trained_policy(model: Model, path: str | os.PathLike, dtype: str) -> Model:
    """Loads a policy that was trained from a model.

    Args:
      model: the untrained model.
      path: the workdir of a finished run of `selfadapt train`, or a Hugging Face or PEFT directory. An adapter is
        merged into the weights.
      dtype: of the weights, where `path` holds a whole model.

    Returns:
      The policy as a separate model; `model` is not changed.

    Raises:
      InvalidValueError: the directory holds none of these, or a model of another architecture.
      AdapterError: the adapter was made for another base.
    """
    directory = pathlib.Path(path).expanduser()
    if (directory / "policy").is_dir():
        directory = directory / "policy"
    if (directory / peft.CONFIG).exists():
        return peft.merge(model, peft.load_peft(model, directory))
    if not any(directory.glob("*.safetensors")):
        raise InvalidValueError(
            f"config.protocol.policy: {path} holds no policy; give the workdir of a finished run of `selfadapt train`, "
            "or a directory with a model or a PEFT adapter"
        )
    found, _, _ = read_architecture(directory / "config.json")
    for name, wanted in vars(model.config).items():
        if getattr(found, name) != wanted:
            raise InvalidValueError(
                f"config.protocol.policy: the model in {directory} has {name}={getattr(found, name)}, and that of "
                f"config.model={model.name} has {wanted}; set config.model to the one that the policy was trained from"
            )
    return load_model(directory, dtype=dtype, mesh=model.mesh)
