"""`functional.sample` writes the texts of `generate`."""

import functools

import jax
import numpy as np
import pytest

from selfadapt import functional, generate
from selfadapt.errors import InvalidValueError
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

LENGTHS, NEW, SAMPLES = [4, 7, 5], 9, 3


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1, eos_token_ids=(5, 11, 23, 40))  # several, so that some texts end early


def padded(prompts):
    tokens = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens, np.asarray([len(prompt) for prompt in prompts])


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["shared", "own adapters"])
def test_texts_are_those_of_generate_for_the_same_ids_and_seed(model, own):
    prompts, ids = prompts_of(LENGTHS), ["a", "b", "c"]
    adapters = random_adapters(model.config, 3) if own else None
    options = dict(temperature=[0.8, 1.0, 0.0]) | (dict(top_p=0.7) if own else {})
    expected = generate(
        model,
        [[prompt] for prompt in prompts] if own else prompts,
        adapters=adapters,
        ids=[[each] for each in ids] if own else ids,
        temperature=[[each] for each in options["temperature"]] if own else options["temperature"],
        top_p=options.get("top_p", 1.0),
        seed=3,
        num_samples=SAMPLES,
        max_new_tokens=NEW,
        return_details=True,
    )
    if own:
        expected = [samples for (samples,) in expected]
    sample = jax.jit(functools.partial(functional.sample, config=model.config, new_tokens=NEW))
    keys = functional.sample_keys(ids, 3, SAMPLES)
    lora = None if adapters is None else adapters.lora
    options = {name: np.asarray(value) for name, value in options.items()}
    found = sample(
        model.params, prompts=padded(prompts)[0], lengths=padded(prompts)[1], keys=keys, lora=lora, **options
    )
    lengths = np.asarray(found.lengths)
    assert len(set(lengths.ravel().tolist())) > 1 and lengths.max() == NEW
    for c, samples in enumerate(expected):
        for s, text in enumerate(samples):
            assert tuple(found.tokens[c, s, : lengths[c, s]].tolist()) == text.tokens
            assert not np.asarray(found.tokens)[c, s, lengths[c, s] :].any()
            np.testing.assert_allclose(found.logprobs[c, s, : lengths[c, s]], text.logprobs, atol=1e-5)


def test_what_does_not_fit_is_an_error_before_anything_is_compiled(model):
    keys = functional.sample_keys(["a", "b"], 0, 1)
    tokens = np.zeros((2, 200), np.int32)
    with pytest.raises(InvalidValueError, match="new_tokens is 100 and the prompts have 200 tokens"):
        functional.sample(model.params, model.config, tokens, np.asarray([200, 9]), keys, new_tokens=100)
    lora = random_adapters(model.config, 3).lora
    with pytest.raises(InvalidValueError, match="lora has 3 adapters for 2 prompts"):
        functional.sample(model.params, model.config, tokens, np.asarray([200, 9]), keys, new_tokens=9, lora=lora)
