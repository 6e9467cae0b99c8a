"""A run's two logs in its workdir: `metrics.jsonl` (events) and `edits.jsonl` (edits)."""

from __future__ import annotations

import datetime
import os
from typing import Any

from selfadapt.files import JsonlWriter, make_directory
from selfadapt.parallel.distributed import is_main
from selfadapt.telemetry.sinks import Sinks


class MetricsWriter:
    """Writes `metrics.jsonl` (one event per line) and `edits.jsonl` (one edit per line) of a workdir.

    Both files are appended to, so a resumed run continues them. `selfadapt.files.JsonlWriter` documents what a
    crash or a full disk leaves behind. The numbers of events also go to the sinks, if there are any. With several
    processes only process 0 writes.
    """

    def __init__(self, workdir: str | os.PathLike, sinks: Sinks | None = None):
        """Opens both files; makes the workdir if it does not exist.

        Raises:
          StorageError: the workdir or a file cannot be written.
        """
        self._sinks = sinks
        self._metrics = self._edits = None
        if is_main():
            workdir = make_directory(workdir)
            self._metrics = JsonlWriter(workdir / "metrics.jsonl")
            self._edits = JsonlWriter(workdir / "edits.jsonl")

    def event(self, event: str, *, round: int | None = None, phase: str | None = None, **values: Any) -> None:
        """Appends one event with the current time (UTC, ISO 8601).

        Args:
          event: its name.
          round: the round it belongs to, if any.
          phase: the phase it belongs to, if any.
          **values: further fields (see `selfadapt.files.plain` for the types).

        Raises:
          StorageError: the line could not be written.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "event": event, "round": round, "phase": phase, **values}
        if self._metrics:
            self._metrics.write(record)
        if self._sinks:
            self._sinks.write(record)

    def edit(self, record: dict[str, Any]) -> None:
        """Appends one edit's record; raises as `event` does."""
        if self._edits:
            self._edits.write(record)

    def close(self, failed: bool = False) -> None:
        """Closes the files and the sinks; `failed` if an error ended the run."""
        for file in (self._metrics, self._edits):
            if file:
                file.close()
        if self._sinks:
            self._sinks.close(failed)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)
