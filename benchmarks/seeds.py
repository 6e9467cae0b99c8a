"""Several runs of one experiment side by side, as the Markdown tables of docs/results.md.

for seed in 1 2 3 4 5; do
selfadapt train --config=configs/quickstart.py --workdir=runs/seed$seed --config.seed=$seed
done
python -m benchmarks.seeds runs/seed1 runs/seed2 runs/seed3 runs/seed4 runs/seed5

Runs of several base models (`config.model`) may be given together; the last table's intervals then cover them. Where
edits are made of choices, such as ARC's directives, a further table has the share of each choice's values, and where a
domain has further numbers about a row, such as the reward of each kind of task, one has their means over the runs.

Runs of an evaluation protocol have several measures, of which one is shown: `--measure=honest` (or best, optimism) of
evolution, `--measure=at_the_end` (or just_learnt, forgetting, ...) of continual self-edits. The rows of continued
pretraining are those of each size.

Runs with other settings, compared row by row with those of the same seeds and base models:

    python -m benchmarks.seeds runs/seed1 runs/seed2 --against runs/other1 runs/other2
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.errors import UserError
from selfadapt.evaluate import NONE
from selfadapt.report import data
from selfadapt.telemetry.statistics import paired_difference
from selfadapt.types import UNTRAINED

Interval = Mapping[str, float]  # mean, stderr, low, high


def main(argv: list[str] | None = None) -> None:
    """Prints the rows of every run, the paired differences of each, and the differences over all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
    parser.add_argument("--against", nargs="+", type=pathlib.Path, default=[], metavar="WORKDIR")
    parser.add_argument("--measure", help="of an evaluation protocol")
    parser.add_argument("--pairs", nargs="+", default=[], metavar="A:B", help="further differences of rows over runs")
    options = parser.parse_args(argv)
    summaries, others = (
        [json.loads((path / "summary.json").read_text()) for path in paths]
        for paths in (options.workdirs, options.against)
    )
    print(runs_table(summaries, options.measure))
    if others:
        print(f"\n{against_table(summaries, others, options.measure)}")
        return
    further = [(a, b) for a, _, b in (pair.partition(":") for pair in options.pairs)]
    print(f"\n{differences_table(summaries, options.measure, further)}")
    if all("ladder" in summary for summary in summaries):
        print(choices([data.read_run(path) for path in options.workdirs]))
        print(numbers(summaries))


def rows(summary: Mapping[str, Any], measure: str | None) -> dict[str, Interval]:
    """Returns the means of a run's rows.

    Args:
      summary: the contents of `summary.json`.
      measure: which one, of an evaluation protocol with several.

    Raises:
      UserError: the rows have several measures and `measure` is none of them, or they have one and it is given.
    """
    if "evolution" in summary or "retention" in summary:
        found = summary.get("evolution") or [row | row["measures"] for row in summary["retention"]]
        known = [name for name, value in found[0].items() if isinstance(value, dict) and "mean" in value]
        if measure not in known:
            raise UserError(f"--measure={measure}: runs of the protocol {summary['protocol']} have {', '.join(known)}")
        return {row["name"]: row[measure] for row in found}
    if measure:
        raise UserError(f"--measure={measure}: the rows of these runs have one measure; leave it out")
    if "pretraining" in summary:
        return {
            _sized(row["name"], size["size"]): size["accuracy"]
            for row in summary["pretraining"]
            for size in row["sizes"]
        }
    return {row["name"]: row for row in (*summary["ladder"], *summary["extras"])}


def _sized(name: str, size: int) -> str:
    return f"{name}, n = {size}"


def _pairs(summary: Mapping[str, Any], measure: str | None) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Returns the paired differences of a run by the names of their rows."""
    found = {}
    for pair in summary["paired"]:
        if pair.get("measure") in (None, measure):
            a, b = (_sized(pair[side], pair["size"]) if "size" in pair else pair[side] for side in "ab")
            found[a, b] = pair
    return found


def runs_table(summaries: Sequence[Mapping[str, Any]], measure: str | None = None) -> str:
    """Returns a table of the rows of every run."""
    found = [rows(summary, measure) for summary in summaries]
    names = list(dict.fromkeys(name for own in found for name in own))
    models = _numbered(summaries)
    lines = [f"| base model | seed | {' | '.join(names)} | seconds |", f"|{' --- |' * (len(names) + 3)}"]
    for summary, own in zip(summaries, found, strict=True):
        cells = [f"{own[name]['mean']:.3f} ± {own[name]['stderr']:.3f}" if name in own else "-" for name in names]
        head = f"| {models[summary['model']]} | {summary['seed']}"
        lines.append(f"{head} | {' | '.join(cells)} | {summary['seconds']:.0f} |")
    return "\n".join(lines)


def differences_table(
    summaries: Sequence[Mapping[str, Any]], measure: str | None = None, further: Sequence[tuple[str, str]] = ()
) -> str:
    """Returns tables of the paired differences of every run, and of their means over runs and base models.

    Args:
      summaries: the contents of the runs' `summary.json`.
      measure: see `rows`.
      further: pairs of rows for the last table, beside those that the runs compare.
    """
    found = [_pairs(summary, measure) for summary in summaries]
    pairs = list(dict.fromkeys(key for own in found for key in own))
    models = _numbered(summaries)
    heads = " | ".join(f"{a} - {b}" for a, b in pairs)
    lines = [f"| base model | seed | {heads} |", f"|{' --- |' * (len(pairs) + 2)}"]
    for summary, own in zip(summaries, found, strict=True):
        cells = [
            f"{own[key]['difference']:+.3f} [{own[key]['low']:+.3f}, {own[key]['high']:+.3f}]" if key in own else "-"
            for key in pairs
        ]
        lines.append(f"| {models[summary['model']]} | {summary['seed']} | {' | '.join(cells)} |")
    lines += ["", "| difference | mean and 95% interval over runs | over base models |", "| --- | --- | --- |"]
    for a, b in dict.fromkeys([(UNTRAINED, NONE), *pairs, *further]):
        by_run, by_model = over_runs(summaries, a, b, measure)
        if by_run:
            lines.append(f"| {a} - {b} | {_interval(by_run)} | {_interval(by_model)} |")
    return "\n".join(lines)


def against_table(
    summaries: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], measure: str | None = None
) -> str:
    """Returns a table of the rows' differences between runs and others of the same seeds and base models.

    Raises:
      UserError: a run has none to be compared with.
    """
    by_key = {(summary["model"], summary["seed"]): rows(summary, measure) for summary in others}
    differences: dict[str, list[float]] = {}
    for summary in summaries:
        other = by_key.get((summary["model"], summary["seed"]))
        if other is None:
            raise UserError(f"--against has no run with seed {summary['seed']} of {summary['model']}")
        for name, row in rows(summary, measure).items():
            if name in other:
                differences.setdefault(name, []).append(row["mean"] - other[name]["mean"])
    lines = ["| row | these runs - the others, 95% over runs |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {_interval(values)} |" for name, values in differences.items())])


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


def numbers(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Returns the means over runs of the domain's numbers about each row, as a table; "" without any."""
    found: dict[str, dict[str, list[float]]] = {}
    for summary in summaries:
        for row in (*summary["ladder"], *summary["extras"]):
            for name, value in row.get("details", {}).items():
                if isinstance(value, int | float):
                    found.setdefault(row["name"], {}).setdefault(name, []).append(value)
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    if not names:
        return ""
    lines = [f"\n| row | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for row, own in found.items():
        cells = [f"{np.mean(own[name]):.3f}" if name in own else "-" for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_runs(
    summaries: Sequence[Mapping[str, Any]], a: str, b: str, measure: str | None = None
) -> tuple[list[float], list[float]]:
    """Returns the difference a - b of each run that has both rows, and its mean over the runs of each base model."""
    grouped = collections.defaultdict(list)
    for summary in summaries:
        own = rows(summary, measure)
        if a in own and b in own:
            grouped[summary["model"]].append(own[a]["mean"] - own[b]["mean"])
    return [value for values in grouped.values() for value in values], [float(np.mean(v)) for v in grouped.values()]


def _numbered(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(s["model"] for s in summaries))}


def _interval(values: Sequence[float]) -> str:
    """Returns the mean with its 95% interval by Student's t over the values, as text."""
    if len(values) < 2:
        return "-"
    mean, low, high = paired_difference(values, [0.0] * len(values))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], n = {len(values)}"


if __name__ == "__main__":
    main()
