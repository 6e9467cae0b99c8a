"""Counted operations against those of the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from selfadapt import Update
from selfadapt.engine import flops
from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.engine.adapt.training_step import adapter_losses
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Spec
from selfadapt.models.model import Model

RAW = {
    "model_type": "mistral",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": None,
}


ARCHITECTURE = ModelConfig.from_json(RAW)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def masked_attention(length):
    """What a program computes of attention beyond what a causal model needs."""
    return 4 * 4 * 32 * 3 * (length * length - length * (length + 1) / 2)


def test_counted_operations_are_close_to_those_of_the_compiled_programs():
    time = 64
    params, tokens = Model.random(ARCHITECTURE, seed=0).params, jnp.zeros((1, 1, time), jnp.int32)
    compiled = xla_flops(lambda p: decoder.logits(p, ARCHITECTURE, decoder.forward(p, ARCHITECTURE, tokens)), params)
    counted = flops.forward(ARCHITECTURE, 0, time, logits=time) + masked_attention(time)
    assert counted == pytest.approx(compiled, rel=0.03)

    start = initial_adapters(ARCHITECTURE, [Update(["x"], rank=8, targets="all-linear")])
    batch = {"tokens": tokens, "weights": jnp.ones((1, 1, time))}
    compiled = xla_flops(
        jax.grad(lambda lora, p: adapter_losses(lora, p, ARCHITECTURE, batch, False).sum()), start.lora, params
    )
    counted = flops.training(ARCHITECTURE, time, adapter=flops.adapter_size(ARCHITECTURE, start.specs[0]))
    assert counted + 3 * masked_attention(time) == pytest.approx(compiled, rel=0.05)


def test_a_window_bounds_the_pairs_that_attention_is_counted_for():
    windowed = ModelConfig.from_json(RAW | {"sliding_window": 4})
    each = 4 * 4 * 32 * 3
    difference = flops.forward(ARCHITECTURE, 0, 10, logits=0) - flops.forward(windowed, 0, 10, logits=0)
    assert difference == each * (sum(range(1, 11)) - (1 + 2 + 3 + 4 * 7))


def test_reading_a_prompt_and_writing_after_it_takes_what_reading_both_takes():
    specs = [Spec(rank=2, alpha=4, targets=("q_proj",))]
    size = flops.adapter_size(ARCHITECTURE, specs[0])
    assert size == 3 * 2 * (128 + 128)
    written = flops.of_generate(ARCHITECTURE, specs, [(0, 10)], [[6]])
    assert written == flops.forward(ARCHITECTURE, 0, 15, logits=6, adapter=size)
    shared = flops.of_generate(ARCHITECTURE, specs, [(0, 10)], [[6, 6]])
    assert shared == 2 * written - flops.forward(ARCHITECTURE, 0, 10, logits=1, adapter=size)  # one prefill
