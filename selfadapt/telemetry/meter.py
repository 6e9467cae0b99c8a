"""Counts of device work: programs add their tokens, FLOPs and seconds, and `Telemetry` collects them per phase.

Without a collector nothing is counted. No program's result depends on the counts.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
from collections.abc import Iterator

Counts = dict[str, collections.Counter]
_collector: contextvars.ContextVar[Counts | None] = contextvars.ContextVar("collector", default=None)


@contextlib.contextmanager
def collect() -> Iterator[Counts]:
    """Collects what programs add in the body. A nested collector's counts are not part of the outer one's.

    Threads do not inherit context variables, so a program that uses threads must call `add` in its caller's thread.

    Yields:
      For each program its number of `calls` and the sums of its numbers.

    Example:
      >>> with collect() as counts:
      ...     add("adapt", tokens=3)
      ...     add("adapt", tokens=4)
      >>> dict(counts["adapt"])
      {'calls': 2, 'tokens': 7}
    """
    counts: Counts = {}
    token = _collector.set(counts)
    try:
        yield counts
    finally:
        _collector.reset(token)


def add(program: str, **numbers: float) -> None:
    """Adds the numbers of one call to the current collector, if there is one."""
    counts = _collector.get()
    if counts is not None:
        counts.setdefault(program, collections.Counter()).update(calls=1, **numbers)
