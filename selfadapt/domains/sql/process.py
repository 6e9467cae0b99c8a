"""A process that runs statements, seen from the one that starts it: requests, replies, and its end."""

from __future__ import annotations

import json
import os
import pathlib
import select
import subprocess
import sys
import time
from typing import Any

from selfadapt.domains.sql.results import Result

_SCRIPT = pathlib.Path(__file__).with_name("worker.py")
_START = 60.0  # seconds in which a new process has to be ready


class WorkerProcess:
    """A process that runs `worker.py`, started when it is needed and again after it has ended."""

    def __init__(self, memory: int):
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], seconds: float) -> bytes | Result:
        """Returns the reply to a request; an error if the process ends before, or is killed after `seconds`."""
        line = json.dumps(request).encode() + b"\n"
        process = self._running()
        try:
            _send(process, line)
        except OSError:  # it has ended since the last reply
            self.kill()
            process = self._running()
            _send(process, line)
        try:
            reply = _read_line(process, seconds)
        except TimeoutError:
            self.kill()
            return Result(error="timeout")
        if reply is None:
            self.kill()
            return Result(error="crash", message=f"the process that ran it has ended (status {process.returncode})")
        return reply

    def interrupt(self) -> None:
        """Ends the process while another thread may wait for its reply, and get none."""
        process = self._process
        if process is not None:
            process.kill()

    def kill(self) -> None:
        """Ends the process, if there is one, and closes its pipes."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        # Isolated from the environment and from site-packages. In a separate session, Ctrl-C does not reach it.
        process = self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_SCRIPT), str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        try:
            ready = _read_line(process, _START)
        except TimeoutError:
            ready = None
        if ready is None:
            self.kill()
            raise RuntimeError(f"the process for SQL statements did not start (status {process.returncode})")
        return process


def _send(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    left = memoryview(line)
    while left:
        left = left[process.stdin.write(left) :]


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Reads a line from a process; `None` if it ends before.

    Raises:
      TimeoutError: it takes too long.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if poll.poll(1000 * min(left, 60)):  # it takes no number of more than 24 days
            parts.append(os.read(pipe, 1 << 20))
            if not parts[-1]:
                return None
    return b"".join(parts)
