"""The products with adapters' factors, and their gradients in another order on one CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.models import low_rank
from selfadapt.parallel import sharding

ADAPTERS, ROWS, TIME, WIDE, RANK = 2, 3, 8, 40, 4


def arrays(inside, outside, dtype=jnp.float32):
    generator = np.random.default_rng(inside)
    shapes = (ADAPTERS, ROWS, TIME, inside), (ADAPTERS, inside, outside), (ADAPTERS, ROWS, TIME, outside)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def gradients(product, x, factor, towards):
    return jax.vjp(product, x, factor)[1](towards)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("sizes", [(WIDE, RANK), (RANK, WIDE), (RANK, RANK)])
def test_gradients_are_those_of_the_plain_product(sizes, dtype):
    x, factor, towards = arrays(*sizes, dtype)
    assert sharding.on_one_cpu()
    np.testing.assert_array_equal(low_rank.low_rank_product(x, factor), low_rank._product(x, factor))
    found = gradients(low_rank.low_rank_product, x, factor, towards)
    expected = gradients(low_rank._product, x, factor, towards)
    # Sums of 24 products, of float32 or rounded to bfloat16.
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype
        np.testing.assert_allclose(own.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=tolerance)


def compiled(product, *sizes):
    """Returns the program for a factor's gradient."""
    return jax.jit(lambda *each: gradients(product, *each)[1]).lower(*arrays(*sizes)).compile().as_text()


def test_the_wide_side_is_not_transposed():
    tokens = ROWS * TIME
    up, down = (compiled(low_rank.low_rank_product, *sizes) for sizes in ((RANK, WIDE), (WIDE, RANK)))
    assert f"[{ADAPTERS},{RANK},{tokens}]" in up and f"[{ADAPTERS},{WIDE},{tokens}]" not in up
    assert f"[{ADAPTERS},{WIDE},{tokens}]" in compiled(low_rank._product, RANK, WIDE)
    assert f"[{ADAPTERS},{RANK},{WIDE}]" in down  # which is transposed
    assert f"[{ADAPTERS},{RANK},{WIDE}]" not in compiled(low_rank._product, WIDE, RANK)


def test_gradients_can_be_differentiated():
    x, factor, _ = arrays(WIDE, RANK)

    def twice(product):
        def inner(factor):
            return jnp.sum(jnp.square(jax.grad(lambda f: jnp.sum(jnp.square(product(x, f))))(factor)))

        return jax.grad(inner)(factor)

    np.testing.assert_allclose(twice(low_rank.low_rank_product), twice(low_rank._product), rtol=1e-4)
