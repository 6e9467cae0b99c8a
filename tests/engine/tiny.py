"""Small random models and adapters whose predictions are neither flat nor certain."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec
from selfadapt.models.model import Model, random_params
from tests.models.helpers import character_tokenizer

CONFIG = ModelConfig(
    family="qwen2",
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    tie_word_embeddings=True,
    qkv_bias=True,
)


def tiny_model(seed: int = 0, **changes) -> Model:
    """Returns a model with one token per character; `changes` are fields of its config."""
    config = dataclasses.replace(CONFIG, **changes)
    generator = np.random.default_rng(seed)

    def draw(path, shape):
        name = path[-1].key
        if name.endswith("norm"):
            return jnp.ones(shape.shape)
        noise = generator.normal(size=shape.shape) * (0.4 if name in ("embed_tokens", "lm_head") else 0.2)
        return jnp.asarray(noise, jnp.float32)

    shapes = jax.eval_shape(lambda: random_params(config, jax.random.key(0)))
    return Model(config, jax.tree_util.tree_map_with_path(draw, shapes), character_tokenizer())


def random_adapters(config: ModelConfig, count: int, seed: int = 0) -> Adapters:
    """Returns a stack of adapters that each change the model a lot."""
    generator = np.random.default_rng(seed)
    rank, layers = 3, config.num_layers
    shapes = {name: config.projections()[name] for name in ("q_proj", "v_proj", "down_proj")}

    def draw(*shape):
        return jnp.asarray(generator.normal(size=shape) * 0.3, jnp.float32)

    lora = Lora(
        a={name: draw(layers, count, features, rank) for name, (features, _) in shapes.items()},
        b={name: draw(layers, count, rank, features) for name, (_, features) in shapes.items()},
        scale=jnp.ones(count),
    )
    return Adapters(lora, (Spec(rank, rank, tuple(shapes)),) * count)


def prompts_of(lengths, seed: int = 0) -> list[list[int]]:
    """Returns random token ids, one prompt for each length."""
    generator = np.random.default_rng(seed)
    return [generator.integers(3, CONFIG.vocab_size, length).tolist() for length in lengths]


def slow_logprobs(model: Model, tokens, adapter: Adapters | None = None) -> np.ndarray:
    """Returns log-probabilities after each token of one row, `[time, vocab]`, by one plain forward pass."""
    padded = np.zeros((1, 1, -(-len(tokens) // 64) * 64), np.int32)  # few shapes to compile
    padded[0, 0, : len(tokens)] = tokens
    logits = _logits(model.params, model.config, padded, None if adapter is None else adapter.lora)
    return np.asarray(jax.nn.log_softmax(logits[0, 0, : len(tokens)], axis=-1))


@functools.partial(jax.jit, static_argnums=1)
def _logits(params, config, tokens, lora):
    return decoder.logits(params, config, decoder.forward(params, config, tokens, lora=lora))


def greedy_tokens(model: Model, prompt, written, adapter: Adapters | None = None) -> tuple[int, ...]:
    """Returns the most probable token after the prompt and after each token written but the last.

    It equals `written` if and only if that is the greedy continuation: one pass instead of one for each token.
    """
    logprobs = slow_logprobs(model, [*prompt, *written], adapter)
    return tuple(logprobs[len(prompt) - 1 : -1].argmax(axis=-1).tolist())
