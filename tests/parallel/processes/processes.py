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


class Processes:
    """The processes of one run, each with some CPU devices; the end of the context kills them."""

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        directory: pathlib.Path,
        devices: int = 2,
        heartbeat: int = 60,
        started: int | None = None,
    ):
        """Starts them.

        Args:
          count: number of processes in the run; a single one gets no variables of a distributed run.
          command: the arguments after `python`.
          directory: where their output is written.
          devices: CPU devices of each.
          heartbeat: JAX's heartbeat timeout, seconds.
          started: how many to start, if not all.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._files = [directory / f"output-{index}.txt" for index in range(count if started is None else started)]
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

    def wait(self, seconds: float, of: Sequence[int] | None = None) -> list[int]:
        """Returns the exit statuses of all or some; fails if one is still running after `seconds`."""
        end = time.monotonic() + seconds
        indices = range(len(self._running)) if of is None else of
        for index in indices:
            try:
                self._running[index].wait(max(0.01, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {index} hangs; its output:\n{self.output(index)}") from None
        return [self._running[index].returncode for index in indices]

    def send(self, index: int, what: signal.Signals) -> None:
        """Sends a signal to one process."""
        self._running[index].send_signal(what)

    def until(self, text: str, seconds: float = 300, of: Sequence[int] | None = None) -> None:
        """Waits until all, or some, have printed a text."""
        end = time.monotonic() + seconds
        while not all(text in self.output(index) for index in of or range(len(self._running))):
            for index, process in enumerate(self._running):
                assert process.poll() in (None, 0), f"process {index} has ended; its output:\n{self.output(index)}"
            assert time.monotonic() < end, f"no {text!r} after {seconds} s: {self.output(0)}"
            time.sleep(0.05)

    def output(self, index: int) -> str:
        """Returns what a process has printed."""
        return self._files[index].read_text(errors="replace")
