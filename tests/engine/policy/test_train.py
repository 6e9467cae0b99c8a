"""Statistics and gradients of a policy equal those of a plain implementation with dense weights, one text at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfadapt import Update
from selfadapt.engine import memory
from selfadapt.engine.policy import Step, Trainable, Trained, Trainer, Written
from selfadapt.engine.policy.programs import initial_optimizer
from selfadapt.errors import InvalidValueError, OutOfMemoryError
from selfadapt.models import decoder
from selfadapt.models.policy import Policy
from selfadapt.outer.losses import PolicyLoss
from selfadapt.outer.ppo import ValueLoss
from tests.engine.tiny import random_adapters, tiny_model

TRAINING = Update((), rank=3, alpha=6, targets="q_proj,v_proj,down_proj", optimizer=optax.sgd(1.0))
LOSS = PolicyLoss((0.2, 0.3), kl=0.5, entropy=0.1)
SIZES = [(4, 8), (9, 3), (5, 7), (11, 1), (2, 10)]  # of prompts and of what was written
WEIGHTS = {0: 0.02, 1: 0.1, 2: 0.05, 3: 0.03, 4: 0.07}
HEAD = {"kernel": jnp.linspace(-0.2, 0.3, 32), "bias": jnp.float32(0.1)}
TOKENS = np.random.default_rng(0).integers(3, 97, (5, 12))
WRITTEN = [Written(tuple(row[:n].tolist()), tuple(row[n:].tolist())) for row, (n, _) in zip(TOKENS, SIZES, strict=True)]


@pytest.fixture(scope="module")
def policy():
    """A policy with an adapter that changes it a lot."""
    model = tiny_model(num_layers=1)
    return Policy(model, 0, random_adapters(model.config, 1))


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(1)
    each = {name: [-np.abs(3 + generator.normal(size=n)) for _, n in SIZES] for name in ("old", "reference")}
    return each | {"advantage": [1.0, -0.5, 2.0, 0.3, -1.0]}


def dense(policy, weights):
    """Returns the policy's parameters with the adapter multiplied out."""
    layers = dict(policy.model.params["layers"])
    for name in weights["a"]:
        layers[name] = layers[name] + jnp.einsum("lir,lro->lio", weights["a"][name][:, 0], weights["b"][name][:, 0])
    return {**policy.model.params, "layers": layers}


@functools.partial(jax.jit, static_argnums=1)
def plain(params, config):
    """Returns log-probabilities, entropies and last hidden states before each token but the first, `[texts, 11]`."""

    def one(tokens):
        hidden = decoder.forward(params, config, tokens[None, None])[0, 0, :-1]
        logprobs = jax.nn.log_softmax(hidden @ params["embed_tokens"].T)
        return logprobs[jnp.arange(11), tokens[1:]], -(jnp.exp(logprobs) * logprobs).sum(-1), hidden

    return jax.vmap(one)(jnp.asarray(TOKENS))


def plain_loss(params, config, data):
    """Returns GRPO's loss with a divergence and an entropy bonus, written out for each text."""
    total = 0.0
    logprobs, entropy, _ = plain(params, config)
    for index, (prompt, _) in enumerate(SIZES):
        old, reference, advantage = (jnp.asarray(data[name][index]) for name in ("old", "reference", "advantage"))
        own = logprobs[index, prompt - 1 :]
        ratio = jnp.exp(own - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.3) * advantage)
        divergence = jnp.exp(reference - own) - (reference - own) - 1
        total += WEIGHTS[index] * (-gain + 0.5 * divergence - 0.1 * entropy[index, prompt - 1 :]).sum()
    return total


def start(policy, head=None, kind="lora"):
    trainable = Trainable.of(policy, TRAINING, kind)
    trained = Trained(trainable.weights(policy, TRAINING), head)
    return trainable, trained


def stepped(policy, data, kind="lora", **changes):
    """Returns the gradient that a step on all texts computes, its numbers, and the trainer."""
    trainable, trained = start(policy, kind=kind)
    state = initial_optimizer(trained, trainable=trainable, optimizer=TRAINING.optimizer)
    trainer = Trainer(policy.model, trainable, WRITTEN, 8)
    step = dataclasses.replace(Step([(index,) for index in range(5)], WEIGHTS, 1.0), **changes)
    after, _, numbers = trainer.step(trained, state, data, step, loss=LOSS, optimizer=TRAINING.optimizer)
    return jax.tree.map(jnp.subtract, trained.policy, after.policy), numbers


@pytest.fixture(scope="module")
def expected(policy, data):
    """The loss of the plain implementation, and its gradient with respect to the dense weights."""
    params = dense(policy, start(policy)[1].policy)
    return jax.jit(jax.value_and_grad(lambda params: plain_loss(params, policy.model.config, data)))(params)


@pytest.fixture(scope="module")
def found(policy, data):
    return stepped(policy, data)


def compare(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * float(np.abs(theirs).max()))


def test_statistics_of_each_token_equal_those_of_a_plain_forward_pass(policy):
    trainable, trained = start(policy, HEAD)
    measured = Trainer(policy.model, trainable, WRITTEN, 8).measure(trained)
    logprobs, entropy, hidden = map(np.asarray, plain(dense(policy, trained.policy), policy.model.config))
    values = hidden / np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True)) @ np.asarray(HEAD["kernel"]) + 0.1
    for index, (own, (prompt, _)) in enumerate(zip(measured, SIZES, strict=True)):
        np.testing.assert_allclose(own.logprobs, logprobs[index, prompt - 1 :], atol=1e-4)
        np.testing.assert_allclose(own.entropy, entropy[index, prompt - 1 :], atol=1e-4)
        np.testing.assert_allclose(own.values, values[index, prompt - 1 :], atol=1e-4)


def test_the_gradient_of_an_adapter_equals_that_of_a_plain_implementation(policy, found, expected):
    gradient, numbers = found
    loss, dense_slope = expected
    factors, slope = start(policy)[1].policy, {"a": {}, "b": {}}
    for name, a in factors["a"].items():  # of W + A B
        outer = dense_slope["layers"][name][:, None]
        slope["a"][name] = outer @ factors["b"][name].swapaxes(-1, -2)
        slope["b"][name] = a.swapaxes(-1, -2) @ outer
    compare(gradient, slope)
    assert numbers["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert numbers["policy_norm"] == pytest.approx(float(optax.tree.norm(slope)), rel=1e-4)
    assert numbers["tokens"] == sum(count for _, count in SIZES)


def test_micro_batches_add_up_to_the_gradient_of_one_batch(policy, data, found, monkeypatch):
    monkeypatch.setitem(memory.STEP_TOKENS, "cpu", (0, 16))  # one text in each
    gradient, numbers = stepped(policy, data)
    compare(gradient, found[0])
    assert numbers == pytest.approx(found[1], rel=1e-4)


def test_a_gradient_is_clipped_to_the_norm_that_is_asked_for(policy, data, found):
    gradient, numbers = stepped(policy, data, max_grad_norm=0.5)
    assert numbers["policy_norm"] > 0.5
    assert float(optax.tree.norm(gradient)) == pytest.approx(0.5, rel=1e-3)
    compare(gradient, jax.tree.map(lambda leaf: leaf * 0.5 / numbers["policy_norm"], found[0]))


def test_the_value_head_learns_from_its_error_and_the_policy_does_not(policy):
    trainable, trained = start(policy, HEAD)
    state = initial_optimizer(trained, trainable=trainable, optimizer=TRAINING.optimizer)
    data = {"advantage": [0.0] * 5, "old": [0.0] * 5, "values": [0.0] * 5, "returns": [2.0] * 5}
    step = Step([(index,) for index in range(5)], WEIGHTS, 1.0)
    loss = ValueLoss(PolicyLoss((0.2, 0.2)), clip=100.0)
    after, _, numbers = Trainer(policy.model, trainable, WRITTEN, 8).step(
        trained, state, data, step, loss=loss, optimizer=TRAINING.optimizer
    )
    *_, hidden = map(np.asarray, plain(dense(policy, trained.policy), policy.model.config))
    features = hidden / np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True))
    errors = features @ np.asarray(HEAD["kernel"]) + 0.1 - 2.0
    for index, (prompt, _) in enumerate(SIZES):
        errors[index] *= WEIGHTS[index] * (np.arange(11) >= prompt - 1)
    np.testing.assert_allclose(
        HEAD["kernel"] - after.value["kernel"], np.einsum("nt,ntd->d", errors, features), atol=1e-4
    )
    assert float(HEAD["bias"] - after.value["bias"]) == pytest.approx(errors.sum(), rel=1e-4)
    assert numbers["policy_norm"] == 0


def test_all_weights_are_trained_by_their_gradient(policy, data, expected):
    merged = Policy(policy.model.with_params(dense(policy, start(policy)[1].policy)))
    compare(stepped(merged, data, kind="all")[0], expected[1])


def test_small_changes_of_all_bfloat16_weights_add_up():
    model = tiny_model(num_layers=1)
    old = Policy(model.with_params(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)))
    trainable = Trainable.of(old, TRAINING, "all")
    for _ in range(2):
        weights = trainable.weights(old, TRAINING)
        old = trainable.policy(old, jax.tree.map(lambda leaf: leaf * (1 + 2**-10), weights))
    assert old.version == 2 and old.model.dtype == jnp.bfloat16
    for name in ("embed_tokens", "norm"):
        exact = model.params[name].astype(jnp.bfloat16).astype(jnp.float32) * (1 + 2**-10) ** 2
        np.testing.assert_allclose(old.model.master[name], exact, rtol=1e-6)
        np.testing.assert_array_equal(old.model.params[name], exact.astype(jnp.bfloat16))


def test_what_cannot_be_trained_is_an_error(policy, monkeypatch):
    with pytest.raises(InvalidValueError, match="no projection is called 'x_proj'"):
        Trainable.of(Policy(policy.model), TRAINING.replace(targets="x_proj"), "lora")
    with pytest.raises(InvalidValueError, match="the policy has an adapter; merge it"):
        Trainable.of(policy, TRAINING, "all")
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match="one text of 16 tokens"):
        Trainer(policy.model, start(policy)[0], WRITTEN, 8)
