"""What a long run costs while it runs: rates, shares of time, memory, compilation, and the share of the peak rate.

Each phase and each round leaves an event in `metrics.jsonl`; docs/telemetry.md explains every field. The numbers are
taken between phases from counts that the programs keep anyway (`selfadapt.telemetry.meter`), so that measuring costs no
time that could be measured, and nothing of it enters a result.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from selfadapt.errors import UserError
from selfadapt.parallel import chips, distributed
from selfadapt.telemetry import compilation, meter, sinks
from selfadapt.telemetry.metrics import MetricsWriter


def check(options: Any) -> None:
    """Checks `config.telemetry`.

    Raises:
      UserError: a value makes no sense, or a package is not installed; the message names the field.
    """
    sinks.check(options)
    window(options.profile)
    if options.peak_flops is not None and not options.peak_flops > 0:
        raise UserError(
            f"config.telemetry.peak_flops is {options.peak_flops}; it must be the peak rate of one device in FLOP/s"
        )


def window(text: str | None) -> tuple[float, float] | None:
    """Reads "START:STOP", in seconds; `None` for no text.

    Raises:
      UserError: it is not of that form, or is empty as a window.
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


class Telemetry:
    """Measures the phases and rounds of a run.

    Example:
      >>> import tempfile
      >>> from selfadapt.defaults import experiment
      >>> from selfadapt.files import read_jsonl
      >>> workdir = tempfile.mkdtemp()
      >>> with MetricsWriter(workdir) as writer, Telemetry(experiment(), workdir, writer) as telemetry:
      ...     with telemetry.phase("sample", round=1):
      ...         meter.add("generate", new_tokens=100, seconds=0.5)
      ...     telemetry.end_round(1)
      >>> [event["event"] for event in read_jsonl(f"{workdir}/metrics.jsonl")]
      ['devices', 'phase', 'telemetry']
    """

    def __init__(self, config: Any, workdir: str | os.PathLike, writer: MetricsWriter):
        """Starts measuring; writes the event "devices".

        Args:
          config: the experiment; `telemetry` and `dtype` are read.
          workdir: where a profile is written.
          writer: gets the events.
        """
        self._writer = writer
        self._peak, source = _peak_flops(config)
        self._open: list[collections.Counter] = []  # what phases inside each open phase took away from it
        self._totals = _Totals()
        self._start = self._round_start = time.perf_counter()
        self._compiled = compilation.counts()
        self._profile = None
        if (seconds := window(config.telemetry.profile)) and distributed.is_main():
            self._profile = _Profile(pathlib.Path(workdir) / "profile", *seconds)
        writer.event(
            "devices",
            kind=jax.devices()[0].device_kind,
            devices=jax.device_count(),
            processes=jax.process_count(),
            peak_flops=self._peak,
            peak_flops_source=source,
            compilation_cache=jax.config.jax_compilation_cache_dir,
        )

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_) -> None:
        if self._profile:
            self._profile.close()

    @contextlib.contextmanager
    def phase(self, name: str, *, round: int | None = None, label: str | None = None) -> Iterator[None]:
        """Measures the body and writes the event "phase"; a phase inside another is not counted in the outer one.

        Args:
          name: phases of one name are added up in a round.
          round: the round.
          label: what tells it from others of its name, such as "round1".
        """
        if self._profile:
            self._profile.begin()
        start, compiled = time.perf_counter(), compilation.counts()
        self._open.append(collections.Counter())
        try:
            with meter.collect() as programs, jax.profiler.TraceAnnotation(name):
                yield
        finally:
            spent = collections.Counter(seconds=time.perf_counter() - start)
            spent.update(_since(compiled))
            inside = self._open.pop()
            if self._open:
                self._open[-1].update(spent)
        spent.subtract(inside)
        self._totals.add(name, spent, programs)
        self._writer.event(
            "phase",
            round=round,
            phase=name,
            label=label or name,
            started=start - self._start,
            **_work(spent["seconds"], programs, self._peak),
            compile=_compile(spent),
            memory_bytes=memory(),
        )

    def end_round(self, round: int) -> None:
        """Writes the event "telemetry" about all phases since the last round ended."""
        totals, self._totals = self._totals, _Totals()
        now = time.perf_counter()
        seconds, self._round_start = now - self._round_start, now
        compiled, self._compiled = _since(self._compiled), compilation.counts()
        spent = dict(totals.seconds) | {"between phases": max(0.0, seconds - totals.seconds.total())}
        self._writer.event(
            "telemetry",
            round=round,
            **_work(seconds, totals.programs, self._peak),
            phases={name: {"seconds": each, "share": each / seconds} for name, each in spent.items()},
            compile=_compile(compiled),
            memory_bytes=memory(),
        )


class _Totals:
    """What the phases of a round add up to."""

    def __init__(self):
        self.seconds: collections.Counter = collections.Counter()
        self.programs: meter.Counts = collections.defaultdict(collections.Counter)

    def add(self, name: str, spent: Mapping[str, float], programs: meter.Counts) -> None:
        self.seconds[name] += spent["seconds"]
        for program, numbers in programs.items():
            self.programs[program].update(numbers)


def memory() -> dict[str, dict[str, int | None]]:
    """Returns the bytes `in_use` and at the `peak` (since the process began) of each device of this process.

    A device with memory of its own also says its `limit`. Where devices have none (a CPU), there is one
    entry, "process", for what this process holds of the host's memory.
    """
    found = {}
    for device in jax.local_devices():
        if statistics := device.memory_stats():
            names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
            found[str(device)] = {name: statistics.get(key) for name, key in names.items()}
    return found or {"process": _process_memory()}


def _process_memory() -> dict[str, int | None]:
    with contextlib.suppress(OSError, ValueError, KeyError), open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
        return {name: int(lines[key].split()[0]) * 1024 for name, key in (("in_use", "VmRSS"), ("peak", "VmHWM"))}
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return {"in_use": None, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _work(seconds: float, programs: meter.Counts, peak: float | None) -> dict[str, Any]:
    """Says what was done in a time: the numbers that a phase and a round have in common."""
    edits = {name: count for name, count in programs.get("edits", {}).items() if name != "calls"}
    flops = sum(numbers["flops"] for numbers in programs.values())
    return {
        "seconds": seconds,
        "edits": edits,
        "edits_per_second": {name: count / seconds for name, count in edits.items()},
        "tokens_per_second": _token_rates(programs),
        "padding_overhead": _padding(programs),
        "flops": flops,
        "flop_share": flops / (seconds * peak) if peak else None,
        "programs": {name: numbers for name, numbers in programs.items() if name != "edits"},
    }


def _token_rates(programs: meter.Counts) -> dict[str, float]:
    """Tokens without padding, over the seconds of the program that does them."""
    adapt, generate, score = (programs.get(name, {}) for name in ("adapt", "generate", "log_likelihood"))
    reading = generate.get("prefill_seconds", 0.0)
    pairs = {
        "trained": (adapt.get("tokens", 0), adapt.get("seconds", 0.0)),
        "prefilled": (generate.get("prompt_tokens", 0), reading),
        "sampled": (generate.get("new_tokens", 0), generate.get("seconds", 0.0) - reading),
        "scored": (score.get("tokens", 0), score.get("seconds", 0.0)),
    }
    return {name: tokens / seconds for name, (tokens, seconds) in pairs.items() if tokens and seconds > 0}


def _padding(programs: meter.Counts) -> dict[str, float]:
    """Tokens that the device ran, padding included, over the real ones, minus 1."""
    found = {}
    for name, numbers in programs.items():
        real = numbers["tokens"] or numbers["prompt_tokens"] + numbers["new_tokens"]
        run = numbers["padded_tokens"] or numbers["prefill_tokens"] + numbers["decode_tokens"]
        if real and run:
            found[name] = run / real - 1
    return found


def _compile(spent: Mapping[str, float]) -> dict[str, float]:
    return {
        "programs": spent["compiled"],
        "cache_hits": spent["cache_hits"],
        "seconds": spent["compile_seconds"],
    }


def _since(before: collections.Counter) -> collections.Counter:
    difference = compilation.counts()
    difference.subtract(before)
    return difference


def _peak_flops(config: Any) -> tuple[float | None, str]:
    """Returns the peak rate of all devices together in FLOP/s, and where it is from."""
    devices = jax.devices()
    if config.telemetry.peak_flops is not None:
        return config.telemetry.peak_flops * len(devices), "config.telemetry.peak_flops"
    chip = chips.of(devices[0])
    if chip is None:
        return None, (
            f"unknown: no published rate of {devices[0].device_kind!r} is listed, so there is no flop_share; "
            "set config.telemetry.peak_flops"
        )
    return chip.peak_flops(config.dtype) * len(devices), f"published rate of {chip.name}, {config.dtype}"


class _Profile:
    """A trace of `jax.profiler` from one second of the run to another, for TensorBoard or xprof."""

    def __init__(self, directory: pathlib.Path, start: float, stop: float):
        self._directory, self._start, self._stop = directory, start, stop
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Starts the clock, the first time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._trace, name="profile", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Writes the trace if it is under way; the end of the run ends it early."""
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
