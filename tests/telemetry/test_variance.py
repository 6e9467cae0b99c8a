"""Variance components against a textbook's formulas written out, and against known variances."""

import itertools

import numpy as np
import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.telemetry.variance import components, mean_squares, subsets


def by_loops(cells):
    """The three-way analysis of variance of one unit, cell by cell, and its components by the textbook's formulas."""
    a, b, c = cells.shape
    every = list(itertools.product(range(a), range(b), range(c)))
    total = cells.mean()
    one = [cells.mean((1, 2)), cells.mean((0, 2)), cells.mean((0, 1))]
    ab, ac, bc = cells.mean(2), cells.mean(1), cells.mean(0)
    sums = np.zeros(7)
    for i, j, k in every:
        effects = [one[0][i] - total, one[1][j] - total, one[2][k] - total]
        effects += [
            ab[i, j] - one[0][i] - one[1][j] + total,
            ac[i, k] - one[0][i] - one[2][k] + total,
            bc[j, k] - one[1][j] - one[2][k] + total,
        ]
        effects.append(cells[i, j, k] - total - sum(effects))
        sums += np.square(effects)
    freedom = [a - 1, b - 1, c - 1, (a - 1) * (b - 1), (a - 1) * (c - 1), (b - 1) * (c - 1)]
    squares = sums / [*freedom, (a - 1) * (b - 1) * (c - 1)]
    sa, sb, sc, sab, sac, sbc, rest = squares
    return squares, [
        (sa - sab - sac + rest) / (b * c),
        (sb - sab - sbc + rest) / (a * c),
        (sc - sac - sbc + rest) / (a * b),
        (sab - rest) / c,
        (sac - rest) / b,
        (sbc - rest) / a,
        rest,
    ]


def test_three_factors_agree_with_formulas_cell_by_cell():
    values = np.random.default_rng(0).integers(2, size=(3, 5, 4, 6)).astype(float)
    squares = mean_squares(values)
    for unit, own in zip(values, squares, strict=True):
        wanted, parts = by_loops(unit)
        np.testing.assert_allclose(own, wanted, atol=1e-12)
        np.testing.assert_allclose(components(own, unit.shape), parts, atol=1e-12)
    np.testing.assert_allclose(components(squares.mean(0), (5, 4, 6)), np.mean([by_loops(v)[1] for v in values], 0))


def test_known_variances_are_estimated_without_bias():
    random, sizes = np.random.default_rng(1), (4, 3, 5)
    wanted = [0.5, 0.2, 0.0, 0.3, 0.8, 0.1, 1.0]
    values = np.zeros((3000, *sizes))
    for variance, subset in zip(wanted, subsets(3), strict=True):
        shape = [size if factor in subset else 1 for factor, size in enumerate(sizes)]
        values += variance**0.5 * random.standard_normal((3000, *shape))
    found = components(mean_squares(values).mean(0), sizes)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert found[2] == pytest.approx(0, abs=0.03)


def test_two_factors_are_the_edits_and_their_interaction_with_runs():
    values = np.array([[[0.0, 0.5], [1.0, 1.5]]])  # edits differ by 1, runs by .5, and nothing else
    np.testing.assert_allclose(components(mean_squares(values)[0], (2, 2)), [0.5, 0.125, 0.0], atol=1e-12)


def test_a_single_level_has_no_variance():
    with pytest.raises(InvalidValueError, match=r"two levels of every factor, and these have \(3, 1\)"):
        mean_squares(np.zeros((2, 3, 1)))
