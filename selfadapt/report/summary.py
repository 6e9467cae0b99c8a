"""The summary of a run: what `summary.json` holds, and its table on the terminal."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.report.record import Record
from selfadapt.telemetry.progress import duration
from selfadapt.telemetry.statistics import mean_and_stderr, paired_difference

PACKAGES = ("selfadapt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def summarize(
    config: Any,
    record: Record,
    seconds: Mapping[str, float],
    ladder: Sequence[str],
    notes: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Returns what `summary.json` holds.

    Args:
      config: the resolved experiment.
      record: what the run has measured.
      seconds: seconds by phase.
      ladder: names of the main rows, in order; those without scores are left out.
      notes: names of the controls, each with what it is.
      pairs: rows to compare, (a, b) for the paired difference a - b.
    """
    scores = record.scores

    def row(name: str) -> dict[str, Any]:
        mean, stderr = mean_and_stderr(scores[name])
        details = {"details": record.details[name]} if name in record.details else {}
        return {"name": name, "mean": mean, "stderr": stderr, "n": len(scores[name])} | details

    def difference(a: str, b: str) -> dict[str, Any]:
        middle, low, high = paired_difference(scores[a], scores[b])
        return {"a": a, "b": b, "difference": middle, "low": low, "high": high, "n": len(scores[a])}

    return {
        "name": config.name,
        "seed": config.seed,
        "model": config.model,
        "command": shlex.join(["selfadapt", *sys.argv[1:]]),
        "versions": versions(),
        "ladder": [row(name) for name in ladder if name in scores],
        "extras": [row(name) | {"note": note} for name, note in notes.items() if name in scores],
        "paired": [difference(a, b) for a, b in pairs if a in scores and b in scores and a != b],
        "rounds": record.rounds,
        "timings": {name: round(value, 3) for name, value in seconds.items()},
        "seconds": round(sum(seconds.values()), 3),
        "invalid": record.invalid,
    }


def format_ladder(summary: Mapping[str, Any]) -> str:
    """Returns the ladder and its differences as a text table."""
    lines = [f"\n{summary['name']}, seed {summary['seed']}: {duration(summary['seconds'])}\n"]
    names = [row["name"] for row in (*summary["ladder"], *summary["extras"])]
    width = max(map(len, names))
    rows = [(row, "") for row in summary["ladder"]] + [(row, "  (control)") for row in summary["extras"]]
    for row, remark in rows:
        bar = "#" * round(40 * max(0.0, min(1.0, row["mean"])))
        lines.append(f"{row['name']:<{width}}  {row['mean']:.3f} +- {row['stderr']:.3f}  {bar}{remark}")
    lines.append("")
    for pair in summary["paired"]:
        lines.append(
            f"{pair['a']} - {pair['b']}: {pair['difference']:+.3f}  95% [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
