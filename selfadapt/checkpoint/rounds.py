"""Checkpoints: the state and the record after each round, from which an interrupted run resumes.

What is completed inside a round is stored by `selfadapt.checkpoint.units`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from selfadapt.checkpoint.arrays import ArrayStore, DamagedError
from selfadapt.config import check_same, config_to_json
from selfadapt.errors import UserError
from selfadapt.models.lora import Adapters, Lora, Spec, abstract_lora
from selfadapt.models.peft import abstract_master
from selfadapt.models.policy import Policy, State
from selfadapt.parallel import distributed


def place(config: Any, workdir: pathlib.Path) -> epath.Path:
    """Returns the directory of a run's checkpoints: `config.checkpoint.directory`, or a folder of the workdir.

    Raises:
      UserError: a field of `config.checkpoint` is out of range, or the directory belongs to another experiment or
        cannot be reached.
    """
    chosen = config.checkpoint
    if chosen.keep < 1:
        raise UserError(f"config.checkpoint.keep is {chosen.keep}; it must be at least 1")
    if not chosen.every_seconds >= 0:
        raise UserError(f"config.checkpoint.every_seconds is {chosen.every_seconds}; it must be at least 0")
    directory = chosen.directory or os.fspath(workdir / "checkpoints")
    directory = epath.Path(directory if "://" in directory else os.path.abspath(directory))

    def check() -> None:
        try:
            check_same(directory / "config.json", config, f"directory {directory} of config.checkpoint.directory")
        except ImportError as error:
            raise UserError(
                f"config.checkpoint.directory is {directory}, and the package that reads it is missing ({error}); "
                "for gs:// install the extra gcs: pip install 'selfadapt[gcs]'"
            ) from error

    distributed.on_main(check)
    return directory


def claim(directory: epath.Path, config: Any) -> None:
    """Writes the config into a directory of checkpoints, which then belongs to this experiment."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config_to_json(config))


class Checkpoints:
    """The checkpoints of one run, one for each finished round, newest last.

    A checkpoint holds the policy and the student (the parameters where they differ from those that the run
    started with, and the adapter where one is kept), the outer update's state, and the record, a JSON value. It
    appears under its name only when it is complete. Where the directory is not in the workdir, the lines that the
    run had written by then are copied beside it, so that a machine may be lost with its workdir.

    Attributes:
      damaged: (path, reason) of each checkpoint that `restore` could not use.
    """

    def __init__(self, directory: os.PathLike, keep: int, start: State, lines: Sequence[pathlib.Path] = ()):
        """Opens the directory, which need not exist.

        Args:
          directory: any path that `etils.epath` supports.
          keep: how many of the newest checkpoints to keep.
          start: the state before the first round. Restored arrays get the shardings of its arrays.
          lines: files to copy with each checkpoint, and to restore where they are missing.
        """
        self._store = ArrayStore(epath.Path(directory) / "rounds")
        self._copies = epath.Path(directory) / "lines"
        self._keep, self._lines = keep, lines if distributed.is_main() else ()
        self._start = dataclasses.replace(start, outer=jax.tree.map(jnp.asarray, start.outer))
        self.damaged: list[tuple[str, str]] = []

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.settle()
        self._thin()
        self._store.close()

    def save(self, state: State, record: dict[str, Any]) -> None:
        """Writes the state after a round in the background; when this returns, the previous one is complete."""
        about = {"round": state.round, "record": record, "policy": _about(state.policy, self._start.policy)}
        tree = {"outer": jax.tree.map(jnp.asarray, state.outer), "policy": _arrays(state.policy, self._start.policy)}
        if state.student is not state.policy:
            about["student"] = _about(state.student, self._start.student)
            tree["student"] = _arrays(state.student, self._start.student)
        self._store.settle()
        self._thin()
        for path in self._lines:
            self._copies.mkdir(parents=True, exist_ok=True)
            epath.Path(path).copy(self._copies / f"{state.round}.{path.name}", overwrite=True)
        self._store.save(str(state.round), about, tree)

    def restore(self) -> tuple[State, dict[str, Any] | None]:
        """Returns the newest state that can be used and its record; the start and `None` where there is none.

        A checkpoint that cannot be read is renamed and listed in `damaged`.
        """
        for name in self._store.sweep():
            self.damaged.append((str(self._store.directory / name), "the run stopped while it was being written"))
        for number in reversed(self._rounds()):
            try:
                found = self._load(str(number))
                self._put_back(number)
                return found
            except DamagedError as error:
                aside = self._store.set_aside(str(number))
                reason = f"{error}. It was renamed to {aside.name}, and the previous one is used"
                self.damaged.append((str(self._store.directory / str(number)), reason))
        return self._start, None

    def _load(self, name: str) -> tuple[State, dict[str, Any]]:
        about, start = self._store.about(name), self._start
        try:
            with_student = "student" in about
            like = {"outer": start.outer, "policy": _abstract(about["policy"], start.policy)}
            if with_student:
                like["student"] = _abstract(about["student"], start.student)
            number, record = about["round"], about["record"]
        except (KeyError, TypeError) as error:
            raise DamagedError(f"it is of another version of the program ({error!r})") from error
        tree = self._store.load(name, like)
        policy = _restored(about["policy"], tree["policy"], start.policy)
        student = _restored(about["student"], tree["student"], start.student) if with_student else policy
        return State(policy, student, number, tree["outer"]), record

    def _rounds(self) -> list[int]:
        return sorted(int(name) for name in self._store.names() if name.isdecimal())

    def _thin(self) -> None:
        for number in self._rounds()[: -self._keep]:
            self._store.drop(str(number))
            for path in self._lines:
                (self._copies / f"{number}.{path.name}").unlink(missing_ok=True)

    def _put_back(self, number: int) -> None:
        for path in self._lines:
            copy = self._copies / f"{number}.{path.name}"
            if not path.exists() and copy.exists():
                copy.copy(path)


def _about(policy: Policy, start: Policy) -> dict[str, Any]:
    """Returns the JSON part of a policy: its version, its adapter's spec, and which parameters are stored."""
    return {
        "version": policy.version,
        "adapter": policy.adapter and dataclasses.asdict(policy.adapter.specs[0]),
        "params": policy.model is not start.model,  # the config names the model that the run started with
        "master": sorted(policy.model.master or ()),
    }


def _arrays(policy: Policy, start: Policy) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    if policy.model is not start.model:
        arrays["params"] = policy.model.params
    if policy.model.master is not None:
        arrays["master"] = policy.model.master
    if policy.adapter is not None:
        arrays["adapter"] = dict(vars(policy.adapter.lora))
    return arrays


def _abstract(about: dict[str, Any], start: Policy) -> dict[str, Any]:
    """Returns a pytree like that of `_arrays`, with shapes and shardings in place of the arrays."""
    like: dict[str, Any] = {}
    if about["params"]:
        like["params"] = start.model.params
    if about["master"]:
        like["master"] = abstract_master(start.model, about["master"])
    if about["adapter"]:
        spec = _spec(about)
        like["adapter"] = dict(vars(abstract_lora(start.model.config, 1, spec.rank, spec.targets, start.model.mesh)))
    return like


def _restored(about: dict[str, Any], arrays: dict[str, Any], start: Policy) -> Policy:
    model = start.model.with_params(arrays["params"], arrays.get("master")) if about["params"] else start.model
    adapter = Adapters(Lora(**arrays["adapter"]), (_spec(about),)) if about["adapter"] else None
    if about["version"] == start.version and not about["params"] and adapter is None:
        return start
    return Policy(model, about["version"], adapter)


def _spec(about: dict[str, Any]) -> Spec:
    return Spec(**about["adapter"] | {"targets": tuple(about["adapter"]["targets"])})
