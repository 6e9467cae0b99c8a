"""A few tokens decoded with a cache, beside a forward pass over the whole rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import decoder
from selfadapt.models.model import random_params
from selfadapt.parallel import sharding
from tests.engine.tiny import CONFIG

PROMPT, NEW = 5, 2


def decoded_and_whole(layers: int, mesh: Any = None) -> tuple[Any, Any]:
    """Returns the outputs of the last tokens of two rows, written one by one on a mesh, and of a pass over the rows."""
    config = dataclasses.replace(CONFIG, num_layers=layers, head_dim=128, windows=(0, 4) + (0,) * (layers - 2))
    params = random_params(config, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 2, PROMPT + NEW))

    @jax.jit
    def run(params, tokens):
        layers = decoder.layer_inputs(config, params, None)
        lengths = jnp.full((1, 2), PROMPT)
        hidden, cache = decoder.prefill(params, config, tokens[..., :PROMPT], lengths)
        cache = cache.grow(PROMPT + NEW).sharded()

        def step(carry, token):
            cache, slot = carry
            hidden, cache = decoder.decode(params, config, layers, token, jnp.full((1, 2), slot), cache, slot)
            return (cache, slot + 1), hidden

        _, outputs = jax.lax.scan(step, (cache, jnp.int32(PROMPT)), jnp.moveaxis(tokens[..., PROMPT:], -1, 0))
        return jnp.concatenate([hidden[None], outputs])

    with sharding.using(mesh):
        found = run(params, jnp.asarray(tokens))
    whole = jax.jit(lambda params, tokens: decoder.forward(params, config, tokens))(params, tokens)
    return np.asarray(found), np.moveaxis(whole[:, :, PROMPT - 1 :], 2, 0)
