"""A step of a policy's training on eight devices equals that of one device."""

import jax
import numpy as np
import optax
import pytest

from selfadapt import Update
from selfadapt.engine.policy import Step, Trainable, Trained, Trainer, Written
from selfadapt.engine.policy.programs import initial_optimizer
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.outer.losses import PolicyLoss
from selfadapt.parallel.sharding import make_mesh
from tests.engine.tiny import tiny_model

# The gradient with a momentum; Adam would turn differences of rounding into steps.
TRAINING = Update((), rank=4, alpha=8, targets="q_proj,down_proj", optimizer=optax.sgd(1.0, momentum=0.9))
SIZES = [(4, 8), (9, 3), (5, 13), (11, 7), (2, 10)]


def stepped(model, kind):
    """Returns what a step changes, the optimizer's state, and numbers."""
    generator = np.random.default_rng(0)
    written = [Written(*(tuple(generator.integers(3, 97, n).tolist()) for n in sizes)) for sizes in SIZES]
    data = {"advantage": [1.0, -0.5, 2.0, 0.3, -1.0], "old": [np.full(n, -4.0) for _, n in SIZES]}
    policy = Policy(model)
    trainable = Trainable.of(policy, TRAINING, kind)
    trained = Trained(trainable.weights(policy, TRAINING))
    with jax.set_mesh(model.mesh) if model.mesh else jax.default_matmul_precision("highest"):
        state = initial_optimizer(trained, trainable=trainable, optimizer=TRAINING.optimizer)
    trainer = Trainer(model, trainable, written, 8)
    step = Step([(index,) for index in range(5)], dict.fromkeys(range(5), 0.1), 1.0)
    after, state, numbers = trainer.step(
        trained, state, data, step, loss=PolicyLoss((0.2, 0.2), entropy=0.1), optimizer=TRAINING.optimizer
    )
    return trained.policy, after.policy, state, numbers


@pytest.mark.parametrize("kind", ["lora", pytest.param("all", marks=pytest.mark.slow)])
def test_a_step_equals_that_of_one_device(kind):
    plain, mesh = tiny_model(num_layers=1), make_mesh(2, 2, 2)
    model = Model(plain.config, Model.random(plain.config, mesh=mesh).params, mesh=mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, model.params)
    model.params = jax.tree.map(jax.device_put, plain.params, shardings)
    _, expected, _, numbers = stepped(plain, kind)
    start, found, state, ours = stepped(model, kind)
    assert ours == pytest.approx(numbers, rel=1e-4)
    for new, same in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(new), np.asarray(same), atol=1e-4)
    # Weights, and the momentum that belongs to each, are sharded in one way.
    (momentum,) = (
        tree for tree in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Trained)) if isinstance(tree, Trained)
    )
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
    for weight, old, moment in zip(*map(jax.tree.leaves, (found, start, momentum.policy)), strict=True):
        assert weight.sharding.is_equivalent_to(old.sharding, weight.ndim)
        assert moment.sharding.is_equivalent_to(old.sharding, weight.ndim)
