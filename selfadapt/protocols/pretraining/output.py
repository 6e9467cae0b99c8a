"""What continued pretraining writes: events, edits, the summary, SEAL's files and the table on the terminal."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.domains import Applied
from selfadapt.protocols.base import Measured, aligned
from selfadapt.protocols.pretraining.subsets import Subset
from selfadapt.protocols.variants import PAIRS, POLICY, VARIANTS
from selfadapt.report.record import training_texts
from selfadapt.seal.pretraining import full_results, lora_results
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.statistics import mean_interval, paired_difference
from selfadapt.types import Edit, Rejected, Task

NOTES = {
    "none": "no edit is learned",
    "passage": "the passages alone are learned, without edits",
    "untrained": "edits of the untrained policy, learned by itself",
    "policy": "edits of the policy, learned by itself",
    "oracle": "edits of a perfect author, learned by the untrained policy",
}


@dataclasses.dataclass(frozen=True)
class Learned:
    """What models learned of a subset.

    Attributes:
      subset: the passages.
      before: "answers" and "verdicts" before the updates (`selfadapt.protocols.asking.ask`).
      after: likewise after them, with the "status" and the "losses" of each update; `before` itself without updates.
      sequences: the sequences of each model's update.
      rejected: how many edits could not be applied, by reason.
    """

    subset: Subset
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    sequences: Sequence[int]
    rejected: Mapping[str, int]

    def accuracies(self, side: str) -> list[float]:
        """Returns the mean verdict on each passage asked about, "before" or "after"."""
        return [float(np.mean(verdicts)) for own in getattr(self, side)["verdicts"] for verdicts in own]

    @property
    def failed(self) -> dict[str, int]:
        """How many models could not be trained, by reason."""
        return dict(collections.Counter(status for status in self.after.get("status", ()) if status != "ok"))

    def log(self) -> Iterator[dict[str, Any]]:
        """Yields the answers and verdicts on each question."""
        columns = [side[name] for side in (self.before, self.after) for name in ("answers", "verdicts")]
        flat = [itertools.chain(*models) for models in (self.subset.asked, *columns)]
        for task, *each in zip(*flat, strict=True):
            for _, old, old_verdict, new, new_verdict in zip(task.questions, *each, strict=True):
                yield {
                    "title": task.title,
                    "baseline_answer": old,
                    "adapter_answer": new,
                    "baseline_correct": old_verdict >= 0.5,
                    "adapter_correct": new_verdict >= 0.5,
                }

    def row(self) -> dict[str, Any]:
        """Returns the numbers of the subset for the summary."""
        before, after = self.accuracies("before"), self.accuracies("after")
        verdicts = [verdict for own in self.after["verdicts"] for each in own for verdict in each]
        losses = [each for each in self.after.get("losses", ()) if each["steps"]]
        return {
            "size": self.subset.size,
            "questions": len(verdicts),
            "accuracy": mean_interval(after),
            "before": mean_interval(before),
            "gain": mean_interval([b - a for a, b in zip(before, after, strict=True)]),
            "over_questions": float(np.mean(verdicts)),
            "sequences": float(np.mean(self.sequences)) if self.sequences else 0.0,
            "optimizer_steps": float(np.mean([each["steps"] for each in losses])) if losses else 0.0,
            "loss_first": float(np.mean([each["first"] for each in losses])) if losses else None,
            "loss_last": float(np.mean([each["last"] for each in losses])) if losses else None,
            "failed": self.failed,
            "rejected": dict(self.rejected),
        }


def event(writer: MetricsWriter, variant: str, learned: Learned) -> None:
    """Writes what was measured at a size."""
    row = learned.row()
    numbers = {name: row["accuracy"][name] for name in ("mean", "stderr")} | {"before": row["before"]["mean"]}
    failed = sum(learned.failed.values())
    writer.event("learned", variant=variant, size=learned.subset.size, **numbers, failed=failed)


def edit_line(variant: str, task: Task, edit: Edit, what: Applied) -> dict[str, Any]:
    """Returns the line of `edits.jsonl` of an edit."""
    return {
        "task": task.id,
        "title": task.title,
        "context": task.context,
        "variant": variant,
        "sample": edit.sample,
        "text": edit.text,
        "sequences": training_texts(what),
        "status": what.reason if isinstance(what, Rejected) else "ok",
    }


def measured(config: Any, variants: Mapping[str, Sequence[Learned]], timestamp: str) -> Measured:
    """Returns the summary, SEAL's file of each variant and size above 1, and the table.

    Args:
      config: the resolved config.
      variants: for each variant what was learned at each size.
      timestamp: when the run started, as in SEAL's files.
    """
    fields = config.protocol
    names = list(variants)
    files: dict[str, Any] = {
        "accuracies.json": {
            "passages": {
                each.subset.label: [task.id for own in each.subset.asked for task in own] for each in variants[names[0]]
            },
            "accuracies": {
                name: {
                    each.subset.label: {side: each.accuracies(side) for side in ("before", "after")} for each in sizes
                }
                for name, sizes in variants.items()
            },
        }
    }
    for name, sizes in variants.items():
        for each in sizes:
            if each.subset.size > 1:
                files[f"pretraining/{name}/cpt_{each.subset.label}.json"] = _seal_file(config, name, each, timestamp)
    summary = {
        "policy": fields.policy or None,
        "dataset": config.data.path,
        "train": fields.train,
        "edits": config.evaluation.edits,
        "sizes": list(fields.sizes),
        "pretraining": [
            {"name": name, "note": _note(config, name), "sizes": [each.row() for each in sizes]}
            for name, sizes in variants.items()
        ],
        "paired": _comparisons(variants),
    }
    return Measured(summary, files, table(summary))


def _note(config: Any, name: str) -> str:
    paths = dict(given.split("=", 1) for given in config.evaluation.edits_from)
    return NOTES[name] if name in NOTES else f"edits of {paths[name]}, learned by the untrained policy"


def _comparisons(variants: Mapping[str, Sequence[Learned]]) -> list[dict[str, Any]]:
    """Returns differences between variants of each size with their 95% intervals, paired by passage."""
    given = [name for name in variants if name not in VARIANTS]
    rows = []
    for a, b in (*PAIRS, *((POLICY, name) for name in given)):
        for one, other in zip(variants.get(a, ()), variants.get(b, ()), strict=False):  # none where one is absent
            difference, low, high = paired_difference(one.accuracies("after"), other.accuracies("after"))
            count = len(one.accuracies("after"))
            row = {"a": a, "b": b, "size": one.subset.size, "difference": difference, "low": low, "high": high}
            rows.append(row | {"n": count})
    return rows


def _seal_file(config: Any, variant: str, learned: Learned, timestamp: str) -> dict[str, Any]:
    inner, fields = config.inner, config.protocol
    shared: dict[str, Any] = dict(
        timestamp=timestamp,
        dataset=config.data.path,
        n_articles=learned.subset.size,
        k_completions={"none": 0, "passage": 0, "oracle": 1}.get(variant, config.evaluation.edits),
        train_sequences=sum(learned.sequences),
    )
    training = {
        "epochs": inner.epochs,
        "lr": inner.learning_rate,
        "batch_size": inner.batch_size,
        "grad_accum_steps": inner.gradient_accumulation,
    }
    if fields.train == "all":
        base = fields.policy if variant == POLICY and fields.policy else config.model
        args = training | {"warmup_ratio": fields.warmup_ratio, "seed": config.seed}
        return full_results(list(learned.log()), model=base, args=args, **shared)
    lora = {"rank": inner.rank, "alpha": inner.alpha, "dropout": 0.0} | training
    by_lines = config.domain.get("split") == "lines"
    return lora_results(list(learned.log()), split_newlines=by_lines, lora_params=lora, **shared)


def table(summary: Mapping[str, Any]) -> str:
    """Returns the accuracies of a summary as a text table, with their 95% intervals."""
    rows = summary["pretraining"]
    body = [["passages", *(str(size) for size in summary["sizes"])]]
    for row in rows:
        cells = [each["accuracy"] for each in row["sizes"]]
        body.append([row["name"], *(f"{c['mean']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells)])
    lines = [*aligned(body), ""]
    for pair in summary["paired"]:
        lines.append(
            f"{pair['a']} - {pair['b']}, n = {pair['size']}: {pair['difference']:+.3f}  "
            f"95% [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    failed = sum(sum(each["failed"].values()) for row in rows for each in row["sizes"])
    lines.append(f"{failed} updates failed" if failed else "every update could be learned")
    return "\n".join(lines)
