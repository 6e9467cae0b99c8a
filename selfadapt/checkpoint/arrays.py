"""Arrays on disk: entries of one directory, each a JSON value with a pytree of arrays, written by Orbax asynchronously.

An entry appears under its name only when it is complete, and what is read is checked against checksums that were
computed before it was written. The directory is any path that `etils.epath` supports (`gs://...`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from selfadapt import files
from selfadapt.errors import InvalidValueError
from selfadapt.parallel import distributed

_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax appends to the name of an entry that it is writing


class DamagedError(Exception):
    """A stored entry cannot be used: it is incomplete or its contents changed."""


class ArrayStore:
    """The entries of one directory. Several processes must make the same calls in the same order."""

    def __init__(self, directory: epath.PathLike):
        """Opens the directory, which need not exist."""
        import orbax.checkpoint as ocp

        self.directory = epath.Path(directory)
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._going: list[str] = []
        self._lock = threading.Lock()  # streams of adapters save from separate threads

    def close(self) -> None:
        """Waits until every write has finished."""
        self.settle()
        self._writer.close()

    def names(self) -> list[str]:
        """Returns the names of all complete entries, sorted."""
        import orbax.checkpoint as ocp

        names = []
        if distributed.is_main() and self.directory.is_dir():
            there = [path for path in self.directory.iterdir() if path.is_dir() and _UNFINISHED not in path.name]
            names = sorted(path.name for path in there if _whole(ocp, path))
        return distributed.broadcast(names)

    def sweep(self) -> list[str]:
        """Removes entries whose writing was interrupted; returns their names."""
        found = []
        if distributed.is_main() and self.directory.is_dir():
            for path in self.directory.iterdir():
                if _UNFINISHED in path.name:
                    found.append(path.name.partition(_UNFINISHED)[0])
                    path.rmtree(missing_ok=True)
        return distributed.broadcast(sorted(found))

    def save(self, name: str, about: Any, tree: Any = None) -> None:
        """Writes an entry in the background; returns when its arrays are copied and the previous entry is written.

        Args:
          name: the entry's name, which must be new.
          about: a JSON value.
          tree: a pytree of arrays, or `None`.
        """
        import orbax.checkpoint as ocp

        text = json.dumps(about)
        leaves = {} if tree is None else _named(tree)
        shapes = {key: [list(leaf.shape), leaf.dtype.name] for key, leaf in leaves.items()}
        head = {"about": text, "digest": digest(text), "arrays": shapes, "sums": _checksums(leaves)}
        items = {"head": ocp.args.JsonSave(head)}
        if leaves:
            items["arrays"] = ocp.args.StandardSave(leaves)
        with self._lock:
            self._settle()
            path = self.directory / name
            with _writing(path):
                if distributed.is_main():
                    self.directory.mkdir(parents=True, exist_ok=True)
                self._writer.save(path, args=ocp.args.Composite(**items))

    def settle(self) -> None:
        """Waits until every saved entry is on disk and every dropped one is removed."""
        with self._lock:
            self._settle()

    def about(self, name: str) -> Any:
        """Returns the JSON value of an entry.

        Raises:
          DamagedError: it cannot be read.
        """
        return self._head(name)[0]

    def shapes(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and dtype of an entry's arrays, by their paths in the tree ("a.q_proj").

        Raises:
          DamagedError: the entry cannot be read.
        """
        return self._head(name)[1]

    def load(self, name: str, like: Any) -> Any:
        """Returns the arrays of an entry.

        Args:
          name: the entry.
          like: a pytree like the one saved; its leaves have `shape`, `dtype` and `sharding`. The arrays get
            these shardings, which may be of another mesh than the one that they were saved from.

        Raises:
          DamagedError: the arrays changed since they were written, as seen by any process, or have other shapes.
        """
        import orbax.checkpoint as ocp

        _, shapes, sums = self._head(name)
        wanted = _named(like)
        if {key: (s.shape, s.dtype) for key, s in shapes.items()} != {
            key: (tuple(leaf.shape), jnp.dtype(leaf.dtype)) for key, leaf in wanted.items()
        }:
            raise DamagedError("its arrays have other names or shapes than this run's")
        if not wanted:
            return like
        abstract = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in wanted.items()}

        def read():
            # Straight from the handler: the checkpointer would wait for processes that failed to read.
            path = self.directory / name / "arrays"
            return ocp.StandardCheckpointHandler().restore(path, args=ocp.args.StandardRestore(abstract))

        leaves = together(read)
        if _checksums(leaves) != sums:
            raise DamagedError("its arrays changed since they were written")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[key] for key in wanted])

    def drop(self, name: str) -> None:
        """Removes an entry once the current write is complete."""
        with self._lock:
            self._going.append(name)

    def set_aside(self, name: str) -> epath.Path:
        """Renames an entry, so that another can take its name, and returns its new path."""
        place = self.directory / f"damaged-{name}"
        number = 2
        while place.exists():
            place = self.directory / f"damaged-{name}-{number}"
            number += 1
        distributed.barrier("all have found the place")
        if distributed.is_main():
            (self.directory / name).rename(place)
        distributed.barrier("set aside")
        return place

    def _settle(self) -> None:
        with _writing(self.directory):
            self._writer.wait_until_finished()
        going, self._going = self._going, []
        if distributed.is_main():
            for name in going:
                (self.directory / name).rmtree(missing_ok=True)

    def _head(self, name: str) -> tuple[Any, dict[str, jax.ShapeDtypeStruct], dict[str, int]]:
        import orbax.checkpoint as ocp

        def read():
            head = ocp.JsonCheckpointHandler().restore(self.directory / name / "head")
            text = head["about"]
            if digest(text) != head["digest"]:
                raise InvalidValueError("its contents changed since it was written")
            shapes = {k: jax.ShapeDtypeStruct(tuple(s), jnp.dtype(d)) for k, (s, d) in head["arrays"].items()}
            return json.loads(text), shapes, head["sums"]

        return together(read)


def together(read: Callable[[], Any]) -> Any:
    """Calls `read` on every process and returns its value, if it succeeds on all of them.

    Raises:
      DamagedError: it failed, here or elsewhere. An error about lack of memory is raised as it is.
    """
    value, reason = None, ""
    try:
        value = read()
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if distributed.process_count() > 1:
        from jax.experimental import multihost_utils

        if multihost_utils.process_allgather(np.asarray(bool(reason))).any():
            reason = reason or "another process cannot read it"
    if reason:
        raise DamagedError(reason)
    return value


def digest(text: str) -> str:
    """Returns the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _writing(path: epath.Path) -> Iterator[None]:
    """Raises failures to write as `StorageError`, those of Orbax's libraries included."""
    with files.storage_errors(path):
        try:
            yield
        except ValueError as error:
            if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _whole(ocp: Any, path: epath.Path) -> bool:
    try:
        return ocp.utils.is_checkpoint_finalized(path)
    except Exception:  # reading it will report the reason
        return True


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _checksums(leaves: dict[str, jax.Array]) -> dict[str, int]:
    return {key: int(value) for key, value in jax.device_get(_sums(leaves)).items()}


@jax.jit
def _sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a sum of each array's bits, weighted by position, modulo 2**32; it does not depend on the sharding."""

    def one(x):
        bits = x.astype(jnp.uint8) if x.dtype == bool else x
        bits = jax.lax.bitcast_convert_type(bits, jnp.dtype(f"uint{8 * bits.dtype.itemsize}")).astype(jnp.uint32)
        place, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for axis in reversed(range(x.ndim)):
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= x.shape[axis]
        # An odd weight has an inverse modulo 2**32, so that no change of a single element goes unseen.
        return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

    return jax.tree.map(one, leaves)
