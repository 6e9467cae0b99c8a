"""Attention in blocks of queries gives what attention at once gives, in memory that grows with the length."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.engine import memory
from selfadapt.engine.generate import batching
from selfadapt.engine.pretrain import init_params
from selfadapt.models import attention, decoder
from selfadapt.models.config import ModelConfig, RopeScaling

TIME = attention.LONGEST_AT_ONCE + 70  # the last block of queries overlaps the one before it
CONFIG = ModelConfig.from_json(
    {
        "model_type": "mistral",
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 100,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
)


@pytest.fixture(scope="module")
def row():
    """Two rows of tokens of three sequences each, with some keys that nothing may see."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 31, (1, 2, TIME))
    segments = np.stack([np.searchsorted(cuts, np.arange(TIME), side="right") + 1 for cuts in [(300, 800), (5, 999)]])
    hidden = np.where(generator.random((2, TIME)) < 0.1, 0, segments)
    return tokens, segments[None], hidden[None]


def test_long_rows_give_outputs_and_gradients_of_attention_at_once(row, monkeypatch):
    tokens, segments, key_segments = row
    params = init_params(jax.random.key(0), CONFIG)
    positions = np.arange(TIME)[None, None] - np.maximum.accumulate(
        np.where(np.diff(segments, prepend=0, axis=-1) > 0, np.arange(TIME), 0), axis=-1
    )

    def value(params):
        hidden = decoder.forward(
            params, CONFIG, tokens, positions=positions, segments=segments, key_segments=key_segments
        )
        return jnp.sum(jnp.sin(3 * hidden)), hidden

    run = jax.value_and_grad(value, has_aux=True)
    (_, blocks), gradient = jax.jit(run)(params)
    monkeypatch.setattr(decoder, "LONGEST_AT_ONCE", TIME)
    (_, once), expected = jax.jit(functools.partial(run))(params)
    # Sums over keys in float32, in the same order up to the compiler's choice.
    np.testing.assert_allclose(blocks, once, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_the_memory_of_a_long_row_grows_with_its_length_and_not_with_its_square():
    params = jax.eval_shape(functools.partial(init_params, config=CONFIG), jax.random.key(0))

    def loss(params, tokens):
        return decoder.forward(params, CONFIG, tokens, segments=tokens).sum()

    def held(time):
        tokens = jax.ShapeDtypeStruct((1, 1, time), jnp.int32)
        return jax.jit(jax.grad(loss)).lower(params, tokens).compile().memory_analysis().temp_size_in_bytes

    assert held(8192) < 2.2 * held(4096)


def test_estimates_of_memory_grow_with_the_length_of_long_rows():
    prefill = [batching.prefill_bytes(CONFIG, time, 4) for time in (4096, 8192)]
    activations = [memory.activation_bytes(CONFIG, time, time, remat=False, itemsize=4) for time in (4096, 8192)]
    assert prefill[1] == 2 * prefill[0] and activations[1] == 2 * activations[0]


@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 32)])
def test_constant_rotations_are_those_of_traced_positions(scaling):
    config = dataclasses.replace(CONFIG, rope_scaling=scaling)
    constant = attention.rotations(config, np.arange(64)[None])
    traced = jax.jit(lambda positions: attention.rotations(config, positions))(jnp.arange(64)[None])
    for one, other in zip(constant, traced, strict=True):
        assert one.shape == other.shape == (1, 1, 64, 2) and one.dtype == other.dtype == jnp.float32
        np.testing.assert_allclose(one, other, atol=2e-6)
    assert "cosine" not in jax.jit(lambda: attention.rotations(config, np.arange(64)[None])).lower().as_text()
