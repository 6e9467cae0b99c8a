"""A trace of `jax.profiler` over some seconds of a run, for TensorBoard's profiler or xprof."""

from __future__ import annotations

import pathlib
import threading
import warnings

import jax

from selfadapt.errors import UserError


def parse_window(text: str | None) -> tuple[float, float] | None:
    """Parses "START:STOP", in seconds; returns `None` for `None` and the empty text.

    Raises:
      UserError: the text has another form, or START is not before STOP.
    """
    if not text:
        return None
    try:
        start, stop = (float(part) for part in text.split(":"))
    except ValueError:
        start, stop = 0.0, 0.0
    if not 0 <= start < stop < float("inf"):
        raise UserError(
            f"config.telemetry.profile (or --profile) is {text!r}; it must be START:STOP in seconds after the first "
            "phase begins, such as 60:70"
        )
    return start, stop


class Profile:
    """Traces the devices of this process during one window of seconds, on a thread."""

    def __init__(self, directory: pathlib.Path, start: float, stop: float):
        """Traces nothing yet; see `begin`.

        Args:
          directory: where the trace is written.
          start: seconds after `begin` at which the trace starts.
          stop: seconds after `begin` at which it stops.
        """
        self._directory, self._start, self._stop = directory, start, stop
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Starts the clock; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._trace, name="profile", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops and writes a trace that has started; warns if it had not."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _trace(self) -> None:
        if self._ended.wait(self._start):
            warnings.warn(f"no profile: the run ended before second {self._start:g}", stacklevel=1)
            return
        try:
            jax.profiler.start_trace(str(self._directory))
            self._ended.wait(self._stop - self._start)
            jax.profiler.stop_trace()
        except Exception as error:
            warnings.warn(f"the profile failed: {error}", stacklevel=1)
