"""Completed units of work on disk: a run that is started again reads them instead of computing them.

A run is determined by its config, so to resume is to run again: each unit (a chunk of sampled edits, of outcomes,
of trained adapters) is looked up by its name, and computed only if it is not there.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from etils import epath

from selfadapt import files
from selfadapt.checkpoint.arrays import ArrayStore, DamagedError, digest
from selfadapt.errors import Preempted
from selfadapt.models.lora import Adapters, Lora, Spec
from selfadapt.models.model import Model
from selfadapt.parallel import distributed, sharding
from selfadapt.types import Edit, Outcome

Value = TypeVar("Value")
Damaged = Callable[[os.PathLike, str], None]

_TYPES = {noun.__name__: noun for noun in (Edit, Outcome)}
_STEPS = 64  # the most training steps between two checks of the clock and of SIGTERM, where a check is a barrier
_COPYING = 0.05  # the largest share of the time that copying adapters in training may take


class Units:
    """Units that are not stored: every one is computed."""

    def within(self, place: str) -> Units:
        """Returns the units of a part of the work, with names that are separate from all others."""
        del place
        return self

    def round(self, number: int) -> Units:
        """Returns the units of a round, counted from 1; what comes before the first is round 0."""
        return self.within(f"round-{number}")

    @contextlib.contextmanager
    def active(self) -> Iterator[Units]:
        """Makes these the units that `current` returns in the body."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """Returns what `compute` returns, or returned when this unit was completed earlier.

        Args:
          name: the unit's name, unique in this place.
          compute: does the work. Its result consists of edits, outcomes and JSON values. Once it is
            recorded, the arrays stored in this place are no longer needed and are removed.
        """
        del name
        return compute()

    def adapters(self, model: Model, train: Callable[[Any], Adapters]) -> Adapters:
        """Returns the adapters that `train` returns, or returned when this place was completed earlier.

        Args:
          model: their base.
          train: trains them; it is called with the `snapshots` argument of `adapt`.
        """
        del model
        return train(None)

    def snapshots(self, name: str) -> Snapshots | None:
        """Returns where arrays in training can be saved, for work of this place that has its own loop; `None`: nowhere.

        They are removed when the round's units are forgotten.

        Args:
          name: the work's name, unique in this place.
        """
        del name
        return None


_current: contextvars.ContextVar[Units] = contextvars.ContextVar("units", default=Units())  # noqa: B039 (immutable)


def current() -> Units:
    """Returns the units of the work that is under way; outside `Units.active` they are not stored."""
    return _current.get()


class DurableUnits(Units):
    """Units in a directory, which outlive the process.

    Each JSON unit is a file, written atomically; arrays are entries of an `ArrayStore`. Process 0 writes and
    reads the files and broadcasts what it read. After SIGTERM the next completed unit, or the next moment
    when all adapters in training are saved, raises `Preempted`.
    """

    def __init__(self, directory: os.PathLike, every_seconds: float, damaged: Damaged):
        """Opens the directory, which need not exist.

        Args:
          directory: any path that `etils.epath` supports.
          every_seconds: the time between two saves of adapters in training.
          damaged: called with the path of each unit that cannot be used, and the reason.
        """
        self._root = epath.Path(directory)
        self._store = ArrayStore(self._root / "arrays")
        self._shared = _Shared(every_seconds, damaged)
        self._place = ""
        self._store.sweep()  # adapters that were being saved when the process died
        self._arrays = set(self._store.names())
        self._units = set(distributed.broadcast(self._found() if distributed.is_main() else None))

    def __enter__(self) -> DurableUnits:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def within(self, place: str) -> DurableUnits:
        """Returns the units of a part of the work."""
        inner = object.__new__(DurableUnits)
        inner.__dict__ |= self.__dict__ | {"_place": f"{self._place}{_file_name(place)}."}
        return inner

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """Returns a unit's value, computed or read; see `Units.once`.

        Raises:
          Preempted: SIGTERM arrived; the unit is recorded.
        """
        key = f"{self._place}{_file_name(name)}"
        path = self._root / "units" / f"{key}.json"
        if key in self._units:
            text, reason = distributed.broadcast(_read(path) if distributed.is_main() else None)
            if not reason:
                self._drop_arrays(self._place)
                return json.loads(text, object_hook=_typed)
            self._shared.damaged(path, f"{reason}; this part is computed again")
        value = compute()
        text = json.dumps(value, default=_plain)
        if distributed.is_main():
            _write(path, json.dumps({"unit": key, "digest": digest(text), "text": text}))
        self._units.add(key)
        self._drop_arrays(self._place)
        if self._shared.preempted():
            raise Preempted
        return value

    def adapters(self, model: Model, train: Callable[[Any], Adapters]) -> Adapters:
        """Returns this place's adapters, trained or read; see `Units.adapters`.

        Raises:
          Preempted: SIGTERM arrived; the training so far is saved.
        """
        name = f"{self._place}trained"
        if name in self._arrays:
            try:
                return _load_adapters(self._store, name, model)
            except DamagedError as error:
                self._shared.damaged(self._store.directory / name, f"{error}; these adapters are trained again")
                self._store.drop(name)
        adapters = train(Snapshots(self._store, f"{self._place}flight.", self._arrays, self._shared))
        about = {
            "specs": [dataclasses.asdict(spec) for spec in adapters.specs],
            "status": adapters.status,
            "losses": [losses.tolist() for losses in adapters.losses],
        }
        self._store.save(name, about, dict(vars(adapters.lora)))
        self._drop_arrays(f"{self._place}flight.")
        self._arrays.add(name)
        return adapters

    def snapshots(self, name: str) -> Snapshots:
        """Returns where arrays in training are saved; see `Units.snapshots`."""
        return Snapshots(self._store, f"{self._place}{_file_name(name)}.flight.", self._arrays, self._shared)

    def forget(self, below: int) -> None:
        """Removes the units of the rounds before a round, which a checkpoint replaces."""
        for name in sorted(self._arrays):
            if _is_before(name, below):
                self._arrays.discard(name)
                self._store.drop(name)
        for key in sorted(self._units):
            if _is_before(key, below):
                self._units.discard(key)
                if distributed.is_main():
                    (self._root / "units" / f"{key}.json").unlink(missing_ok=True)

    def _drop_arrays(self, below: str) -> None:
        for name in sorted(self._arrays):
            if name.startswith(below):
                self._arrays.discard(name)
                self._store.drop(name)

    def _found(self) -> list[str]:
        units = self._root / "units"
        there = units.iterdir() if units.is_dir() else ()
        return sorted(path.name.removesuffix(".json") for path in there if path.name.endswith(".json"))


class Snapshots:
    """The newest state of each stream of adapters in training, stored for `adapt`."""

    def __init__(self, store: ArrayStore, place: str, arrays: set[str], shared: _Shared):
        """Made by `DurableUnits.adapters`, which shares the names of all entries."""
        self._store, self._place, self._arrays, self._shared = store, place, arrays, shared
        self._newest: dict[str, tuple[int, str]] = {}  # of each stream: number and entry

    def restore(self, name: str, like: Any) -> tuple[dict[str, Any], Any] | None:
        """Returns the last state that was saved under a name, `None` if there is none that fits.

        Args:
          name: the stream.
          like: a tree like those offered; its leaves have shapes, dtypes and shardings.

        Returns:
          What `about` returned, and the tree.
        """
        stream = f"{self._place}{_file_name(name)}."
        with self._shared.lock:
            there = sorted(int(each.removeprefix(stream)) for each in self._arrays if each.startswith(stream))
            found = None
            while there and found is None:
                number = there.pop()
                entry = f"{stream}{number}"
                try:
                    found = self._store.about(entry), self._store.load(entry, like)
                except DamagedError as error:
                    self._shared.damaged(self._store.directory / entry, f"{error}; adapters in flight start earlier")
                    self._drop(entry)
                else:
                    self._newest[stream] = number, entry
            for number in there:
                self._drop(f"{stream}{number}")
            return found

    def offer(self, name: str, about: Callable[[], dict[str, Any]], tree: Any) -> None:
        """Takes the state of a stream after a training step; saves it when a save is due, and after SIGTERM.

        When this returns, a state to be saved has been copied, and may be overwritten.

        Args:
          name: the stream.
          about: returns a JSON value with its progress.
          tree: its arrays.

        Raises:
          Preempted: SIGTERM arrived, and the state is saved.
        """
        stream = f"{self._place}{_file_name(name)}."
        with self._shared.lock:
            save, stop = self._shared.due(stream)
            if not save:
                return
            started = time.monotonic()
            number, before = self._newest.get(stream, (0, ""))
            entry = f"{stream}{number + 1}"
            self._store.save(entry, json.loads(json.dumps(about(), default=_plain)), tree)
            self._arrays.add(entry)
            if before:
                self._drop(before)
            self._newest[stream] = number + 1, entry
            self._shared.saved(stream, time.monotonic() - started)
        if stop:
            raise Preempted

    def _drop(self, entry: str) -> None:
        """Removes an entry, once the one that is being written is complete."""
        self._arrays.discard(entry)
        self._store.drop(entry)


class _Shared:
    """What the parts of the units share: when to save, whether to stop, and whom to notify."""

    def __init__(self, every_seconds: float, damaged: Damaged):
        self.damaged, self.lock = damaged, threading.Lock()
        self._every = every_seconds
        self._due: dict[str, float] = {}
        self._steps = self._calls = self._next = 0
        self._since = time.monotonic()

    def preempted(self) -> bool:
        self._steps += 1
        return distributed.preempted(self._steps)

    def due(self, stream: str) -> tuple[bool, bool]:
        """Returns whether to save a stream's state now, and whether to stop after that."""
        now = time.monotonic()
        due = self._due.setdefault(stream, now + self._every)
        self._calls += 1
        stop = self.preempted()
        if stop or distributed.process_count() == 1:
            return stop or now >= due, stop
        # Agreement costs time: several processes agree about once a second, after as many steps as process 0 sets.
        if self._calls < self._next:
            return False, False
        steps = max(1, round((self._calls - (self._next or 1) + 1) / max(1e-3, now - self._since)))
        save, steps = distributed.broadcast([now >= due, min(steps, _STEPS)])
        self._next, self._since = self._calls + steps, now
        return save, False

    def saved(self, stream: str, seconds: float) -> None:
        """Postpones the next save of a stream; `seconds` is the cost of this one."""
        self._due[stream] = time.monotonic() + max(self._every, seconds / _COPYING if self._every else 0.0)


def _load_adapters(store: ArrayStore, name: str, model: Model) -> Adapters:
    about, found, where = store.about(name), store.shapes(name), model.mesh
    sides: dict[str, Any] = {
        side: {key[2:]: leaf for key, leaf in found.items() if key.startswith(f"{side}.")} for side in "ab"
    }
    scale: Any = found["scale"]
    like = Lora(**sides, scale=scale).map(
        lambda leaf, axes: leaf.update(sharding=sharding.sharding(where, leaf.shape, axes))
    )
    specs = tuple(Spec(**spec | {"targets": tuple(spec["targets"])}) for spec in about["specs"])
    losses = [np.asarray(each, np.float32) for each in about["losses"]]
    return Adapters(Lora(**store.load(name, dict(vars(like)))), specs, about["status"], losses).on(where)


def _file_name(name: str) -> str:
    return name.replace(" ", "-")


def _is_before(name: str, number: int) -> bool:
    kind, _, rest = name.partition(".")[0].partition("-")
    return kind == "round" and rest.isdecimal() and int(rest) < number


def _plain(value: Any) -> Any:
    """Returns the JSON form of an edit, an outcome or a NumPy value, from which `_typed` restores it exactly."""
    if type(value).__name__ in _TYPES:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


def _typed(fields: dict[str, Any]) -> Any:
    noun: Any = _TYPES.get(fields.get("type", ""))
    if noun is None:
        return fields
    return noun(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "type"})


def _read(path: epath.Path) -> tuple[str, str]:
    """Returns a unit's text, or why it cannot be used."""
    try:
        raw = json.loads(path.read_text())
        if digest(raw["text"]) != raw["digest"]:
            return "", "it does not hold what was written"
        return raw["text"], ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return "", f"it cannot be read ({type(error).__name__}: {error})"


def _write(path: epath.Path, text: str) -> None:
    if "://" in os.fspath(path):
        with files.storage_errors(path):
            path.write_text(text)  # an object store writes atomically
    else:
        files.make_directory(path.parent)
        files.write_text(path, text)
