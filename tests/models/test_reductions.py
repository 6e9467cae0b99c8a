"""On one CPU, sums over the last axis and what is made of them equal those of `jax.nn`, with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.models import reductions
from selfadapt.models.attention import MASKED
from selfadapt.parallel import sharding

PAIRS = {
    "softmax": (reductions.softmax, jax.nn.softmax),
    "logsumexp": (reductions.logsumexp, lambda x: jax.nn.logsumexp(x, axis=-1)),
    "total": (reductions.total, lambda x: x.sum(-1)),
}


def rows(width):
    """Rows of scores: some large, one in which the last is by far the greatest, one that hides all but the first."""
    x = np.random.default_rng(width).normal(size=(5, 3, width)) * [[[1.0]], [[30.0]], [[1.0]], [[1.0]], [[1.0]]]
    x[2] += 1e4
    x[3, :, -1] = 200.0
    x[4, :, 1:] = MASKED
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("width", [reductions.COLUMNS * 3, reductions.COLUMNS * 3 - 1])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_jax(name, width):
    ours, expected = PAIRS[name]
    x = rows(width) if name != "total" else rows(width)[:4]
    assert sharding.on_one_cpu()
    # Sums of 24 in another order: a few units in the last place of float32.
    np.testing.assert_allclose(ours(x), expected(x), rtol=1e-6)
    towards = jnp.asarray(np.random.default_rng(1).normal(size=expected(x).shape), jnp.float32)
    gradients = [jax.vjp(function, x)[1](towards)[0] for function in (ours, expected)]
    # At 1e4 float32 is precise to 1e-3, and so are differences and their exponentials.
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [reductions.COLUMNS * 3, reductions.COLUMNS * 3 - 1])
def test_the_first_of_equal_values_is_the_greatest(width):
    x = np.random.default_rng(width).integers(0, 4, (2, 50, width)).astype(np.float32)  # every row has equal values
    x[0, 0] = -np.inf
    x[0, 1, : width - 1] = -np.inf
    found = jax.jit(reductions.argmax)(x)
    np.testing.assert_array_equal(found, x.argmax(-1))
    assert found.dtype == jnp.int32
    x[1, :, 1] = np.nan
    assert (reductions.argmax(jnp.asarray(x)) < width).all()  # an index, even where there is no greatest


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_can_be_differentiated(name):
    ours, expected = PAIRS[name]
    x = rows(16)[:2] / 30

    def twice(function):
        return jax.grad(lambda x: jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(function(x) ** 2))(x))))(x)

    np.testing.assert_allclose(twice(ours), twice(expected), rtol=1e-4, atol=1e-5)


def test_a_row_that_is_not_finite_stays_alone():
    x = rows(16).at[0, 0, 3].set(jnp.nan).at[0, 1, 3].set(jnp.inf)
    for ours, _ in PAIRS.values():
        finite = np.isfinite(np.asarray(ours(x)).reshape(15, -1)).all(axis=1)
        assert finite.tolist() == [False, False] + [True] * 13
