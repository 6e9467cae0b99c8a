"""What a run reports while it works: events and edits on disk, progress on the terminal, and the statistics."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TextIO

import tqdm

from selfadapt.errors import InvalidValueError
from selfadapt.files import JsonlWriter, make_directory
from selfadapt.parallel.distributed import is_main
from selfadapt.telemetry.sinks import Sinks


class MetricsWriter:
    """Writes a run's `metrics.jsonl` (one event a line) and `edits.jsonl` (one edit a line).

    Both files are appended to, so a resumed run goes on where it stopped. See `selfadapt.files.JsonlWriter`
    for what a crash or a full disk leaves behind. The numbers of events also go to the sinks, if there are any.
    Of several processes only process 0 writes.
    """

    def __init__(self, workdir: str | os.PathLike, sinks: Sinks | None = None):
        self._sinks = sinks
        self._metrics = self._edits = None
        if is_main():
            workdir = make_directory(workdir)
            self._metrics = JsonlWriter(workdir / "metrics.jsonl")
            self._edits = JsonlWriter(workdir / "edits.jsonl")

    def event(self, event: str, *, round: int | None = None, phase: str | None = None, **values: Any) -> None:
        """Appends one event with the time of day (UTC, ISO 8601) and whatever numbers belong to it."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "event": event, "round": round, "phase": phase, **values}
        if self._metrics:
            self._metrics.write(record)
        if self._sinks:
            self._sinks.write(record)

    def edit(self, record: dict[str, Any]) -> None:
        """Appends one edit's record."""
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

    def __exit__(self, kind, *_) -> None:
        self.close(failed=kind is not None)


class Progress:
    """Shows the phases of a run on stderr and adds up the seconds each takes.

    On a terminal a phase is a bar with rate and time left. Elsewhere it is a plain line now and then, so
    that a log file stays readable.

    Example:
      >>> progress = Progress(stream=open(os.devnull, "w"))
      >>> with progress.phase("sample", total=2, unit="passage") as step:
      ...     for _ in range(2):
      ...         step.advance()
      >>> list(progress.seconds)
      ['sample']

    Attributes:
      seconds: seconds per phase name, phases of one name added up. Time in a phase inside another counts
        for the inner one alone, so the values never add up to more than the run.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0):
        """Makes a display on `stream`, by default stderr; plain lines come at least `interval` seconds apart.

        Of several processes only process 0 shows anything by default.
        """
        self.seconds: dict[str, float] = {}
        if stream is None:
            stream = sys.stderr if is_main() else open(os.devnull, "w")  # noqa: SIM115 (as open as stderr is)
        self._stream = stream
        self._interval = interval
        self._inner = [0.0]

    @contextlib.contextmanager
    def phase(
        self, name: str, *, total: int | None = None, unit: str = "step", label: str | None = None
    ) -> Iterator[Step]:
        """Times the body as phase `name` and shows its progress.

        Args:
          name: what the seconds are added to.
          total: how many units the phase has, if that is known.
          unit: one unit's name in the singular, such as "passage".
          label: what is shown in place of the name, such as "round 1: sample".

        Yields:
          The phase; call its `advance(count=1)` as units are done.
        """
        make = _Bar if self._stream.isatty() else _Lines
        step = make(label or name, total, unit, self._stream, self._interval)
        start = time.perf_counter()
        self._inner.append(0.0)
        finished = False
        try:
            yield step
            finished = True
        finally:
            step.close(finished)
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            self._inner[-1] += elapsed

    def log(self, text: str) -> None:
        """Writes a line above whatever bar is showing."""
        tqdm.tqdm.write(text, file=self._stream)
        self._stream.flush()


class Step(Protocol):
    """A phase that is under way."""

    def advance(self, count: int = 1) -> None:
        """Says that `count` more units are done."""

    def close(self, finished: bool) -> None:
        """Ends the display; `finished` is false if an error ended the phase."""


class _Bar(Step):
    """A phase on a terminal."""

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO, interval: float):
        del interval
        self._bar = tqdm.tqdm(desc=label, total=total, unit=f" {unit}", file=stream, dynamic_ncols=True)

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)

    def close(self, finished: bool) -> None:
        del finished
        self._bar.close()


class _Lines(Step):
    """A phase in a log file."""

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO, interval: float):
        self._label, self._total, self._unit = label, total, unit
        self._stream, self._interval = stream, interval
        self._done = 0
        self._start = self._shown = time.perf_counter()

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = time.perf_counter()
        if now - self._shown >= self._interval:
            self._shown = now
            left = ""
            if self._total and self._done:
                left = f", {duration((now - self._start) / self._done * (self._total - self._done))} left"
            self._print(f"{self._count()}{left}")

    def close(self, finished: bool) -> None:
        took = duration(time.perf_counter() - self._start)
        count = f"{self._count()}, " if self._done else ""
        self._print(f"{count}done in {took}" if finished else f"{count}stopped after {took}")

    def _count(self) -> str:
        of = f"{self._done}/{self._total}" if self._total else f"{self._done}"
        rate = self._done / max(time.perf_counter() - self._start, 1e-9)
        return f"{of} {_plural(self._unit)}, {rate:.3g} {_plural(self._unit)}/s"

    def _print(self, text: str) -> None:
        print(f"{self._label}: {text}", file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Returns seconds as a person says them.

    Example:
      >>> duration(0.84), duration(42), duration(192), duration(7380)
      ('0.8 s', '42 s', '3 min 12 s', '2 h 3 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error (sample standard deviation over the root of the count).

    The standard error of a single value is NaN: one value does not tell how it varies.

    Example:
      >>> mean_and_stderr([0.0, 1.0, 1.0, 0.0])
      (0.5, 0.28867513459481287)

    Raises:
      ValueError: there are no values.
    """
    count = len(values)
    if count == 0:
        raise InvalidValueError("there are no values to take the mean of")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean of a minus b over pairs, and its 95% interval by Student's t.

    Args:
      a: one value a passage.
      b: one value a passage, passages in the same order.

    Returns:
      (difference, low, high); low and high are NaN for a single pair.

    Example:
      >>> [round(value, 3) for value in paired_difference([0.5, 0.75, 1.0], [0.25, 0.25, 0.25])]
      [0.5, -0.121, 1.121]

    Raises:
      ValueError: the lengths differ, or there are no pairs.
    """
    if len(a) != len(b):
        raise InvalidValueError(f"a paired difference needs as many values on both sides, not {len(a)} and {len(b)}")
    difference, stderr = mean_and_stderr([x - y for x, y in zip(a, b, strict=True)])
    if len(a) == 1:
        return difference, math.nan, math.nan
    from scipy import stats  # it takes longer to import than the rest of the command line together

    margin = float(stats.t.ppf(0.975, len(a) - 1)) * stderr
    return difference, difference - margin, difference + margin


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
