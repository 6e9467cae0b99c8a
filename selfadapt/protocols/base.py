"""What protocols have in common: what they run with, and what they return."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any
from typing import Protocol as Interface

from selfadapt.checkpoint.units import Units
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.phases import Telemetry
from selfadapt.telemetry.progress import Advance, Progress


@dataclasses.dataclass(frozen=True)
class Run:
    """A run in progress.

    Attributes:
      stored: completed units of work; what is looked up in them survives an interruption.
      writer: `metrics.jsonl`, and `edits.jsonl`, which every start of a run writes anew.
      progress: shows phases.
      meters: measures phases.
    """

    stored: Units
    writer: MetricsWriter
    progress: Progress
    meters: Telemetry

    @contextlib.contextmanager
    def phase(self, name: str, total: int, unit: str, label: str, round: int) -> Iterator[Advance]:
        """Shows and measures a phase.

        Args:
          name: of the phase; times of one name are added up.
          total: units in it.
          unit: what a unit is called.
          label: what the phase works on.
          round: the number of the step that it belongs to.
        """
        with (
            self.progress.phase(name, total=total, unit=unit, label=f"{label}: {name}") as step,
            self.meters.phase(name, round=round, label=label),
        ):
            yield step.advance


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a protocol has measured.

    Attributes:
      summary: fields of `summary.json`, beside those that all protocols have.
      files: further JSON files by their path in the workdir.
      text: a table for the terminal.
    """

    summary: dict[str, Any]
    files: dict[str, Any]
    text: str


class Protocol(Interface):
    """An evaluation protocol of one config."""

    def run(self, run: Run) -> Measured:
        """Measures; a second call with the same units gives the same result."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the rows of a table as lines of text, its columns aligned.

    >>> aligned([("", "a"), ("one", "2")])
    ['     a', 'one  2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
