"""Files that stay readable after a crash: complete lines, complete documents, strict JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from selfadapt.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(UserError, OSError):
    """A file could not be written: the disk is full or read-only, or permission is missing."""


def plain(value: Any) -> Any:
    """Converts `value` to types of strict JSON.

    Arrays and array scalars (numpy, JAX) become lists and numbers, tuples become lists, and NaN and infinity, which
    JSON cannot represent, become `None`.

    Raises:
      TypeError: a value has no JSON form; the message names its type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form: {value!r}")


def write_text(path: str | os.PathLike, text: str) -> pathlib.Path:
    """Writes a text file atomically: a crash leaves the old file or the new one.

    Raises:
      StorageError: the file cannot be written; a file that existed at `path` is unchanged.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(path):
        try:
            with open(partial, "wb") as file:
                file.write(text.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike, value: Any) -> pathlib.Path:
    """Writes `value` as an indented JSON document, atomically (see `plain`, `write_text`)."""
    return write_text(path, json.dumps(plain(value), indent=2) + "\n")


def write_tree(folder: str | os.PathLike, contents: Mapping[str, Any]) -> None:
    """Writes JSON documents by their path in a folder, whose parts are made if need be (see `write_json`)."""
    for name, value in contents.items():
        path = pathlib.Path(folder) / name
        make_directory(path.parent)
        write_json(path, value)


def read_json(path: str | os.PathLike, wanted: str, error: type[UserError] = UserError) -> Any:
    """Returns the content of a JSON file that a user names.

    Args:
      path: the file.
      wanted: what to name instead of a file that cannot be read, for the message.
      error: what is raised.

    Raises:
      UserError: of the kind `error`: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as failure:
        raise error(f"{os.fspath(path)} cannot be read ({failure.strerror}); name {wanted}") from None
    except (ValueError, RecursionError) as failure:
        raise error(f"{os.fspath(path)} is not JSON ({failure}); is it complete?") from None


def synced_size(path: str | os.PathLike) -> int:
    """Flushes a file to disk and returns its length in bytes."""
    with storage_errors(pathlib.Path(path)), open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def make_directory(path: str | os.PathLike) -> pathlib.Path:
    """Makes a directory and its parents, unless it exists.

    Raises:
      StorageError: it cannot be made, for instance because a file has this name.
    """
    path = pathlib.Path(path)
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


class JsonlWriter:
    """Appends records to a JSONL file, each as one complete line that survives a crash of this process.

    A line is written in one append. If it does not fit (the disk is full), its part is truncated, so the file holds
    only complete lines. An incomplete last line, as a power loss leaves it, is truncated when the file is opened.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        with storage_errors(self.path):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._size = _end_of_last_line(self._file)
            os.ftruncate(self._file, self._size)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record (see `plain` for its types).

        Raises:
          StorageError: the line could not be written; the previous lines are unchanged.
        """
        # A lone surrogate, which UTF-8 cannot encode, is written as its JSON escape.
        line = (json.dumps(plain(record), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with storage_errors(self.path):
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(self._file, left) :]
            except BaseException:
                os.ftruncate(self._file, self._size)
                raise
        self._size += len(line)

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Yields the records of a JSONL file; skips an incomplete last line, as a crash leaves it.

    Raises:
      UserError: a line is not a JSON object; the message gives the file and the line.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, found {type(record).__name__}")
            yield record


def _end_of_last_line(file: int) -> int:
    """Returns the number of bytes up to and including the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns an `OSError` of the body into a `StorageError` that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            text = f"no space left to write {path}; finished work is kept. Free some space and start again"
        else:
            text = f"cannot write {path}: {error.strerror or error}"
        raise StorageError(text) from error
