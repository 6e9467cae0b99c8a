"""`Update.orthogonality`: the penalty on overlap with the frozen adapters, against its gradient by hand."""

import numpy as np
import pytest

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine.adapt import initial_adapters, schedule
from selfadapt.engine.adapt.training_step import overlap
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

WEIGHT = 0.05
ROWS = [TokenSequence(tuple(tokens)) for tokens in prompts_of([30] * 6, 5)]
# One optimizer step. B is zero before it, so that only the penalty moves A.
UPDATE = Update(
    ROWS, rank=2, optimizer="sgd", learning_rate=0.1, schedule="constant", epochs=1, batch_size=6, max_grad_norm=None
)
TARGETS = ("q_proj", "v_proj")  # of the update; the frozen adapters have these and "down_proj"

pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def frozen(model):
    return random_adapters(model.config, 2)


def test_the_overlap_is_the_sum_of_the_squared_products_of_all_pairs_of_directions():
    generator = np.random.default_rng(0)
    first = {"q_proj": generator.normal(size=(2, 3, 5, 4)), "o_proj": generator.normal(size=(2, 3, 5, 4))}
    second = {"q_proj": generator.normal(size=(2, 3, 5, 2)), "v_proj": generator.normal(size=(2, 3, 5, 2))}
    pairs = [(layer, r, s) for layer in range(3) for r in range(4) for s in range(2)]
    expected = [
        sum((first["q_proj"][k, n, :, r] @ second["q_proj"][k, n, :, s]) ** 2 for n, r, s in pairs) for k in range(2)
    ]
    np.testing.assert_allclose(overlap(first, second), expected, rtol=1e-5)
    np.testing.assert_array_equal(overlap({"k_proj": first["q_proj"]}, second), [0, 0])


@pytest.mark.parametrize("most_tokens", [schedule.MAX_MICRO_BATCH_TOKENS, 64], ids=["whole", "in parts"])
def test_an_optimizer_step_moves_a_by_the_penaltys_gradient_once(model, frozen, monkeypatch, most_tokens):
    monkeypatch.setattr(schedule, "MAX_MICRO_BATCH_TOKENS", most_tokens)
    found = adapt(model, [UPDATE, UPDATE.replace(orthogonality=WEIGHT)], on=frozen)
    start = initial_adapters(model.config, [UPDATE]).lora
    assert found.status == ["ok", "ok"] and (found.stats["training_steps"] > 2) == (most_tokens == 64)
    for name in TARGETS:
        before, below = np.asarray(start.a[name][:, 0]), np.asarray(frozen.lora.a[name][:, 1])
        gradient = 2 * below @ (below.swapaxes(1, 2) @ before)
        np.testing.assert_array_equal(found.lora.a[name][:, 0], before)
        np.testing.assert_allclose(found.lora.a[name][:, 1], before - 0.1 * WEIGHT * gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.losses[1], adapt(model, [UPDATE], on=frozen[1]).losses[0], rtol=1e-5)


def test_training_with_the_penalty_reads_other_directions_and_leaves_neighbours_bit_for_bit(model, frozen):
    several = UPDATE.replace(epochs=6, batch_size=1, optimizer="adamw", learning_rate=3e-2)
    plain = adapt(model, [several, several], on=frozen)
    mixed = adapt(model, [several, several.replace(orthogonality=WEIGHT)], on=frozen)

    def shared(adapters, k):
        return sum(
            float(np.square(np.asarray(frozen.lora.a[name][:, k]).swapaxes(1, 2) @ adapters.lora.a[name][:, k]).sum())
            for name in TARGETS
        )

    assert shared(mixed, 1) < 0.5 * shared(plain, 1)
    for side in ("a", "b"):
        for name in TARGETS:
            first, second = (getattr(each.lora, side)[name][:, 0] for each in (plain, mixed))
            np.testing.assert_array_equal(first, second)
