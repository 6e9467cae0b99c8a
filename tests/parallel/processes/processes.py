"""Several processes on this machine as one run, over loopback."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[3]
HEARTBEAT = 10.0  # for tests in which a process dies; seconds in which all others must have ended


class Processes:
    """Processes 0 to n-1 of one run, each with some CPU devices; ended at the latest when the context ends."""

    def __init__(
        self, count: int, command: Sequence[str], directory: pathlib.Path, devices: int = 2, heartbeat: float = 60.0
    ):
        """Starts them.

        Args:
          count: how many; one is started as if there were no others to think of.
          command: the arguments after `python`.
          directory: where what they print goes.
          devices: CPU devices of each.
          heartbeat: seconds within which the death of one must end the others.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._files = [directory / f"output-{index}.txt" for index in range(count)]
        self._running = []
        for index, file in enumerate(self._files):
            together = {
                "SELFADAPT_COORDINATOR": f"127.0.0.1:{port}",
                "SELFADAPT_NUM_PROCESSES": str(count),
                "SELFADAPT_PROCESS_ID": str(index),
                "SELFADAPT_HEARTBEAT_SECONDS": str(heartbeat),
            }
            variables = {
                **(together if count > 1 else {}),
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PYTHONPATH": str(ROOT),
            }
            with open(file, "w") as output:
                self._running.append(
                    subprocess.Popen(
                        [sys.executable, *command],
                        cwd=ROOT,
                        env=os.environ | variables,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self, seconds: float) -> list[int]:
        """Returns the exit statuses; fails if one is still running after so many seconds."""
        end = time.monotonic() + seconds
        for index, process in enumerate(self._running):
            try:
                process.wait(max(0.01, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {index} hangs; it said:\n{self.output(index)}") from None
        return [process.returncode for process in self._running]

    def send(self, index: int, what: signal.Signals) -> None:
        """Sends a signal to one process."""
        self._running[index].send_signal(what)

    def until(self, text: str, seconds: float = 300, of: Sequence[int] | None = None) -> None:
        """Waits until all, or some, have printed a text."""
        end = time.monotonic() + seconds
        while not all(text in self.output(index) for index in of or range(len(self._running))):
            for index, process in enumerate(self._running):
                assert process.poll() in (None, 0), f"process {index} has ended; it said:\n{self.output(index)}"
            assert time.monotonic() < end, f"no {text!r} after {seconds} s: {self.output(0)}"
            time.sleep(0.05)

    def output(self, index: int) -> str:
        """Returns what a process has printed."""
        return self._files[index].read_text(errors="replace")
