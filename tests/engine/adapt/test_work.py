"""What training costs, counted without training."""

import math

import pytest

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine.adapt.work import training_cost
from tests.engine.tiny import prompts_of, tiny_model

pytestmark = pytest.mark.usefixtures("one_stream")


def test_the_cost_of_updates_is_what_adapt_trains_on():
    model = tiny_model()
    rows = [TokenSequence(tuple(tokens)) for tokens in prompts_of([9, 12, 14, 15, 16], 0)]
    updates = [
        Update([*rows, TokenSequence((1,))], rank=2, epochs=2, batch_size=2),  # the last one has no target
        Update(["a text", ("asked", "answered")], rank=2, epochs=3, gradient_accumulation=2),
        Update([], rank=2),
        Update(rows, rank=2, learning_rate=math.nan),
    ]
    adapters = adapt(model, updates)
    assert training_cost(model, updates) == {
        "inner_updates": sum(status == "ok" for status in adapters.status),
        "optimizer_steps": sum(map(len, adapters.losses)),
        "trained_tokens": adapters.stats["tokens"],
    }
    assert [len(losses) for losses in adapters.losses] == [6, 3, 0, 0]
