"""Files of a checkpoint, one at a time: JSON objects and safetensors, checked as they are opened and read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from selfadapt import files as disk
from selfadapt.errors import UserError

_STORED = ("F32", "BF16", "F16")


class CheckpointError(UserError, ValueError):
    """A checkpoint whose files cannot be read as the model that its `config.json` describes."""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
      CheckpointError: the file is absent, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; give a directory that holds a complete Hugging Face model or adapter"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download or save it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}; it must hold an object")
    return content


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Opens one safetensors file for reading by name, its header checked against its size.

    Raises:
      CheckpointError: the file is absent, truncated or not a safetensors file.
    """
    try:
        handle = safetensors.safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is absent; download or save the checkpoint again") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); download or save it again"
        ) from None
    with handle:
        yield handle


def some(names: Iterable[str], limit: int = 3) -> str:
    """Returns the first few names for an error message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_tensor(handle: Any, name: str, shape: tuple[int, ...], file: Path) -> None:
    """Checks the shape and dtype of one tensor of an open file.

    Raises:
      CheckpointError: they differ from `shape`, or from the dtypes that can be read.
    """
    stored = handle.get_slice(name)
    if tuple(stored.get_shape()) != shape:
        raise CheckpointError(
            f"{file}: tensor {name} has shape {tuple(stored.get_shape())}, but the model's config.json makes it {shape}"
        )
    if stored.get_dtype() not in _STORED:
        raise CheckpointError(
            f"{file}: tensor {name} is stored as {stored.get_dtype()}; supported are {', '.join(_STORED)}"
        )


def read_part(handle: Any, name: str, inside: tuple[slice, ...]) -> np.ndarray:
    """Reads a part of a tensor of an open file; the rest of the tensor is not read."""
    return handle.get_slice(name)[inside]


def write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Writes a safetensors file atomically.

    Raises:
      StorageError: it cannot be written, for instance because the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        safetensors.numpy.save_file(tensors, partial, metadata={"format": "pt"})
        os.umask(umask := os.umask(0))
        os.chmod(partial, 0o666 & ~umask)  # safetensors makes files that only their owner can read
        os.replace(partial, path)
    except (safetensors.SafetensorError, OSError) as error:
        raise disk.StorageError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
