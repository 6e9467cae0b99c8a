"""Each optimizer of `adapt` against optax run alone, and adapters of several optimizers in one call."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine.adapt import schedule
from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.engine.adapt.training_step import adapter_losses
from selfadapt.errors import InvalidValueError
from selfadapt.models.lora import Lora
from tests.engine.tiny import tiny_model

GENERATOR = np.random.default_rng(0)
SEQUENCES = [TokenSequence(tuple(GENERATOR.integers(3, 97, 16).tolist())) for _ in range(3)]
BASE = Update(SEQUENCES, rank=4, epochs=3, learning_rate=5e-3, max_grad_norm=0.5)
RATE = optax.linear_schedule(5e-3, 0.0, 9)
# `descent` changes parameters where the gradient is zero, as no named optimizer does.
descent = optax.GradientTransformation(
    lambda params: optax.EmptyState(),
    lambda updates, state, params=None: (jax.tree.map(lambda g: -0.01 * jnp.ones_like(g), updates), state),
)
injected = optax.inject_hyperparams(optax.adam)(learning_rate=7.0)
UPDATES = {
    "adamw": (BASE.replace(weight_decay=0.1), optax.adamw(RATE, weight_decay=0.1)),
    "sgd": (
        BASE.replace(optimizer="sgd", learning_rate=0.5, weight_decay=0.02),
        optax.chain(optax.add_decayed_weights(0.02), optax.sgd(lambda count: 100 * RATE(count), momentum=0.9)),
    ),
    "lion": (
        BASE.replace(optimizer="lion", weight_decay=0.1, schedule="constant", max_grad_norm=None),
        optax.lion(5e-3, b1=0.9, b2=0.99, weight_decay=0.1),
    ),
    "complete": (BASE.replace(optimizer=(adam := optax.adam(1e-2)), learning_rate=99.0), adam),
    "injected": (BASE.replace(optimizer=injected), optax.adam(RATE)),
    "any": (BASE.replace(optimizer=descent, rank=2), descent),
    "any of another rank": (BASE.replace(optimizer=descent), descent),
    "adamw after the others": (BASE.replace(seed=1), optax.adam(RATE)),
}


pytestmark = pytest.mark.usefixtures("one_stream")  # all adapters of an optimizer in one stack


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def together(model):
    return adapt(model, [update for update, _ in UPDATES.values()])


def trained_alone(model, update, optimizer):
    """The losses and factors of a plain loop over optimizer steps, each of one sequence."""
    lora = initial_adapters(model.config, [update]).lora
    factors = lora.a, lora.b
    state, losses = optimizer.init(factors), []

    @jax.jit
    def gradient(factors, tokens):
        weights = jnp.ones(tokens.shape).at[:, :, 0].set(0.0) / (tokens.shape[2] - 1)
        batch = {"tokens": tokens, "weights": weights}

        def loss(factors):
            return adapter_losses(Lora(*factors, lora.scale), model.params, model.config, batch, False).sum()

        return jax.value_and_grad(loss)(factors)

    for (index,) in schedule.optimizer_steps(update, len(update.sequences)):
        loss, grads = gradient(factors, np.asarray(update.sequences[index].ids)[None, None])
        if update.max_grad_norm is not None:
            shrink = min(1.0, update.max_grad_norm / (float(optax.tree.norm(grads)) + 1e-6))
            grads = jax.tree.map(lambda g, shrink=shrink: g * shrink, grads)
        changes, state = optimizer.update(grads, state, factors)
        factors = optax.apply_updates(factors, changes)
        losses.append(float(loss))
    return np.asarray(losses), factors


@pytest.mark.parametrize("name", UPDATES)
def test_an_adapter_beside_those_of_other_optimizers_equals_optax_alone(model, together, name):
    update, optimizer = UPDATES[name]
    losses, (a, b) = trained_alone(model, update, optimizer)
    ours = together[list(UPDATES).index(name)]
    assert ours.status == ["ok"] and abs(losses[-1] - losses[0]) > 0.05
    np.testing.assert_allclose(ours.losses[0], losses, rtol=1e-5)
    for target in ("q_proj", "v_proj"):
        np.testing.assert_allclose(ours.lora.a[target][..., : update.rank], a[target], atol=2e-5)
        np.testing.assert_allclose(ours.lora.b[target][:, :, : update.rank], b[target], atol=2e-5)
        assert not np.any(ours.lora.a[target][..., update.rank :])


def test_an_adapter_that_diverges_leaves_those_of_other_optimizers_bit_for_bit(model, together):
    updates = [update for update, _ in UPDATES.values()]
    updates[0] = updates[0].replace(learning_rate=1e30)
    mixed = adapt(model, updates)
    assert mixed.status[0] != "ok" and mixed.status[1:] == ["ok"] * (len(updates) - 1)
    for k in range(1, len(updates)):
        np.testing.assert_array_equal(mixed.losses[k], together.losses[k])
        np.testing.assert_array_equal(mixed[k].lora.b["q_proj"], together[k].lora.b["q_proj"])


def test_training_of_any_optimizer_resumes_from_adapters_of_different_ranks(model, together):
    first = together[5:7]  # of ranks 2 and 4, in one stack
    more = adapt(model, [BASE.replace(optimizer=descent, epochs=1)] * 2, init=first)
    assert [spec.rank for spec in more.specs] == [2, 4]
    for k, rank in enumerate((2, 4)):
        expected = np.asarray(first.lora.a["q_proj"][:, k, :, :rank]) - 0.03
        np.testing.assert_allclose(more.lora.a["q_proj"][:, k, :, :rank], expected, rtol=1e-5)
        assert not np.any(more.lora.a["q_proj"][:, k, :, rank:])


@pytest.mark.parametrize("given", ["adam", 3, optax.adam])
def test_what_is_no_optimizer_is_named(given):
    with pytest.raises(InvalidValueError, match=r"Update.optimizer is .*; it must be one of adamw, sgd, lion, or an"):
        Update(["text"], optimizer=given)
