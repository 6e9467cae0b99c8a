"""Counts of device work: programs say what they have done, and whoever times a phase collects it.

Nothing is counted unless somebody collects, and no program's result depends on it.
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
    """Collects what programs called in the body add; a collector inside another takes its own counts away from it.

    Context variables do not reach threads, so a program that uses some adds in the thread that called it.

    Yields:
      For each program the sums of its numbers, and `calls`.

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
    """Adds one call's numbers to whoever collects; without a collector it does nothing."""
    counts = _collector.get()
    if counts is not None:
        counts.setdefault(program, collections.Counter()).update(calls=1, **numbers)
