"""Retention in numbers: matrices of accuracies, forgetting and backward transfer, with intervals over streams."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.telemetry.statistics import mean_and_stderr, mean_interval, paired_difference

BEFORE, LEARNT, END = "before", "just_learnt", "at_the_end"
FORGETTING, TRANSFER, NET = "forgetting", "backward_transfer", "net_change"
COMPARED = (LEARNT, END, FORGETTING)  # between variants

# One stream's accuracies: row r after r edits, a column for each passage; NaN where a passage is not asked about.
Matrix = np.ndarray


def measures(accuracies: Matrix) -> dict[str, float]:
    """Returns one stream's measures.

    - `before`: mean accuracy of the first row, before any edit;
    - `just_learnt`: mean accuracy on each passage right after its edit, the diagonal;
    - `at_the_end`: mean accuracy of the last row;
    - `forgetting`: the mean drop of a passage from just after its edit to the end, over all passages (that of the last
      one is 0), so `just_learnt` - `at_the_end`;
    - `backward_transfer`: its negative over the passages that others follow (Lopez-Paz and Ranzato, arXiv 1706.08840,
      equation 3); NaN for a single passage;
    - `net_change`: `at_the_end` - `before`.

    Args:
      accuracies: `[T + 1, T]`.

    Example:
      >>> measures(np.array([[0.25, 0.5], [0.75, np.nan], [0.5, 1.0]]))["backward_transfer"]
      -0.25
    """
    first, last = accuracies[0], accuracies[-1]
    diagonal = np.diagonal(accuracies[1:])
    return {
        BEFORE: float(first.mean()),
        LEARNT: float(diagonal.mean()),
        END: float(last.mean()),
        FORGETTING: float((diagonal - last).mean()),
        TRANSFER: float((last - diagonal)[:-1].mean()) if len(last) > 1 else math.nan,
        NET: float((last - first).mean()),
    }


def retention(accuracies: Sequence[Matrix], runs: Sequence[int]) -> dict[str, Any]:
    """Returns the retention matrix over streams, and the measures with their intervals.

    Args:
      accuracies: each stream's matrix, `[T + 1, T]`.
      runs: the run of each stream.

    Returns:
      JSON values: `mean`, `stderr` and `std` (the sample standard deviation over all streams) as matrices, with `None`
      where a passage is not asked about; `std_mean_of_runs`, the mean of the standard deviations within each run, which
      SEAL's published file has in place of `std` and which leaves out the variation between runs (with few
      streams per run it is the smaller one on average); and `measures` by name.
    """
    stack = np.stack(accuracies)
    each = [measures(matrix) for matrix in accuracies]

    def cells(statistic: Any) -> list[list[Any]]:
        rows, columns = stack.shape[1:]
        asked = ~np.isnan(stack[0])
        return [
            [statistic(stack[:, r, c].tolist()) if asked[r, c] else None for c in range(columns)] for r in range(rows)
        ]

    def within(values: Sequence[float]) -> float:
        return statistics.fmean(
            deviation([v for v, run in zip(values, runs, strict=True) if run == one]) for one in own
        )

    own = sorted(set(runs))
    return {
        "mean": cells(statistics.fmean),
        "stderr": cells(lambda values: mean_and_stderr(values)[1]),
        "std": cells(deviation),
        "std_mean_of_runs": cells(within),
        "measures": {name: mean_interval([stream[name] for stream in each]) for name in each[0]},
    }


def deviation(values: Sequence[float]) -> float:
    """Returns the sample standard deviation; 0 for a single value, as in SEAL's files."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def comparisons(variants: Mapping[str, Sequence[Matrix]], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Returns differences between variants with their 95% intervals, paired by stream.

    Args:
      variants: each variant's matrices, of the same streams in the same order.
      pairs: (a, b) for a minus b; pairs that are not both there are left out.
    """
    rows = []
    for a, b in pairs:
        if a in variants and b in variants:
            for measure in COMPARED:
                sides = [[measures(matrix)[measure] for matrix in variants[name]] for name in (a, b)]
                difference, low, high = paired_difference(*sides)
                rows.append(
                    {"a": a, "b": b, "measure": measure, "difference": difference, "low": low, "high": high}
                    | {"n": len(sides[0])}
                )
    return rows
