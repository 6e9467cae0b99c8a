"""The statistics of SEAL's result files: of an edit, of a passage and of a whole file, from verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The names of an edit's statistics, in their order in the files.
COMPLETION_STATS = ("baseline_mean", "baseline_std", "adapter_mean", "adapter_std", "gain_mean")

DIGITS = 4  # decimals of the statistics in most of SEAL's files; in others they are not rounded


def completion_stats(questions: Sequence[Mapping[str, Any]], digits: int | None = DIGITS) -> dict[str, float | None]:
    """Computes an edit's statistics from its verdicts.

    Args:
      questions: the log: `rep` (which inner run), `baseline_correct` and `adapter_correct` of each question.
      digits: decimals that each run's accuracy, and then each statistic, is rounded to, as SEAL's server does;
        `None` for no rounding.

    Returns:
      Means over the inner runs and sample standard deviations between them.
    """
    runs: dict[Any, list[Mapping[str, Any]]] = {}
    for question in questions:
        runs.setdefault(question["rep"], []).append(question)
    baseline = [statistics.fmean(bool(q["baseline_correct"]) for q in run) for run in runs.values()]
    adapter = [statistics.fmean(bool(q["adapter_correct"]) for q in run) for run in runs.values()]
    gain = [rounded(after - before, digits) for before, after in zip(baseline, adapter, strict=True)]
    baseline, adapter = ([rounded(value, digits) for value in side] for side in (baseline, adapter))
    values = (
        _mean(baseline, digits),
        _std(baseline, digits),
        _mean(adapter, digits),
        _std(adapter, digits),
        _mean(gain, digits),
    )
    return dict(zip(COMPLETION_STATS, values, strict=True))


def article_stats(
    completions: Sequence[Mapping[str, float | None]], digits: int | None = DIGITS
) -> dict[str, float | None]:
    """Computes a passage's statistics from those of its edits; `digits` as for `completion_stats`."""
    return {
        "baseline_accuracy": _mean((c["baseline_mean"] for c in completions), digits),
        "adapter_mean_accuracy": _mean((c["adapter_mean"] for c in completions), digits),
        "adapter_std_over_completions": _std((c["adapter_mean"] for c in completions), digits),
        "mean_adapter_std_within_completions": _mean((c["adapter_std"] for c in completions), digits),
        "mean_gain": _mean((c["gain_mean"] for c in completions), digits),
    }


def overall_stats(
    articles: Sequence[Mapping[str, float | None]], digits: int | None = DIGITS
) -> dict[str, float | None]:
    """Computes a file's statistics from those of its passages: macro means, deviations between passages."""
    over, within = "adapter_std_over_completions", "mean_adapter_std_within_completions"
    return {
        "baseline_mean_accuracy": _mean((a["baseline_accuracy"] for a in articles), digits),
        "baseline_std_of_article_means": _std((a["baseline_accuracy"] for a in articles), digits),
        "adapter_mean_accuracy": _mean((a["adapter_mean_accuracy"] for a in articles), digits),
        "adapter_std_of_article_means": _std((a["adapter_mean_accuracy"] for a in articles), digits),
        "mean_adapter_std_over_completions": _mean((a[over] for a in articles), digits),
        "mean_adapter_std_within_completions": _mean((a[within] for a in articles), digits),
        "mean_gain": _mean((a["mean_gain"] for a in articles), digits),
    }


def _mean(values: Iterable[float | None], digits: int | None) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(statistics.fmean(known), digits) if known else None


def _std(values: Iterable[float | None], digits: int | None) -> float | None:
    """Returns the sample standard deviation; 0 for a single value, as in SEAL's files."""
    known = [value for value in values if value is not None]
    return rounded(statistics.stdev(known), digits) if len(known) > 1 else 0.0 if known else None


def rounded(value: float, digits: int | None) -> float:
    """Returns `value` rounded to `digits` decimals, or as it is for `None`."""
    return value if digits is None else round(value, digits)
