"""Runs programs that ask for something and wait, so that what all of them ask for is answered in one batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")
Ask = Callable[[Any], Any]
Answer = Callable[[int, Sequence[tuple[int, Any]]], Sequence[Any]]

_END = object()


class _Ended(BaseException):  # not an `Exception`, which a program may handle
    """Ends a program whose request will not be answered."""


def run_together(programs: Sequence[Callable[[Ask], Result]], answer: Answer) -> list[Result]:
    """Runs programs, each in a thread, and answers their requests step by step.

    A step begins when every program that has not ended has made a request, so which requests it has does not depend on
    timing.

    Args:
      programs: each is called with `ask`, which takes a request and returns what answers it.
      answer: given the number of the step, from 0, and its requests, each with the index of its program and in the
        order of the programs, returns what answers them. It is called in the caller's thread.

    Returns:
      What the programs returned.

    Raises:
      BaseException: `answer` or a program raised it; the other programs are ended.

    >>> def program(ask):
    ...     return ask(ask(1))
    >>> run_together([program, program], lambda step, requests: [10 * request + step for _, request in requests])
    [101, 101]
    """
    events: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    replies: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in programs]

    def run(index: int) -> None:
        def ask(request: Any) -> Any:
            events.put((index, "asked", request))
            reply = replies[index].get()
            if reply is _END:
                raise _Ended
            return reply

        try:
            events.put((index, "returned", programs[index](ask)))
        except BaseException as error:
            events.put((index, "raised", error))

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(programs))]
    for thread in threads:
        thread.start()
    try:
        return _served(len(programs), events, replies, answer)
    finally:
        for inbox in replies:
            inbox.put(_END)
        for thread in threads:
            thread.join()


def _served(
    count: int,
    events: queue.SimpleQueue[tuple[int, str, Any]],
    replies: Sequence[queue.SimpleQueue[Any]],
    answer: Answer,
) -> list[Any]:
    """Returns the results of programs, once all have ended."""
    results: dict[int, Any] = {}
    asked: dict[int, Any] = {}
    step = 0
    while len(results) < count:
        while len(asked) + len(results) < count:
            index, kind, value = events.get()
            if kind == "raised":
                raise value
            (asked if kind == "asked" else results)[index] = value
        if asked:
            requests = sorted(asked.items(), key=lambda each: each[0])
            asked = {}
            for (index, _), reply in zip(requests, answer(step, requests), strict=True):
                replies[index].put(reply)
            step += 1
    return [results[index] for index in range(count)]
