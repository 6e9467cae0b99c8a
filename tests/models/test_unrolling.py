"""Where the decoder's layers are one after the other in a program instead of in a loop."""

import functools

import jax
import numpy as np
import pytest

from selfadapt import generate
from selfadapt.engine.adapt.training_step import adapter_losses
from selfadapt.engine.generate import sampling
from selfadapt.models import decoder
from selfadapt.parallel import sharding
from tests.engine.tiny import tiny_model

LAYERS = decoder.UNROLL_UP_TO_LAYERS + 2
TOKENS = np.arange(10).reshape(1, 2, 5)


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=LAYERS)


def layers_per_iteration(function, *arguments):
    """Returns how many layers one iteration of the loop over layers has."""
    scans = [each for each in jax.make_jaxpr(function)(*arguments).eqns if each.primitive.name == "scan"]
    (found,) = [scan.params["unroll"] for scan in scans if scan.params["length"] == LAYERS]
    return found


def test_on_a_gpu_programs_that_run_often_have_no_loop_over_layers(model, monkeypatch):
    def read(often):
        return functools.partial(decoder.forward, config=model.config, tokens=TOKENS, often=often)

    def train():
        batch = {"tokens": TOKENS, "weights": np.ones(TOKENS.shape, np.float32)}
        return functools.partial(adapter_losses, (), config=model.config, batch=batch, remat=False)

    assert layers_per_iteration(read(True), model.params) == layers_per_iteration(train(), model.params) == 1
    monkeypatch.setattr(sharding, "current_platform", lambda: "gpu")
    assert layers_per_iteration(read(False), model.params) == 1
    assert layers_per_iteration(read(True), model.params) == layers_per_iteration(train(), model.params) == LAYERS
    monkeypatch.setattr(decoder, "GPU_UNROLL_UP_TO_LAYERS", LAYERS - 1)  # compilation takes as long as there are layers
    assert layers_per_iteration(read(True), model.params) == 1


def test_texts_written_without_a_loop_over_layers_are_the_same(model, monkeypatch):
    prompts, options = ["abc", "what is the"], {"max_new_tokens": 6, "temperature": 2.0, "top_p": 0.9, "num_samples": 3}
    expected = generate(model, prompts, **options)
    assert len(decoder.layer_inputs(model.config, model.params, None)) == 1
    monkeypatch.setattr(sharding, "current_platform", lambda: "gpu")
    assert len(decoder.layer_inputs(model.config, model.params, None)) == LAYERS
    assert generate(model, prompts, **options) == expected


def test_memory_for_texts_is_what_the_copies_of_layers_leave(model, monkeypatch):
    def shapes(memory_bytes):
        options = {"samples": 1, "max_new_tokens": 16, "memory_bytes": memory_bytes}
        return [(chunk.shape, len(chunk.waiting)) for chunk in sampling.schedule(model, [0] * 32, [5] * 32, **options)]

    enough_for_some = 300_000
    expected = shapes(enough_for_some)
    ((_, waiting),) = expected
    assert waiting and sampling.layer_copies(model) == 0
    monkeypatch.setattr(sharding, "platform", lambda mesh: "gpu")
    copies = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params["layers"]))
    assert sampling.layer_copies(model) == copies
    assert shapes(enough_for_some + copies) == expected != shapes(enough_for_some)
