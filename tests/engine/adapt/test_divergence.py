"""`Update.divergence`: the penalty on leaving the base on anchors, against its gradient computed directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine import flops, vocabulary
from selfadapt.engine.adapt import schedule
from selfadapt.engine.adapt.work import training_cost
from selfadapt.models import decoder
from selfadapt.models.lora import Spec
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

WEIGHT, RATE = 0.4, 0.1
ROWS = [TokenSequence(tuple(tokens)) for tokens in prompts_of([30] * 6, 5)]
ANCHORS = [TokenSequence(tuple(tokens)) for tokens in prompts_of([5, 17, 9], 6)]
ANCHORS[1] = TokenSequence(ANCHORS[1].ids, mask=(True,) * 8 + (False,) * 9)
# One optimizer step, whose penalty is on all three anchors.
UPDATE = Update(
    ROWS, rank=3, optimizer="sgd", learning_rate=RATE, schedule="constant", epochs=1, batch_size=6, max_grad_norm=None
)
HELD = UPDATE.replace(divergence=WEIGHT, anchors=ANCHORS, anchor_rows=3)

pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def start(model):
    return random_adapters(model.config, 2)


@pytest.fixture(scope="module")
def frozen(model):
    return random_adapters(model.config, 2, seed=1)


def direct_gradient(model, lora, frozen):
    """The gradient of the weighted divergence, of one anchor after the other, each in a row without padding."""

    def divergence(lora):
        terms = []
        for anchor in ANCHORS:
            tokens = jnp.asarray(anchor.ids)[None, None]
            before, after = (
                jax.nn.log_softmax(
                    decoder.logits(
                        model.params, model.config, decoder.forward(model.params, model.config, tokens, lora=each)
                    )
                )[0, 0, :-1]
                for each in (None, (frozen, lora))
            )
            targets = np.asarray((anchor.mask or (True,) * len(anchor.ids))[1:])
            terms.append((jnp.exp(before) * (before - after)).sum(-1)[targets])
        return WEIGHT * jnp.concatenate(terms).mean()

    return jax.jit(jax.grad(divergence))(lora)


@pytest.mark.parametrize(
    "most_tokens",
    [
        pytest.param(schedule.MAX_MICRO_BATCH_TOKENS, id="whole"),
        pytest.param(64, id="in parts", marks=pytest.mark.slow),
    ],
)
def test_an_optimizer_step_moves_parameters_by_the_penaltys_gradient_once(
    model, start, frozen, monkeypatch, most_tokens
):
    monkeypatch.setattr(schedule, "MAX_MICRO_BATCH_TOKENS", most_tokens)
    plain = adapt(model, [UPDATE, UPDATE], init=start, on=frozen)
    held = adapt(model, [UPDATE, HELD], init=start, on=frozen)
    assert held.status == ["ok", "ok"] and held.stats["tokens"] == plain.stats["tokens"] + 5 + 17 + 9
    gradient = direct_gradient(model, start[1].lora, frozen[1].lora)
    for side in ("a", "b"):
        for name, expected in getattr(gradient, side).items():
            before, after = (np.asarray(getattr(each.lora, side)[name]) for each in (plain, held))
            np.testing.assert_array_equal(before[:, 0], after[:, 0])  # the neighbour's
            moved = after[:, 1] - before[:, 1]
            assert np.abs(moved).max() > 1e-4
            np.testing.assert_allclose(moved, -RATE * expected[:, 0], rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(held.losses[1], plain.losses[1], rtol=1e-5)  # the penalty is no part of it


def test_functions_of_features_of_tokens_are_the_same_in_chunks(model):
    hidden = decoder.forward(model.params, model.config, jnp.asarray(ANCHORS[1].ids)[None, None])

    def summed(logits, features):
        return logits.max(-1) + features.sum(-1)

    whole, parts = (
        vocabulary.over_tokens(summed, model.params, model.config, hidden, hidden, size) for size in (2**20, 97 * 4 * 5)
    )
    assert whole.shape == (1, 1, 17)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_every_anchor_is_used_once_before_any_is_used_again_in_an_order_of_the_seed():
    update = HELD.replace(anchors=ANCHORS * 3, anchor_rows=2, epochs=5)
    encoded = [np.full(3, n) for n in range(9)]
    drawn = schedule.draw_anchors(update, encoded, 5)
    numbers = [int(each[0]) for each in drawn]
    assert len(numbers) == 10 and sorted(numbers[:9]) == list(range(9))
    assert numbers != [int(each[0]) for each in schedule.draw_anchors(update.replace(seed=1), encoded, 5)]
    assert schedule.draw_anchors(update, [], 5) == [] == schedule.draw_anchors(update, encoded, 0)


def test_anchors_count_as_trained_tokens_and_as_operations(model):
    plain, held = (training_cost(model, [update.replace(epochs=2)]) for update in (UPDATE, HELD))
    assert held == plain | {"trained_tokens": plain["trained_tokens"] + 2 * (5 + 17 + 9)}
    assert training_cost(model, [HELD.replace(divergence=0.0)]) == training_cost(model, [UPDATE])
    specs = (Spec(3, 3, ("q_proj",)),)
    both = flops.of_adapt(model.config, specs, [[30] * 6], (), [[5, 17, 9]])
    alone = sum(flops.forward(model.config, 0, length, logits=length) for length in (5, 17, 9))
    assert both == pytest.approx(flops.of_adapt(model.config, specs, [[30] * 6 + [5, 17, 9]]) + alone)


def test_anchors_that_cannot_be_used_fail_their_own_update_alone(model, start, frozen):
    long = TokenSequence((5,) * 300)
    found = adapt(model, [UPDATE, HELD.replace(anchors=[long])], init=start, on=frozen)
    assert found.status[0] == "ok" and "300 tokens" in found.status[1] and "(of the anchors)" in found.status[1]
    with pytest.raises(TypeError, match=r"Update\.anchors\[0\] is int"):
        adapt(model, [HELD.replace(anchors=[3])])
    with pytest.raises(ValueError, match=r"Update\.divergence is 0\.5, and there are no Update\.anchors"):
        Update(ROWS, divergence=0.5)
    with pytest.raises(ValueError, match=r"Update\.divergence is -1\.0"):
        Update(ROWS, divergence=-1.0, anchors=ANCHORS)
    with pytest.raises(ValueError, match=r"Update\.anchor_rows is 0"):
        Update(ROWS, anchor_rows=0)
