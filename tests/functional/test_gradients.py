"""Gradients through `functional.adapt` equal finite differences of it, also where an adapter takes no step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfadapt import Update, functional
from selfadapt.engine.adapt import initial_adapters
from tests.engine.tiny import tiny_model

ADAPTERS, ROWS, TIME, RATE = 3, 2, 9, 0.5
UPDATE = Update((), rank=2, alpha=4, targets="q_proj,down_proj", epochs=3, batch_size=2, schedule="constant")


def objective(model):
    """Returns the mean log-likelihood of answers after training, as a function of what is differentiated."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 97, (ADAPTERS, ROWS, TIME))
    steps = jax.tree.map(lambda leaf: leaf[np.asarray([2, 1, 0])], functional.steps_of(UPDATE, ROWS))  # the last: none
    asked, answers = generator.integers(3, 97, (2, ADAPTERS, 2, 4))
    lengths = np.full((ADAPTERS, 2), 4)

    def after(given):
        lora, scale, rates = given
        adapted = functional.adapt(
            model.params,
            model.config,
            lora,
            tokens,
            np.ones(tokens.shape, bool),
            steps.replace(rate=RATE * rates * (steps.rate > 0)),
            max_grad_norm=2.0,
            change_scale=scale,
            optimizer="sgd",
        )
        scores = functional.score(
            model.params, model.config, adapted.lora, asked, lengths, answers, lengths, np.zeros(97, bool)
        )
        return scores.logprobs[:2].mean()

    return after, jnp.ones((ADAPTERS, steps.rate.shape[1]))


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    model = tiny_model(num_layers=1)
    lora = initial_adapters(model.config, [UPDATE]).lora  # B is zero
    after, rates = objective(model)
    given = lora, jax.tree.map(jnp.ones_like, lora), rates
    program = jax.jit(jax.value_and_grad(after))
    _, gradient = program(given)
    # The initial values (A and B), the rate of each parameter, the rate of each step.
    parts = {
        "A": lambda tree: (_zeros(tree[0]).replace(a=tree[0].a), *_zeros(tree[1:])),
        "B": lambda tree: (_zeros(tree[0]).replace(b=tree[0].b), *_zeros(tree[1:])),
        "rates of parameters": lambda tree: (_zeros(tree[0]), tree[1], _zeros(tree[2])),
        "rates of steps": lambda tree: (*_zeros(tree[:2]), tree[2]),
    }
    for name, part in parts.items():
        slope = part(gradient)
        size = float(optax.tree.norm(slope))
        assert np.isfinite(size) and size > 1e-3, name
        # Along the gradient itself the derivative is its norm, and far above the rounding of float32.
        ahead, behind = (
            float(program(jax.tree.map(lambda x, s, step=step: x + step * s, given, slope))[0])
            for step in (2e-2 / size, -2e-2 / size)
        )
        np.testing.assert_allclose((ahead - behind) / 4e-2, size, rtol=2e-2, err_msg=name)
    assert not np.asarray(gradient[2])[2].any()  # the adapter that takes no step has no rate


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)
