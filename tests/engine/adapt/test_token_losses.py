"""The loss whose logits are computed in chunks equals the one that holds all logits at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.engine.adapt.training_step import token_losses
from selfadapt.engine.vocabulary import LOGITS_BYTES
from selfadapt.parallel import sharding
from tests.engine.tiny import CONFIG, tiny_model

SHAPE = (3, 1, 7)  # 21 tokens: chunks of five do not divide them
PER_TOKEN = 4 * CONFIG.vocab_size


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def of_all(model, hidden, targets, **options):
    def total(hidden):
        losses = token_losses(model.params, model.config, hidden, targets, **options)
        return (losses * jnp.arange(1.0, 1 + losses.size).reshape(losses.shape)).sum(), losses

    return jax.value_and_grad(total, has_aux=True)(hidden)


@pytest.mark.parametrize("tokens", [1, 5, 20, 21])
def test_losses_and_gradients_in_chunks_equal_those_of_all_tokens_at_once(model, tokens):
    generator = np.random.default_rng(0)
    hidden = jnp.asarray(generator.normal(size=(*SHAPE, CONFIG.hidden_size)), jnp.float32)
    targets = jnp.asarray(generator.integers(0, CONFIG.vocab_size, SHAPE))
    (_, losses), gradient = of_all(model, hidden, targets, logits_bytes=tokens * PER_TOKEN)
    (_, expected), slope = of_all(model, hidden, targets)
    scores = np.asarray(hidden) @ np.asarray(model.params["embed_tokens"]).T
    gold = np.take_along_axis(scores, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(expected, np.log(np.exp(scores).sum(-1)) - gold, rtol=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("vocabulary", "chunked"), [(LOGITS_BYTES // 400, False), (LOGITS_BYTES // 400 + 1, True)])
def test_no_more_logits_are_held_than_the_limit(vocabulary, chunked):
    config = dataclasses.replace(CONFIG, vocab_size=vocabulary)
    shapes = {"embed_tokens": (vocabulary, CONFIG.hidden_size)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    hidden = jax.ShapeDtypeStruct((4, 1, 25, CONFIG.hidden_size), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 1, 25), jnp.int32)
    text = str(jax.make_jaxpr(lambda *args: token_losses(args[0], config, *args[1:]))(params, hidden, targets))
    assert (f"f32[4,1,25,{vocabulary}]" in text) != chunked and ("scan[" in text) == chunked


@pytest.mark.parametrize(("platform", "chunked"), [("cpu", True), ("tpu", False)])
def test_an_accelerator_reads_the_head_once_for_a_thousand_tokens(platform, chunked):
    config = dataclasses.replace(CONFIG, vocab_size=LOGITS_BYTES // 4096 + 1)
    arrays = {"embed_tokens": (config.vocab_size, CONFIG.hidden_size), "hidden": (4, 1, 256, CONFIG.hidden_size)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
    targets = jax.ShapeDtypeStruct((4, 1, 256), jnp.int32)
    device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh((1, 1, 1), sharding.AXES, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        found = jax.make_jaxpr(lambda given, targets: token_losses(given, config, given["hidden"], targets))
        assert ("scan[" in str(found(params, targets))) == chunked
