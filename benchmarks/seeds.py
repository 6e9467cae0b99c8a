"""Several runs of one experiment side by side, as the Markdown tables of docs/results.md.

for seed in 1 2 3 4 5; do
selfadapt train --config=configs/quickstart.py --workdir=runs/seed$seed --config.seed=$seed
done
python -m benchmarks.seeds runs/seed1 runs/seed2 runs/seed3 runs/seed4 runs/seed5

Runs of several base models (`config.model`) may be given together; the last table's intervals then cover them. Where
edits are made of choices, such as ARC's directives, a further table has the share of each choice's values.
"""

from __future__ import annotations

import collections
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.evaluate import NONE
from selfadapt.report import data
from selfadapt.telemetry.statistics import paired_difference
from selfadapt.types import UNTRAINED


def main(argv: list[str] | None = None) -> None:
    """Prints the ladder of every run, the paired differences of each, and the differences over all runs."""
    paths = sys.argv[1:] if argv is None else argv
    summaries = [json.loads((pathlib.Path(path) / "summary.json").read_text()) for path in paths]
    models = {name: number for number, name in enumerate(dict.fromkeys(s["model"] for s in summaries))}
    names = list(dict.fromkeys(row["name"] for s in summaries for row in (*s["ladder"], *s["extras"])))
    print(f"| base model | seed | {' | '.join(names)} | seconds |\n|{' --- |' * (len(names) + 3)}")
    for summary in summaries:
        rows = {row["name"]: row for row in (*summary["ladder"], *summary["extras"])}
        cells = [f"{rows[name]['mean']:.3f} ± {rows[name]['stderr']:.3f}" if name in rows else "-" for name in names]
        head = f"| {models[summary['model']]} | {summary['seed']}"
        print(f"{head} | {' | '.join(cells)} | {summary['seconds']:.0f} |")
    pairs = list(dict.fromkeys((pair["a"], pair["b"]) for s in summaries for pair in s["paired"]))
    heads = " | ".join(f"{a} - {b}" for a, b in pairs)
    print(f"\n| base model | seed | {heads} |\n|{' --- |' * (len(pairs) + 2)}")
    for summary in summaries:
        found = {(pair["a"], pair["b"]): pair for pair in summary["paired"]}
        cells = []
        for key in pairs:
            pair = found.get(key)
            cells.append(f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" if pair else "-")
        print(f"| {models[summary['model']]} | {summary['seed']} | {' | '.join(cells)} |")
    print("\n| difference | mean and 95% interval over runs | over base models |\n| --- | --- | --- |")
    for key in [(UNTRAINED, NONE), *pairs]:
        by_run, by_model = over_runs(summaries, *key)
        print(f"| {key[0]} - {key[1]} | {_interval(by_run)} | {_interval(by_model)} |")
    print(choices([data.read_run(path) for path in paths]))


def choices(runs: Sequence[data.Run]) -> str:
    """Returns the mean share of each choice in the policies' edits of held-out tasks, as a table; "" without any."""
    shares: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        for choice, value, own in data.choices(run):
            for policy, share in own.items():
                shares.setdefault((choice, value), {}).setdefault(policy, []).append(share)
    if not shares:
        return ""
    policies = list(dict.fromkeys(policy for each in shares.values() for policy in each))
    lines = [f"\n| choice | value | {' | '.join(policies)} |", f"|{' --- |' * (len(policies) + 2)}"]
    for (choice, value), each in shares.items():
        # A run in which no edit has the value has no entry for it.
        cells = [f"{sum(each.get(policy, [0.0])) / len(runs):.0%}" for policy in policies]
        lines.append(f"| {choice} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_runs(summaries: Sequence[dict[str, Any]], a: str, b: str) -> tuple[list[float], list[float]]:
    """Returns the difference a - b of each run that has both rows, and its mean over the runs of each base model."""
    grouped = collections.defaultdict(list)
    for summary in summaries:
        means = {row["name"]: row["mean"] for row in (*summary["ladder"], *summary["extras"])}
        if a in means and b in means:
            grouped[summary["model"]].append(means[a] - means[b])
    return [value for values in grouped.values() for value in values], [float(np.mean(v)) for v in grouped.values()]


def _interval(values: Sequence[float]) -> str:
    """Returns the mean with its 95% interval by Student's t over the values, as text."""
    if len(values) < 2:
        return "-"
    mean, low, high = paired_difference(values, [0.0] * len(values))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], n = {len(values)}"


if __name__ == "__main__":
    main()
