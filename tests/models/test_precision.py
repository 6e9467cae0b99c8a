"""Products of float32 arrays ask for float32: TPUs and GPUs otherwise round the operands to bfloat16 or TF32.

A CPU computes the same either way, so the programs are read instead of run.
"""

import jax
import jax.numpy as jnp
import pytest

from selfadapt.models import decoder, peft
from selfadapt.models.lora import Lora, abstract_lora
from selfadapt.models.model import random_params
from tests.engine.tiny import CONFIG

TOKENS = jax.ShapeDtypeStruct((3, 2, 8), jnp.int32)
LORA = abstract_lora(CONFIG, 3, 2, list(CONFIG.projections()), None)
HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def products(jaxpr):
    """Yields the precision of every product of two float32 arrays in a program, those of inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and {v.aval.dtype for v in equation.invars} == {
            jnp.dtype("float32")
        }:
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def abstract_params(dtype):
    return jax.eval_shape(lambda: random_params(CONFIG, jax.random.key(0), jnp.dtype(dtype)))


def loss(factors, scale, params):
    hidden = decoder.forward(params, CONFIG, jnp.zeros(TOKENS.shape, int), lora=Lora(*factors, scale))
    return decoder.logits(params, CONFIG, hidden).sum()


def passes(lora, params):
    """A forward pass with its gradient, a prefill and a step of decoding."""
    gradient = jax.grad(loss)((lora.a, lora.b), lora.scale, params)
    tokens, lengths = jnp.zeros(TOKENS.shape, int), jnp.full(TOKENS.shape[:2], 8)
    hidden, cache = decoder.prefill(params, CONFIG, tokens, lengths, lora=lora)
    layers = decoder.layer_inputs(CONFIG, params, lora)
    hidden, _ = decoder.decode(params, CONFIG, layers, tokens[:, :, 0], lengths, cache.grow(16), 8)
    return gradient, decoder.logits(params, CONFIG, hidden)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 130), ("bfloat16", 80)])
def test_every_product_of_float32_arrays_is_one_of_float32_numbers(dtype, least):
    found = list(products(jax.make_jaxpr(passes)(LORA, abstract_params(dtype)).jaxpr))
    assert len(found) >= least  # beside a bfloat16 base the products of the adapters' factors and their gradients
    assert set(found) == {HIGHEST}


def test_merging_multiplies_the_factors_in_float32():
    params = abstract_params("bfloat16")

    def merged(params, a, b):
        model = peft.Model(CONFIG, params)
        adapter = peft.Adapters(Lora(a, b, jnp.ones(1)), (peft.Spec(2, 2, tuple(CONFIG.projections())),))
        return peft.merge(model, adapter).params

    one = abstract_lora(CONFIG, 1, 2, list(CONFIG.projections()), None)
    found = list(products(jax.make_jaxpr(merged)(params, one.a, one.b).jaxpr))
    assert found == [HIGHEST] * 7
