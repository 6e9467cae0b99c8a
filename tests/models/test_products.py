"""Products of activations, and their gradients in another order on one CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.models import products
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
    np.testing.assert_array_equal(products.low_rank_product(x, factor), products._low_rank(x, factor))
    found = gradients(products.low_rank_product, x, factor, towards)
    expected = gradients(products._low_rank, x, factor, towards)
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
    up, down = (compiled(products.low_rank_product, *sizes) for sizes in ((RANK, WIDE), (WIDE, RANK)))
    assert f"[{ADAPTERS},{RANK},{tokens}]" in up and f"[{ADAPTERS},{WIDE},{tokens}]" not in up
    assert f"[{ADAPTERS},{WIDE},{tokens}]" in compiled(products._low_rank, RANK, WIDE)
    assert f"[{ADAPTERS},{RANK},{WIDE}]" in down  # which is transposed
    assert f"[{ADAPTERS},{RANK},{WIDE}]" not in compiled(products._low_rank, WIDE, RANK)


def test_gradients_can_be_differentiated():
    x, factor, _ = arrays(WIDE, RANK)

    def twice(product):
        def inner(factor):
            return jnp.sum(jnp.square(jax.grad(lambda f: jnp.sum(jnp.square(product(x, f))))(factor)))

        return jax.grad(inner)(factor)

    np.testing.assert_allclose(twice(products.low_rank_product), twice(products._low_rank), rtol=1e-4)


HEADS, FEATURES, QUERIES, KEYS = 3, 4, 24, 20
PAIRS = {"scores": (products.scores, products._scores), "weighted": (products.weighted, products._weighted)}


def attending(name, dtype=jnp.float32):
    """Returns the operands of a product of attention, and a gradient of its result."""
    generator = np.random.default_rng(0)
    sizes = {"q": (QUERIES, FEATURES), "k": (KEYS, FEATURES), "weights": (QUERIES, KEYS)}
    names = {"scores": ("q", "k", "weights"), "weighted": ("weights", "k", "q")}[name]
    arrays = [jnp.asarray(generator.normal(size=(2, HEADS, *sizes[each])), dtype) for each in names]
    return arrays[:2], arrays[2].astype(jnp.float32 if name == "scores" else dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_attention_are_those_of_plain_products(name, dtype):
    ours, plain = PAIRS[name]
    operands, towards = attending(name, dtype)
    np.testing.assert_array_equal(ours(*operands), plain(*operands))
    found, expected = (jax.vjp(function, *operands)[1](towards) for function in (ours, plain))
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype == dtype
        # Sums of up to 24 products; in bfloat16 the products are the plain ones.
        np.testing.assert_allclose(own.astype(jnp.float32), other.astype(jnp.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_scores_and_weights_are_not_transposed(name):
    def program(product):
        operands, towards = attending(name)
        gradients = jax.jit(lambda towards, *each: jax.vjp(product, *each)[1](towards))
        return gradients.lower(towards, *operands).compile().as_text()

    narrow = f"[2,{HEADS},{FEATURES},{QUERIES}]"
    ours, plain = PAIRS[name]
    assert narrow in program(ours) and narrow not in program(plain)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_attention_can_be_differentiated(name):
    operands, _ = attending(name)

    def twice(product):
        def inner(*operands):
            gradients = jax.grad(lambda *each: jnp.sum(jnp.square(product(*each))), argnums=(0, 1))(*operands)
            return sum(jnp.sum(jnp.square(each)) for each in gradients)

        return jax.grad(inner, argnums=(0, 1))(*operands)

    for own, other in zip(*map(twice, PAIRS[name]), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4)
