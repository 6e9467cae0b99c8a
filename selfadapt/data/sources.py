"""Reads passages with questions from JSON files, Hugging Face `datasets` or TFDS, as lists of `Task`."""

from __future__ import annotations

import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from selfadapt.data.records import DataError, seal_tasks, squad_tasks
from selfadapt.errors import InvalidValueError, MissingPackageError
from selfadapt.types import Task

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = (".json", ".jsonl", ".parquet")


def load_tasks(
    path: str | os.PathLike, *, split: str | None = None, limit: int | None = None, unasked: bool = False
) -> list[Task]:
    """Loads passages and their questions from a file, a directory, a hub or TFDS.

    - `FILE.json`, `FILE.jsonl`: SEAL's records (with completions or without) or SQuAD's rows; `FILE.json` may also be
      the original SQuAD v1.1 or v2.0 file.
    - `FILE.parquet`: SQuAD's rows or SEAL's records.
    - a directory: a data set saved with `save_to_disk` of `datasets`, a prepared TFDS one, or files that `datasets`
      reads.
    - `tfds:NAME` or `tfds:DIRECTORY`: TFDS, such as `tfds:squad`.
    - `NAME` or `OWNER/NAME`, such as `rajpurkar/squad`: a data set of the Hugging Face hub.

    Args:
      path: a file, a directory or a name as above.
      split: the split, where the source has several; by default the only one, or "validation".
      limit: the most passages returned, the first ones; `None` for all.
      unasked: whether records of SEAL's form may have no questions.

    Returns:
      The tasks, in the source's order; all records are checked, also those past `limit`.

    Raises:
      DataError: a record is wrong; the message names the file, the record and the field.
      FileNotFoundError: there is no such file.
      ImportError: the library that reads this source is not installed.
    """
    name = os.fspath(path)
    local = pathlib.Path(name)
    if limit is not None and limit < 1:
        raise InvalidValueError(f"limit is {limit!r}; it must be at least 1, or None for all")
    if name.startswith("tfds:"):
        tasks = squad_tasks(_tfds_rows(name.removeprefix("tfds:"), split), name)
    elif local.is_dir():
        tasks = _directory_tasks(local, split)
    elif local.is_file():
        if split is not None:
            raise DataError(f"{name}: a single file has no split {split!r}; leave the split out")
        tasks = _file_tasks(local)
    elif local.suffix not in _FILES and not name.startswith((".", "/", "~")) and _HUB_ID.fullmatch(name):
        tasks = _tasks_of(_hub_rows(name, split), name)
    else:
        raise FileNotFoundError(_missing(local))
    for i, task in enumerate(tasks):
        if not (task.questions or unasked):
            raise DataError(
                f"{name}: record {i}: 'questions' is empty; a passage without questions cannot be scored, leave it out"
            )
    return tasks[:limit]


def _missing(path: pathlib.Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: there is no such file or directory ({path.parent} does not exist either)"
    near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
    return f"{path}: there is no such file or directory{hint}"


def _tasks_of(records: Iterable[Any], source: str) -> list[Task]:
    """Makes tasks of SEAL's records or SQuAD's rows, whichever the first one is."""
    records = list(records)
    if not records:
        raise DataError(f"{source}: is empty; it must hold at least one passage")
    if isinstance(records[0], Mapping) and "question" in records[0]:
        return squad_tasks(records, source)
    return seal_tasks(records, source)


def _file_tasks(path: pathlib.Path) -> list[Task]:
    if path.suffix == ".parquet":
        return _tasks_of(datasets_package().Dataset.from_parquet(str(path)), str(path))
    if path.suffix == ".jsonl":
        return _tasks_of(_json_lines(path), str(path))
    if path.suffix != ".json":
        raise DataError(f"{path}: the kind {path.suffix or 'without a suffix'!r} is unknown; give {', '.join(_FILES)}")
    content = _parse(_read(path), str(path))
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):
        return squad_tasks(_official_rows(content["data"], str(path)), str(path))
    if isinstance(content, Mapping) and ("articles" in content or "server_reply" in content):
        raise DataError(f"{path}: holds SEAL's results, not passages; read it with: selfadapt analyze {path}")
    if not isinstance(content, list):
        raise DataError(f"{path}: is {type(content).__name__} at the top; it must be a list of passages")
    return _tasks_of(content, str(path))


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None


def _parse(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error}); is it cut short?") from None


def _json_lines(path: pathlib.Path) -> Iterator[Any]:
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            yield _parse(line, f"{path}: line {number}")


def _official_rows(articles: list[Any], source: str) -> Iterator[dict[str, Any]]:
    """Flattens the original SQuAD file into rows."""
    for i, article in enumerate(articles):
        try:
            for paragraph in article["paragraphs"]:
                for item in paragraph["qas"]:
                    answers = {"text": [answer["text"] for answer in item["answers"]]}
                    yield {
                        "id": item["id"],
                        "title": article["title"],
                        "context": paragraph["context"],
                        "question": item["question"],
                        "answers": answers,
                    }
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{source}: article {i} is not as in SQuAD's files: {error!r} is missing or wrong"
            ) from None


def _directory_tasks(path: pathlib.Path, split: str | None) -> list[Task]:
    if (path / "features.json").is_file():
        return squad_tasks(_tfds_rows(str(path), split), str(path))
    datasets = datasets_package()
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        found = datasets.load_from_disk(str(path))
    elif any(file.suffix in _FILES for file in path.rglob("*")):
        found = datasets.load_dataset(str(path))
    else:
        raise DataError(f"{path}: the directory holds no data set and no {', '.join(_FILES)} file")
    return _tasks_of(_choose(found, split, str(path)), str(path))


def _hub_rows(name: str, split: str | None) -> Iterable[Any]:
    datasets = datasets_package()
    try:
        splits = datasets.get_dataset_split_names(name)
        return datasets.load_dataset(name, split=_choose_split(splits, split, name))
    except DataError:
        raise
    except Exception as error:  # the hub's client raises exceptions of several libraries
        raise DataError(
            f"{name}: there is no such file here, and the Hugging Face hub gave no data set of that name "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _choose(found: Any, split: str | None, source: str) -> Iterable[Any]:
    if isinstance(found, Mapping):
        return found[_choose_split(list(found), split, source)]
    if split is not None:
        raise DataError(f"{source}: has no splits, and split {split!r} was asked for; leave the split out")
    return found


def _choose_split(splits: list[str], split: str | None, source: str) -> str:
    chosen = split or (splits[0] if len(splits) == 1 else "validation")
    if chosen not in splits:
        raise DataError(f"{source}: has no split {chosen!r}; it has {', '.join(splits)}")
    return chosen


def datasets_package() -> Any:
    """Returns the package `datasets`, imported when it is needed.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError("reading this source needs Hugging Face datasets: pip install datasets") from error
    return datasets


def _tfds_rows(name: str, split: str | None) -> Iterator[dict[str, Any]]:
    """Reads SQuAD-like rows through TFDS' random-access files, which need no TensorFlow."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingPackageError("reading TFDS needs an extra: pip install 'selfadapt[tfds]'") from error
    directory = pathlib.Path(name)
    if directory.is_dir():
        builder = tfds.builder_from_directory(name)
    else:
        try:
            builder = tfds.builder(name, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise DataError(f"tfds:{name}: TFDS knows no such data set ({str(error).splitlines()[0]})") from None
        builder.download_and_prepare()
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{name}: is prepared as {builder.info.file_format.value}, which only TensorFlow reads; prepare it again "
            "with download_and_prepare of a builder that has file_format='array_record'"
        )
    for row in builder.as_data_source(_choose_split(list(builder.info.splits), split, name)):
        yield _decode(row)


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    try:
        return [_decode(item) for item in value]  # lists and arrays
    except TypeError:
        return value
