"""Means with their standard errors, paired differences, intervals by bootstrap, rank correlations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from selfadapt.errors import InvalidValueError


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error (sample standard deviation over the root of the count).

    The standard error of a single value is NaN.

    Example:
      >>> mean_and_stderr([0.0, 1.0, 1.0, 0.0])
      (0.5, 0.28867513459481287)

    Raises:
      InvalidValueError: there are no values.
    """
    count = len(values)
    if count == 0:
        raise InvalidValueError("there are no values to take the mean of")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean of `a - b` over pairs, and its 95% confidence interval by Student's t.

    Args:
      a: one value per passage.
      b: one value per passage, in the same order.

    Returns:
      (difference, low, high); low and high are NaN for a single pair.

    Example:
      >>> [round(value, 3) for value in paired_difference([0.5, 0.75, 1.0], [0.25, 0.25, 0.25])]
      [0.5, -0.121, 1.121]

    Raises:
      InvalidValueError: the lengths differ, or there are no pairs.
    """
    if len(a) != len(b):
        raise InvalidValueError(f"a paired difference needs as many values on both sides, not {len(a)} and {len(b)}")
    difference, stderr = mean_and_stderr([x - y for x, y in zip(a, b, strict=True)])
    if len(a) == 1:
        return difference, math.nan, math.nan
    from scipy import stats  # it takes longer to import than the rest of the command line together

    margin = float(stats.t.ppf(0.975, len(a) - 1)) * stderr
    return difference, difference - margin, difference + margin


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean, its standard error, its 95% interval by Student's t, and the count, as JSON values.

    The standard error and the interval of a single value are NaN.

    Example:
      >>> found = mean_interval([0.0, 1.0, 1.0, 0.0])
      >>> found["mean"], found["n"], round(found["low"], 3), round(found["high"], 3)
      (0.5, 4, -0.419, 1.419)

    Raises:
      InvalidValueError: there are no values.
    """
    mean, low, high = paired_difference(values, [0.0] * len(values))
    return {"mean": mean, "stderr": mean_and_stderr(values)[1], "low": low, "high": high, "n": len(values)}


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Spearman's rank correlation over pairs; NaN where either side is constant, or there are fewer than two.

    Example:
      >>> round(rank_correlation([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.9, 0.4]), 6)
      0.8

    Raises:
      InvalidValueError: the lengths differ.
    """
    if len(a) != len(b):
        raise InvalidValueError(f"a rank correlation needs as many values on both sides, not {len(a)} and {len(b)}")
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    from scipy import stats  # see above

    return float(stats.spearmanr(a, b).statistic)


def bootstrap_interval(
    units: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 95% interval of a function of means over units, by the percentile bootstrap (Efron 1979).

    Args:
      units: the numbers of each unit, such as a passage; shape `[units, numbers]`.
      statistic: maps means, shape `[draws, numbers]`, to values, shape `[draws, ...]`.
      draws: resamples of the units with replacement.
      seed: seeds them.

    Returns:
      The 2.5% and the 97.5% quantile of each value.

    Example:
      >>> low, high = bootstrap_interval(np.arange(100.0)[:, None], lambda means: means[:, 0])
      >>> bool(40 < low < 49.5 < high < 59)
      True

    Raises:
      InvalidValueError: there are no units.
    """
    if not len(units):
        raise InvalidValueError("there are no units to resample")
    count = len(units)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)  # each unit is drawn
    low, high = np.quantile(statistic(times @ units / count), (0.025, 0.975), axis=0)
    return low, high
