"""What a run goes on from after an interruption: the state and the journal after each round.

What is finished inside a round is in the ledger (`selfadapt.checkpoint.units`).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from selfadapt.checkpoint.arrays import DamagedError, Store
from selfadapt.config import check_same, config_to_json
from selfadapt.errors import UserError
from selfadapt.models.lora import Adapters, Lora, Spec, abstract_lora
from selfadapt.models.policy import Policy, State
from selfadapt.parallel import distributed


def place(config: Any, workdir: pathlib.Path) -> epath.Path:
    """Returns the directory of a run's checkpoints: `config.checkpoint.directory`, or one in the workdir.

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
    if distributed.is_main():
        try:
            check_same(directory / "config.json", config, f"directory {directory} of config.checkpoint.directory")
        except ImportError as error:
            raise UserError(
                f"config.checkpoint.directory is {directory}, and what reaches it is not installed ({error}); "
                "for gs:// install the extra gcs: pip install 'selfadapt[gcs]'"
            ) from error
    return directory


def claim(directory: epath.Path, config: Any) -> None:
    """Writes into a directory which experiment its checkpoints belong to."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config_to_json(config))


class Checkpoints:
    """The checkpoints of one run, one for each finished round, newest last.

    A checkpoint holds the policy (its parameters, or its adapter where that is not merged) and the journal,
    a JSON value. It appears under its name only when it is whole. Where the directory is not in the workdir,
    the lines that the run had written by then lie beside it, so that a machine may be lost with its workdir.

    Attributes:
      damaged: (path, reason) of each checkpoint that `restore` could not use.
    """

    def __init__(self, directory: os.PathLike, keep: int, lines: Sequence[pathlib.Path] = ()):
        """Opens the directory, which need not exist.

        Args:
          directory: any path that `etils.epath` reaches.
          keep: how many of the newest checkpoints stay.
          lines: files to copy with each checkpoint, and to put back where they are gone.
        """
        self._store = Store(epath.Path(directory) / "rounds")
        self._copies = epath.Path(directory) / "lines"
        self._keep, self._lines = keep, lines if distributed.is_main() else ()
        self.damaged: list[tuple[str, str]] = []

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self._store.settle()
        self._thin()
        self._store.close()

    def save(self, state: State, journal: dict[str, Any]) -> None:
        """Writes the state after a round in the background; the one before is whole when this returns."""
        policy = state.policy
        about = {
            "round": state.round,
            "version": policy.version,
            "adapter": policy.adapter and dataclasses.asdict(policy.adapter.specs[0]),
            "student_is_policy": state.student is policy,
            "journal": journal,
        }
        tree = None
        if policy.version:  # an untrained policy is the model that the config names
            tree = policy.model.params if policy.adapter is None else dict(vars(policy.adapter.lora))
        self._store.settle()
        self._thin()
        for path in self._lines:
            self._copies.mkdir(parents=True, exist_ok=True)
            epath.Path(path).copy(self._copies / f"{state.round}.{path.name}", overwrite=True)
        self._store.save(str(state.round), about, tree)

    def restore(self, start: State) -> tuple[State, dict[str, Any] | None]:
        """Returns the newest state that can be used and its journal; `start` and `None` where there is none.

        A checkpoint that cannot be read is set aside under another name and noted in `damaged`.

        Args:
          start: the state of a run that has not begun. Its arrays say where those of the state are put.
        """
        for name in self._store.sweep():
            self.damaged.append((str(self._store.directory / name), "the run stopped while it was being written"))
        for number in reversed(self._rounds()):
            try:
                found = self._load(str(number), start)
                self._put_back(number)
                return found
            except DamagedError as error:
                aside = self._store.set_aside(str(number))
                reason = f"{error}. It is {aside.name} now, and the one before is used"
                self.damaged.append((str(self._store.directory / str(number)), reason))
        return start, None

    def _load(self, name: str, start: State) -> tuple[State, dict[str, Any]]:
        about = self._store.about(name)
        model, policy = start.policy.model, start.policy
        if about["version"] and about["adapter"] is None:
            policy = Policy(model.with_params(self._store.load(name, model.params)), about["version"])
        elif about["version"]:
            spec = Spec(**about["adapter"] | {"targets": tuple(about["adapter"]["targets"])})
            like = abstract_lora(model.config, 1, spec.rank, spec.targets, model.mesh)
            lora = Lora(**self._store.load(name, dict(vars(like))))
            policy = Policy(model, about["version"], Adapters(lora, (spec,)))
        student = policy if about["student_is_policy"] else start.student
        return State(policy=policy, student=student, round=about["round"]), about["journal"]

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
