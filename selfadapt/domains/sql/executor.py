"""Runs statements that nobody has read, many at once, in processes that cannot write, hang or fill the memory."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import math
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any

from selfadapt.domains.sql.databases import Database, file_problem, read_only_uri
from selfadapt.domains.sql.process import WorkerProcess
from selfadapt.domains.sql.results import MESSAGE, Result, Row
from selfadapt.domains.sql.statements import normalize
from selfadapt.errors import InvalidValueError

Key = tuple[Any, ...]

TIMEOUT = 30.0  # seconds, as in LSE's code
MAX_ROWS = 100_000
MEMORY = 512 << 20
CACHE_BYTES = 256 << 20

_GRACE = 1.0  # seconds after the timeout, or the timeout if it is shorter, before a process is killed
_LONGEST = 100_000  # bytes of a statement; no answer of a model is as long


class Executor:
    """A pool of processes that run statements on SQLite databases, one statement each at a time.

    Databases are opened read-only and as immutable (locks and journals are ignored), and statements can only read.
    A process that does not answer in time is killed and replaced. The results of statements that have run are cached,
    by the file's identity (path, inode, size, times of change) and the statement without differences of white space.

    Use it as a context manager. Its methods may be called from several threads.

    Args:
      workers: number of processes; by default one for each CPU, at most 8. They start when they are first needed.
      timeout: seconds that a statement may take.
      max_rows: rows that a result may have; one of more rows, or over 16 MiB, is an error, never cut.
      memory: bytes that SQLite may use in each process.
      cache_bytes: memory for the results to keep, the most recently used ones.

    Raises:
      InvalidValueError: an argument is not positive, or infinite.

    >>> import sqlite3, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Executor(workers=1) as executor:
    ...     path = f"{folder}/pets.sqlite"
    ...     with sqlite3.connect(path) as connection:
    ...         _ = connection.execute("CREATE TABLE pet AS SELECT 'Rex' AS name")
    ...     connection.close()
    ...     for result in executor.execute_many([(path, "SELECT name FROM pet"), (path, "DROP TABLE pet")]):
    ...         print(result.rows, result.error)
    (('Rex',),)
    () refused
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        timeout: float = TIMEOUT,
        max_rows: int = MAX_ROWS,
        memory: int = MEMORY,
        cache_bytes: int = CACHE_BYTES,
    ):
        workers = min(8, os.cpu_count() or 1) if workers is None else workers
        arguments = {"workers": workers, "timeout": timeout, "max_rows": max_rows, "memory": memory}
        for name, value in arguments.items():
            if not 0 < value < math.inf:
                raise InvalidValueError(f"{name} of an executor of statements is {value}; it must be over 0 and finite")
        self._timeout = timeout
        self._max_rows = max_rows
        self._workers = [WorkerProcess(memory) for _ in range(workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="sql")
        self._cache = _Cache(cache_bytes)

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes; statements that are running have the result "crash"."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.interrupt()
        self._threads.shutdown()
        for worker in self._workers:
            worker.kill()

    def execute(self, database: Database, statement: str) -> Result:
        """Returns the result of one statement."""
        return self.execute_many([(database, statement)])[0]

    def execute_many(self, requests: Sequence[tuple[Database, str]]) -> list[Result]:
        """Returns the results of statements, in order; equal ones run once.

        Args:
          requests: the database's file and the statement of each.
        """
        keys = [self._key(*request) for request in requests]
        running = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in running:
                running[key] = self._threads.submit(self._run, key, *request)
        return [running[key].result() for key in keys]

    def _key(self, database: Database, statement: str) -> Key:
        path = os.path.abspath(database)
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # a null character in the path
            return (path, None, statement)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return (path, identity, normalize(statement) if len(statement) <= _LONGEST else statement)

    def _run(self, key: Key, database: Database, statement: str) -> Result:
        known = self._cache.get(key)
        if known is not None:
            return known
        problem = file_problem(database)
        if problem:
            return Result(error="database", message=f"{os.fspath(database)} {problem}"[:MESSAGE])
        size = len(statement.encode("utf-8", "surrogatepass"))
        if size > _LONGEST:
            return Result(error="size", message=f"the statement has {size} bytes, over {_LONGEST}")
        request = {
            "uri": read_only_uri(database),
            "statement": statement,
            "seconds": self._timeout,
            "rows": self._max_rows,
        }
        worker = self._idle.get()
        try:
            reply = worker.ask(request, self._timeout + min(_GRACE, self._timeout))
        finally:
            self._idle.put(worker)
        result = reply if isinstance(reply, Result) else _decode(reply)
        if result.error == "timeout":
            result = dataclasses.replace(result, message=f"the statement took more than {self._timeout:g} s")
        if not result.error and self._key(database, statement) == key:  # the file is still the same
            self._cache.put(key, result)
        return result


def execute(
    database: Database, statement: str, *, timeout: float = TIMEOUT, max_rows: int = MAX_ROWS, memory: int = MEMORY
) -> Result:
    """Returns the result of one statement, run in a separate process; for several, use `Executor`.

    Args:
      database: the database's file, which is only read.
      statement: one statement of SQL.
      timeout: seconds that it may take.
      max_rows: rows that the result may have; one of more rows is an error.
      memory: bytes that SQLite may use.
    """
    with Executor(workers=1, timeout=timeout, max_rows=max_rows, memory=memory) as executor:
        return executor.execute(database, statement)


def _decode(reply: bytes) -> Result:
    fields = json.loads(reply, object_hook=lambda each: bytes.fromhex(each["hex"]) if "hex" in each else each)
    return Result(tuple(map(tuple, fields.pop("rows", ()))), **fields)


def _size(row: Row) -> int:
    return sys.getsizeof(row) + sum(map(sys.getsizeof, row))


class _Cache:
    """Results by key, the most recently used ones up to a number of bytes."""

    def __init__(self, most: int):
        self._most = most
        self._size = 0
        self._entries: collections.OrderedDict[Key, tuple[Result, int]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Result | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Key, result: Result) -> None:
        size = sys.getsizeof(key[-1]) + sum(map(_size, result.rows))
        with self._lock:
            self._size += size - self._entries.pop(key, (result, 0))[1]
            self._entries[key] = (result, size)
            while self._size > self._most:
                self._size -= self._entries.popitem(last=False)[1][1]
