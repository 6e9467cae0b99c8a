"""What the continual protocol writes: events, edits, the summary, SEAL's files and the tables on the terminal."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.domains import Applied
from selfadapt.protocols.base import Measured, aligned
from selfadapt.protocols.continual.measures import END, LEARNT, Matrix, comparisons, retention
from selfadapt.protocols.continual.remedies import REMEDIES, SUM, Condition
from selfadapt.protocols.continual.streams import Stream
from selfadapt.protocols.variants import PAIRS
from selfadapt.report.record import training_texts
from selfadapt.seal.continual import continual_results, overall_results
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.statistics import mean_and_stderr
from selfadapt.types import Edit

NOTES = {
    "none": "no edit is learned: the first row again after each step",
    "passage": "each passage alone is learned, without an edit",
    "untrained": "edits of the streams' models, which start from the untrained policy",
    "policy": "edits of the streams' models, which start from the policy",
    "oracle": "edits of a perfect author",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the streams answer after a step.

    Attributes:
      verdicts: of each stream, for each passage asked about, the verdicts on its answers.
      answers: likewise the answers.
      status: for each stream "ok", or why the step's edit could not be learned.
    """

    verdicts: list[list[list[float]]]
    answers: list[list[list[str]]]
    status: list[str]

    def first(self, passages: int) -> Row:
        """Returns the row of the first passages of each stream alone."""
        verdicts = [own[:passages] for own in self.verdicts]
        return Row(verdicts, [own[:passages] for own in self.answers], self.status)

    def accuracies(self) -> list[list[float]]:
        """Returns for each stream the mean verdict on each passage asked about."""
        return [[float(np.mean(verdicts)) for verdicts in own] for own in self.verdicts]


def matrices(rows: Sequence[Row]) -> list[Matrix]:
    """Returns each stream's accuracies, `[T + 1, T]`; NaN where a passage is not asked about."""
    found = []
    for each in zip(*(row.accuracies() for row in rows), strict=True):
        matrix = np.full((len(rows), len(rows) - 1), np.nan)
        for r, values in enumerate(each):
            matrix[r, : len(values)] = values
        found.append(matrix)
    return found


def failures(rows: Sequence[Row]) -> dict[str, int]:
    """Returns how many edits could not be learned, by reason."""
    return dict(collections.Counter(status for row in rows for status in row.status if status != "ok"))


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured under a condition.

    Attributes:
      accuracies: each stream's matrix.
      failed: edits that could not be learned, by reason.
      cost: what the training costs, see `selfadapt.engine.adapt.work.training_cost`.
    """

    accuracies: list[Matrix]
    failed: dict[str, int]
    cost: Mapping[str, int]


def event(writer: MetricsWriter, variant: str, step: int, row: Row) -> None:
    """Writes what was measured after a step."""
    accuracies = row.accuracies()
    mean, stderr = mean_and_stderr([float(np.mean(own)) for own in accuracies])
    learnt = float(np.mean([own[-1] for own in accuracies])) if step else None
    failed = sum(status != "ok" for status in row.status)
    writer.event("step", round=step, variant=variant, mean=mean, stderr=stderr, just_learnt=learnt, failed=failed)


def edit_line(variant: str, stream: Stream, step: int, edit: Edit, what: Applied, row: Row, k: int) -> dict[str, Any]:
    """Returns the line of `edits.jsonl` of stream `k`'s edit of a step."""
    task = stream.tasks[step - 1]
    return {
        "task": task.id,
        "title": task.title,
        "context": task.context,
        "variant": variant,
        "run": stream.run,
        "stream": stream.number,
        "step": step,
        "text": edit.text,
        "sequences": training_texts(what),
        "questions": [question.question for question in task.questions],
        "golds": [list(question.answers) for question in task.questions],
        "answers": row.answers[k][-1],
        "verdicts": row.verdicts[k][-1],
        "accuracies": row.accuracies()[k],
        "status": row.status[k],
    }


def measured(config: Any, streams: Sequence[Stream], results: Mapping[Condition, Result]) -> Measured:
    """Returns the summary, SEAL's files of each condition, and the tables."""
    fields, runs = config.protocol, [stream.run for stream in streams]
    accuracies = {condition.name: result.accuracies for condition, result in results.items()}
    files: dict[str, Any] = {
        "accuracies.json": {
            "streams": [{"run": s.run, "stream": s.number, "tasks": [task.id for task in s.tasks]} for s in streams],
            "accuracies": accuracies,
        }
    }
    rows = []
    for condition, result in results.items():
        name, each, note = condition.name, result.accuracies, NOTES[condition.variant]
        if condition.remedy != SUM:
            note = f"{note}; {REMEDIES[condition.remedy].note}"
        about = {"name": name, "variant": condition.variant, "remedy": condition.remedy, "note": note}
        rows.append(about | {"failed": result.failed, "cost": dict(result.cost)} | retention(each, runs))
        base = config.model if condition.variant == "untrained" else fields.policy or config.model
        by_run = []
        for run in sorted(set(runs)):
            chosen = [matrix.tolist() for matrix, own in zip(each, runs, strict=True) if own == run]
            by_run.append(continual_results(chosen, dataset=config.data.path, base_model=base))
            files[f"retention/{name}/continual_run{run}.json"] = by_run[-1]
        files[f"retention/{name}/continual_overall.json"] = overall_results(by_run)
    summary = {
        "policy": fields.policy or None,
        "dataset": config.data.path,
        "streams": len(streams),
        "runs": fields.runs,
        "passages": fields.passages,
        "retention": rows,
        "paired": comparisons(accuracies, [*PAIRS, *((row["name"], row["variant"]) for row in rows if _remedied(row))]),
    }
    return Measured(summary, files, table(summary))


def _remedied(row: Mapping[str, Any]) -> bool:
    return row["remedy"] != SUM


def table(summary: Mapping[str, Any]) -> str:
    """Returns the measures of a summary as text tables, with their 95% intervals: of variants, and of remedies."""
    rows = summary["retention"]
    plain = [row for row in rows if not _remedied(row)]
    body = [["", *(row["name"] for row in plain)]]
    body += [[_words(name), *(_cell(row, name) for row in plain)] for name in rows[0]["measures"]]
    lines = [*aligned(body), ""]
    if len(plain) < len(rows):
        body = [["", *map(_words, (LEARNT, END, *rows[0]["cost"]))]]
        body += [[row["name"], _cell(row, LEARNT), _cell(row, END), *map(str, row["cost"].values())] for row in rows]
        lines += [*aligned(body), ""]
    for pair in summary["paired"]:
        lines.append(
            f"{pair['a']} - {pair['b']}, {_words(pair['measure'])}: {pair['difference']:+.3f}  "
            f"95% [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    failed = sum(sum(row["failed"].values()) for row in rows)
    lines.append(f"{failed} edits could not be learned" if failed else "every edit could be learned")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    found = row["measures"][name]
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _words(name: str) -> str:
    return name.replace("_", " ")
