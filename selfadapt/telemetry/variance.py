"""Variance components of crossed random factors, by analysis of variance.

Every value is a mean plus one random effect for each subset of the factors. The estimators equate observed and
expected mean squares (Searle, Casella and McCulloch 1992, chapter 4), so they are unbiased whatever the effects'
distribution is, verdicts of 0 and 1 included; an estimate of a small component can be negative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from selfadapt.errors import InvalidValueError


def subsets(factors: int) -> list[tuple[int, ...]]:
    """Returns the subsets of some factors that components belong to: single factors first, all together last.

    >>> subsets(2)
    [(0,), (1,), (0, 1)]
    """
    return [each for size in range(1, factors + 1) for each in itertools.combinations(range(factors), size)]


def mean_squares(values: np.ndarray) -> np.ndarray:
    """Returns the mean squares of each unit's analysis of variance.

    Args:
      values: shape `[units, levels of the first factor, levels of the second, ...]`, one value per cell; every factor
        has at least two levels.

    Returns:
      Shape `[units, subsets]`, in the order of `subsets`.

    Raises:
      InvalidValueError: a factor has a single level.
    """
    sizes = values.shape[1:]
    if min(sizes, default=0) < 2:
        raise InvalidValueError(f"variance components need two levels of every factor, and these have {sizes}")
    axes = range(1, values.ndim)

    def mean(kept: Sequence[int]) -> np.ndarray:
        return values.mean(tuple(axis for axis in axes if axis - 1 not in kept), keepdims=True)

    columns = []
    for subset in subsets(len(sizes)):
        parts = [each for size in range(len(subset) + 1) for each in itertools.combinations(subset, size)]
        effect = sum((-1) ** (len(subset) - len(part)) * mean(part) for part in parts)
        squares = np.broadcast_to(np.square(effect), values.shape).sum(tuple(axes))
        columns.append(squares / math.prod(sizes[factor] - 1 for factor in subset))
    return np.stack(columns, 1)


def components(squares: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Returns the variance of the effects of each subset of the factors.

    Args:
      squares: mean squares, shape `[..., subsets]`: of a unit, or means over units.
      sizes: the number of levels of each factor.

    Returns:
      The components, in the same shape and order; the last is the interaction of all factors with what is left.
    """
    own = subsets(len(sizes))
    # A mean square estimates the sum of the components of all supersets, each times the cells that share its effect.
    expected = np.array(
        [
            [
                math.prod(n for f, n in enumerate(sizes) if f not in other) if set(subset) <= set(other) else 0
                for other in own
            ]
            for subset in own
        ]
    )
    return squares @ np.linalg.inv(expected).T
