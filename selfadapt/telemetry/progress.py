"""Progress on the terminal: bars, or plain lines in a log file, and the seconds of each phase."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

import tqdm

from selfadapt.parallel.distributed import is_main

Advance = Callable[[int], None]  # called with the number of units that were finished
Phase = Callable[[str, int], contextlib.AbstractContextManager[Advance]]  # called with a phase's name and its units


@contextlib.contextmanager
def silent(name: str, total: int) -> Iterator[Advance]:
    """A `Phase` that shows nothing."""
    del name, total
    yield lambda count: None


class Progress:
    """Shows the progress of each phase on stderr and sums the seconds per phase.

    On a terminal a phase is a bar with rate and time left; elsewhere it is a plain line every few seconds, so that
    log files stay readable.

    Example:
      >>> progress = Progress(stream=open(os.devnull, "w"))
      >>> with progress.phase("sample", total=2, unit="passage") as step:
      ...     for _ in range(2):
      ...         step.advance()
      >>> list(progress.seconds)
      ['sample']

    Attributes:
      seconds: seconds per phase name, summed over phases of the same name. The time of a nested phase counts for
        the inner one only, so the sum of the values is at most the duration of the run.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0):
        """Makes a display.

        Args:
          stream: where to write; by default stderr on process 0 and nowhere on other processes.
          interval: least time between two plain lines of a phase, seconds.
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
          name: key of `seconds`.
          total: number of units in the phase, if known.
          unit: a unit's name in the singular, such as "passage".
          label: text to show instead of the name, such as "round 1: sample".

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
        """Writes a line, above the current bar if there is one."""
        tqdm.tqdm.write(text, file=self._stream)
        self._stream.flush()


class Step(Protocol):
    """The display of a running phase."""

    def advance(self, count: int = 1) -> None:
        """Counts `count` more units as done."""

    def close(self, finished: bool) -> None:
        """Ends the display; `finished` is false after an error."""


class _Bar(Step):
    """A progress bar, for terminals."""

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO, interval: float):
        del interval
        self._bar = tqdm.tqdm(desc=label, total=total, unit=f" {unit}", file=stream, dynamic_ncols=True)

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)

    def close(self, finished: bool) -> None:
        del finished
        self._bar.close()


class _Lines(Step):
    """Plain lines, for log files."""

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
    """Formats seconds for people to read.

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


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
