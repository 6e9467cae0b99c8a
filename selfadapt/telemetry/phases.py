"""Throughput, MFU, memory and compilation of each phase and each round, as events in `metrics.jsonl`.

docs/telemetry.md explains every field. The numbers are computed between phases from counts that the programs keep
(`selfadapt.telemetry.meter`), so measuring takes next to no time. No result depends on them.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from selfadapt.errors import UserError
from selfadapt.parallel import chips, distributed
from selfadapt.telemetry import compilation, meter, sinks
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.profile import Profile, parse_window


def check(options: Any) -> None:
    """Checks `config.telemetry`.

    Raises:
      UserError: a value is invalid, or a package is not installed; the message names the field.
    """
    sinks.check(options)
    parse_window(options.profile)
    if options.peak_flops is not None and not options.peak_flops > 0:
        raise UserError(
            f"config.telemetry.peak_flops is {options.peak_flops}; it must be the peak rate of one device in FLOP/s"
        )


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
          workdir: the directory for a profile.
          writer: receives the events.
        """
        self._writer = writer
        self._peak, source = _peak_flops(config)
        self._open: list[collections.Counter] = []  # for each open phase, what its nested phases used
        self._totals = _Totals()
        self._start = self._round_start = time.perf_counter()
        self._compiled = compilation.counts()
        self._profile = None
        if (seconds := parse_window(config.telemetry.profile)) and distributed.is_main():
            self._profile = Profile(pathlib.Path(workdir) / "profile", *seconds)
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

    def __exit__(self, *_: object) -> None:
        if self._profile:
            self._profile.close()

    @contextlib.contextmanager
    def phase(self, name: str, *, round: int | None = None, label: str | None = None) -> Iterator[None]:
        """Measures the body and writes the event "phase". A nested phase is not counted in the outer one.

        Args:
          name: name of the phase; a round's phases of the same name are summed in the event "telemetry".
          round: number of the round.
          label: distinguishes phases of the same name, such as "round1".
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
        """Writes the event "telemetry": the sums over all phases since the last call."""
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
    """Sums over the phases of a round."""

    def __init__(self):
        self.seconds: collections.Counter = collections.Counter()
        self.programs: meter.Counts = collections.defaultdict(collections.Counter)

    def add(self, name: str, spent: Mapping[str, float], programs: meter.Counts) -> None:
        self.seconds[name] += spent["seconds"]
        for program, numbers in programs.items():
            self.programs[program].update(numbers)


def memory() -> dict[str, dict[str, int | None]]:
    """Returns the memory of each device of this process, in bytes.

    Returns:
      Per device: `in_use`, `peak` (since the process started) and `limit`. Devices without their own memory (CPUs)
      share one entry, "process", with this process's resident memory and no limit.
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
    """Returns the fields that the events "phase" and "telemetry" have in common."""
    edits = {name: count for name, count in programs.get("edits", {}).items() if name != "calls"}
    flops = sum(numbers["flops"] for numbers in programs.values())
    return {
        "seconds": seconds,
        "edits": edits,
        "edits_per_second": {name: count / seconds for name, count in edits.items()},
        "tokens_per_second": _token_rates(programs),
        "padding_overhead": _padding(programs),
        "flops": flops,
        "mfu": flops / (seconds * peak) if peak else None,
        "programs": {name: numbers for name, numbers in programs.items() if name != "edits"},
    }


def _token_rates(programs: meter.Counts) -> dict[str, float]:
    """Returns tokens per second, without padding, over the seconds of the program that processed them."""
    adapt, generate, score = (programs.get(name, {}) for name in ("adapt", "generate", "log_likelihood"))
    prefill = generate.get("prefill_seconds", 0.0)
    pairs = {
        "trained": (adapt.get("tokens", 0), adapt.get("seconds", 0.0)),
        "prefilled": (generate.get("prompt_tokens", 0), prefill),
        "sampled": (generate.get("new_tokens", 0), generate.get("seconds", 0.0) - prefill),
        "scored": (score.get("tokens", 0), score.get("seconds", 0.0)),
    }
    return {name: tokens / seconds for name, (tokens, seconds) in pairs.items() if tokens and seconds > 0}


def _padding(programs: meter.Counts) -> dict[str, float]:
    """Returns, per program, tokens computed (padding included) over real tokens, minus 1."""
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
    """Returns the peak rate of all devices together in FLOP/s, and its source."""
    devices = jax.devices()
    if config.telemetry.peak_flops is not None:
        return config.telemetry.peak_flops * len(devices), "config.telemetry.peak_flops"
    chip = chips.of(devices[0])
    if chip is None:
        return None, (
            f"unknown: no published rate of {devices[0].device_kind!r} is listed, so there is no MFU; "
            "set config.telemetry.peak_flops"
        )
    return chip.peak_flops(config.dtype) * len(devices), f"published rate of {chip.name}, {config.dtype}"
