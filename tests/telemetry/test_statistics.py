"""Means, standard errors and paired intervals against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from selfadapt.telemetry.statistics import bootstrap_interval, mean_and_stderr, paired_difference


def test_mean_and_standard_error_agree_with_scipy():
    values = [0.1, 0.4, 0.35, 0.8]
    assert mean_and_stderr(values) == pytest.approx((np.mean(values), stats.sem(values)))
    assert math.isnan(mean_and_stderr([1.0])[1])
    with pytest.raises(ValueError, match="no values"):
        mean_and_stderr([])


def test_the_paired_interval_agrees_with_scipy():
    a, b = [0.5, 0.7, 0.9, 0.4], [0.1, 0.6, 0.2, 0.5]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired_difference(a, b) == pytest.approx((0.275, interval.low, interval.high))


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="not 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
    assert math.isnan(paired_difference([1.0], [0.0])[1])


def test_the_bootstrap_agrees_with_scipy_on_a_ratio_of_means():
    units = np.random.default_rng(0).gamma(2.0, size=(60, 2)) + [0.0, 1.0]
    low, high = bootstrap_interval(units, lambda means: means[:, 0] / means[:, 1], draws=4000)
    resampled = stats.bootstrap(
        (units[:, 0], units[:, 1]),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    )
    interval = resampled.confidence_interval
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.1 * (high - low))
    with pytest.raises(ValueError, match="no units"):
        bootstrap_interval(np.zeros((0, 1)), lambda means: means)
