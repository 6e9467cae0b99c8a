"""The command `selfadapt analyze FILE...`: SEAL's result files as tables with intervals and paired comparisons."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
from collections.abc import Sequence

from selfadapt.errors import InvalidValueError
from selfadapt.seal import results as stored
from selfadapt.seal.continual import mean_deviation
from selfadapt.seal.noise import Noise, noise
from selfadapt.seal.results import Results
from selfadapt.seal.stats import article_stats

_Z = 1.959964  # 97.5% quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, by the normal approximation.

    Attributes:
      mean: the mean over units.
      low: the interval's lower end.
      high: the interval's upper end.
      n: the number of units.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`b` minus `a`, paired by unit.

    Attributes:
      a: the name of what is subtracted.
      b: the name of what it is subtracted from.
      unit: "passage" or "question".
      difference: the mean difference and its 95% interval.
      p: the two-sided p-value of no difference, by the normal approximation.
      better: the number of units where `b` is higher.
      worse: the number of units where it is lower.
      unpaired: the number of units that only one of the two has; they are left out.
    """

    a: str
    b: str
    unit: str
    difference: Estimate
    p: float
    better: int
    worse: int
    unpaired: int = 0


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The results of `analyze`.

    Attributes:
      files: the files, in order, with unique names.
      rows: (file, what, estimate) for the baseline, the adapted model and the best edit of each passage.
      comparisons: each file's adapter against its baseline, then every two files.
      disagreements: per file, the saved statistics that differ from the verdicts by more than rounding.
      pooled: pooled continual runs, by a name that lists them: `results.pool_continual`, and the mean of the runs'
        standard deviations as `std_mean_of_runs`.
      noises: the noise of the rewards of each file that has several edits per passage and runs per edit.
    """

    files: list[Results]
    rows: list[tuple[str, str, Estimate]]
    comparisons: list[Comparison]
    disagreements: dict[str, list[str]]
    pooled: dict[str, dict[str, list[list[float]]]]
    noises: dict[str, Noise]


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean of `values` with its 95% interval, which is unbounded for a single value.

    >>> estimate([0.0, 1.0, 0.0, 1.0]).mean
    0.5
    """
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(mean, mean - _Z * error, mean + _Z * error, len(values))


def units(results: Results) -> tuple[dict[str, float], dict[str, float]]:
    """Returns (baseline, adapted) accuracy by unit.

    The unit of an "inner" file is the passage, identified by its text; of a "cpt" file the question, identified by its
    position, since such files do not contain passages.
    """
    if results.kind == "inner":
        articles = results.content["articles"]
        stats = [article_stats(stored.edit_stats(article)) for article in articles]

        def known(name: str) -> dict[str, float]:
            pairs = zip(articles, (each[name] for each in stats), strict=True)
            return {article["context"]: value for article, value in pairs if value is not None}

        return known("baseline_accuracy"), known("adapter_mean_accuracy")
    baseline, adapter = ({str(i): float(v) for i, v in enumerate(side)} for side in stored.verdicts(results))
    return baseline, adapter


def compare(a: str, b: str, unit: str, before: dict[str, float], after: dict[str, float]) -> Comparison:
    """Compares two sets of accuracies, paired by the keys that are in both.

    Raises:
      ValueError: they have no key in common.
    """
    common = [key for key in before if key in after]
    if not common:
        raise InvalidValueError(f"{a} and {b} have no {unit} in common, so they cannot be compared")
    differences = [after[key] - before[key] for key in common]
    found = estimate(differences)
    error = (found.high - found.mean) / _Z
    p = math.erfc(abs(found.mean) / error / math.sqrt(2)) if error else float(found.mean == 0)
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Comparison(a, b, unit, found, p, better, worse, len(before) + len(after) - 2 * len(common))


def analyze(paths: Sequence[str | os.PathLike]) -> Analysis:
    """Reads result files, recomputes their statistics and compares them.

    Args:
      paths: SEAL's result files, of any kinds. Files of one unit (passages, or questions of equally many) are
        compared two by two; continual runs with equally many sequences are pooled.

    Raises:
      ResultsError: a file is not one of SEAL's result files.
      FileNotFoundError: there is no such file.
    """
    files: list[Results] = []
    for path in paths:
        read = stored.read_results(path)
        taken = sum(file.name.split("#")[0] == read.name for file in files)
        files.append(dataclasses.replace(read, name=f"{read.name}#{taken + 1}") if taken else read)
    rows, comparisons, sides = [], [], {}
    for file in files:
        if file.kind == "continual":
            continue
        baseline, adapter = units(file)
        unit = "passage" if file.kind == "inner" else "question"
        rows.append((file.name, "baseline", estimate(list(baseline.values()))))
        rows.append((file.name, "adapted", estimate(list(adapter.values()))))
        if file.kind == "inner" and file.content.get("k_completions", 1) > 1:
            means = [[s["adapter_mean"] for s in stored.edit_stats(a)] for a in file.content["articles"]]
            best = [max(known) for each in means if (known := [value for value in each if value is not None])]
            rows.append((file.name, f"best of {file.content['k_completions']}", estimate(best)))
        comparisons.append(compare("baseline", file.name, unit, baseline, adapter))
        sides[file.name] = (unit, adapter)
    for (a, (unit, before)), (b, (other, after)) in itertools.combinations(sides.items(), 2):
        comparable = before.keys() & after.keys() if unit == "passage" else len(before) == len(after)
        if unit == other and comparable:
            comparisons.append(compare(a, b, unit, before, after))
    found = {file.name: stored.disagreements(file) for file in files}
    noises = {file.name: each for file in files if (each := noise(file)) is not None}
    return Analysis(
        files, rows, comparisons, {name: lines for name, lines in found.items() if lines}, _pool(files), noises
    )


def _pool(files: Sequence[Results]) -> dict[str, dict[str, list[list[float]]]]:
    runs: dict[tuple, list[Results]] = {}
    for file in files:
        if file.kind == "continual":
            # A file that sums up several runs has more sequences than each of them, and must not be counted again.
            same = ("n_sequences", "n_datapoints", "dataset", "base_model")
            runs.setdefault(tuple(file.content.get(name) for name in same), []).append(file)
    return {
        " + ".join(file.name for file in group): stored.pool_continual(group)
        | {"std_mean_of_runs": mean_deviation(group)}
        for group in runs.values()
        if len(group) > 1
    }


def format_analysis(analysis: Analysis) -> str:
    """Returns the analysis as plain text."""
    parts = []
    body: list[tuple[str, ...]]
    if analysis.rows:
        body = [(f, what, str(e.n), f"{e.mean:.4f}", _interval(e)) for f, what, e in analysis.rows]
        parts.append(_table(("file", "model", "n", "accuracy", "95% interval"), body))
    if analysis.comparisons:
        body = [
            (
                f"{c.b} - {c.a}",
                f"{c.difference.n} {c.unit}s",
                f"{c.difference.mean:+.4f}",
                _interval(c.difference, "+"),
                f"{c.p:.2g}",
                f"{c.better} / {c.worse}",
                str(c.unpaired),
            )
            for c in analysis.comparisons
        ]
        header = ("paired difference", "over", "mean", "95% interval", "p", "better / worse", "unpaired")
        parts.append(_table(header, body))
    parts += [_noise(name, each) for name, each in analysis.noises.items()]
    continual = [file for file in analysis.files if file.kind == "continual"]
    if continual:
        body = []
        for file in continual:
            summary = stored.recompute(file)
            body.append((file.name, str(file.content["n_sequences"]), *(f"{v:.4f}" for v in summary.values())))
        names = ("before", "just learnt", "at the end", "forgetting", "backward transfer")
        parts.append(_table(("continual", "sequences", *names), body))
    for name, pooled in analysis.pooled.items():
        parts.append(
            f"pooled: {name}\n(rows: after so many edits; columns: passages; mean, standard deviation over all "
            "sequences, and the mean of the runs' standard deviations, which SEAL's summary has)"
        )
        body = []
        for r, cells_of_row in enumerate(zip(*pooled.values(), strict=True)):
            means = cells_of_row[0]
            learnt = len(means) if r == 0 else r
            cells = [" ".join(f"{value:.3f}" for value in cell) for cell in zip(*cells_of_row, strict=True)]
            body.append((str(r), *cells[:learnt], *[""] * (len(means) - learnt)))
        parts.append(_table(("edits", *(f"passage {c + 1}" for c in range(len(pooled["mean"][0])))), body))
    for file in analysis.files:
        lines = analysis.disagreements.get(file.name, [])
        if file.kind != "continual":
            verdict = f"{len(lines)} saved statistics differ from" if lines else "all saved statistics agree with"
            shown = [f"  {line}" for line in lines[:10]]
            parts.append("\n".join([f"{file.name}: {verdict} what was recomputed", *shown]))
    return "\n\n".join(parts) + "\n"


def analyze_command(paths: list[str]) -> str:
    """Returns what `selfadapt analyze FILE...` prints; see `analyze`."""
    if not paths:
        raise InvalidValueError("give at least one result file: selfadapt analyze FILE...")
    return format_analysis(analyze(paths))


def _noise(name: str, found: Noise) -> str:
    intervals = (
        ("variance between the edits of a passage", found.between_edits),
        ("variance between the runs of an edit", found.between_runs),
        (f"reliability of a mean of {found.runs} runs", found.reliability),
    )
    body = [(what, f"{value:.4f}", f"[{low:.4f}, {high:.4f}]") for what, (value, low, high) in intervals]
    return "\n".join(
        [
            f"{name}: rewards of {found.passages} passages x {found.edits} edits x {found.runs} runs",
            _table(("of rewards", "estimate", "95% interval"), body),
            f"Of the {found.passages} best edits {found.hurt} lost against the baseline and {found.level} equalled it; "
            f"regressed to the mean, {found.expected_hurt} lose.",
            f"Their mean reward is {found.best:.4f}, and of new runs {found.expected:.4f} is expected; that of all "
            f"edits is {found.mean:.4f}.",
        ]
    )


def _interval(found: Estimate, sign: str = "") -> str:
    return f"[{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rows = [header, ["-" * width for width in widths], *body]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
