"""Counts of device work."""

import pytest

from selfadapt import Update, adapt, generate, load_model, log_likelihood
from selfadapt.engine import flops
from selfadapt.telemetry import meter


def test_counts_go_to_the_innermost_collector_only():
    meter.add("adapt", tokens=1)  # without a collector
    with meter.collect() as outer:
        meter.add("adapt", tokens=2)
        with meter.collect() as inner:
            meter.add("adapt", tokens=4, seconds=0.5)
        meter.add("adapt", tokens=8)
    assert dict(outer["adapt"]) == {"calls": 2, "tokens": 10}
    assert dict(inner["adapt"]) == {"calls": 1, "tokens": 4, "seconds": 0.5}


@pytest.fixture(scope="module")
def model():
    return load_model("tiny")


def test_programs_count_real_tokens_and_padding_separately(model):
    with meter.collect() as counts:
        adapters = adapt(model, [Update(["The sky is green."], epochs=2), Update(["The sea is red. It is."])])
        generate(model, ["The sky is", "The"], max_new_tokens=3, num_samples=2)
        log_likelihood(model, ["The sky"], [" is green."])
    length = len(model.tokenizer("The sky is green.")["input_ids"])
    other = len(model.tokenizer("The sea is red. It is.")["input_ids"])
    assert adapters.stats["tokens"] == counts["adapt"]["tokens"]
    epochs = Update(["x"]).epochs
    assert counts["adapt"]["tokens"] == 2 * length + epochs * other
    assert counts["adapt"]["padded_tokens"] == adapters.stats["padded_tokens"] >= counts["adapt"]["tokens"]
    assert counts["adapt"]["flops"] == flops.of_adapt(model.config, adapters.specs, [[length] * 2, [other] * epochs])
    assert counts["generate"]["texts"] == 4
    assert 0 < counts["generate"]["prefill_seconds"] < counts["generate"]["seconds"]
    prompt = model.tokenizer("The sky")["input_ids"]
    target = model.tokenizer(" is green.", add_special_tokens=False)["input_ids"]
    assert counts["log_likelihood"]["tokens"] == len(prompt) + len(target)
    assert counts["log_likelihood"]["flops"] > 0
