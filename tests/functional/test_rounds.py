"""A round's policy gradient is a step of the `Trainer` on the same edits and rewards, and rounds can be scanned."""

import jax
import numpy as np
import pytest

from selfadapt import Update, functional
from selfadapt.engine.adapt.optimizers import optimizer_of
from selfadapt.engine.policy import Step, Trainable, Trained, Trainer, Written
from selfadapt.engine.policy.programs import initial_optimizer
from selfadapt.errors import InvalidValueError
from selfadapt.functional import Contexts, Vocabulary
from selfadapt.functional.encoding import padded
from selfadapt.models.policy import Policy
from selfadapt.outer.losses import PolicyLoss
from selfadapt.outer.rloo import leave_one_out
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

CONTEXTS, SAMPLES, ROUNDS = 2, 3, 2
INNER = Update((), rank=2, alpha=4, targets="q_proj", epochs=2, learning_rate=5e-3, batch_size=4)
TRAINING = Update(
    (), learning_rate=0.5, optimizer="sgd", max_grad_norm=1e-3
)  # the gradient, so that it can be compared


@pytest.fixture(scope="module")
def given():
    """A policy with an adapter that changes it a lot, and the arguments of its rounds, by round."""
    model = tiny_model(num_layers=1, eos_token_ids=(5, 11, 23, 40))
    shapes = {"prompts": [5, 9], "prefixes": [2, 3], "passages": [14, 9]}
    texts = {name: padded(prompts_of(lengths * ROUNDS, seed)) for seed, (name, lengths) in enumerate(shapes.items())}
    for seed, (name, length) in enumerate((("questions", 4), ("answers", 2))):
        texts[name] = padded(prompts_of([length] * CONTEXTS * ROUNDS * 2, seed), (CONTEXTS * ROUNDS, 2))
    contexts = jax.tree.map(lambda leaf: leaf.reshape(ROUNDS, CONTEXTS, *leaf.shape[1:]), Contexts(**texts))
    names = [[f"edit {n} {c}" for c in range(CONTEXTS)] for n in range(ROUNDS)]
    keys = np.stack([functional.sample_keys(each, 0, SAMPLES) for each in names])
    return Policy(model, 0, random_adapters(model.config, 1)), contexts, keys


@pytest.fixture(scope="module")
def rounds(given):
    """The state before, and what the scanned rounds return."""
    policy, contexts, keys = given
    state, outer = functional.writer(policy, TRAINING)
    model, tokens = policy.model, np.arange(97)
    vocabulary = Vocabulary(np.where(tokens % 8, 0, 2).astype(np.int8), tokens % 4 == 0, np.zeros(0, np.int32))
    inner = functional.inner_update(model.config, INNER, 3)
    options = dict(inner=inner, outer=outer, new_tokens=10, line_tokens=6)

    @jax.jit
    def program(params, state, contexts, keys):
        def one(state, inputs):
            state, *found = functional.outer_round(params, state, inputs[0], vocabulary, inputs[1], **options)
            return state, (found, state.trained)

        return jax.lax.scan(one, state, (contexts, keys))

    return state, outer, program(model.params, state, contexts, keys)


@pytest.mark.slow
def test_a_round_is_a_step_of_the_trainer_on_its_edits(given, rounds):
    policy, contexts, _ = given
    _, _, (_, ((edits, rewards, metrics), trained)) = rounds
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), (edits, rewards.rewards, trained, metrics))
    edits, rewards, trained, metrics = first
    written, old, advantages = [], [], []
    for c in range(CONTEXTS):
        prompt = contexts.prompts.tokens[0, c, : contexts.prompts.lengths[0, c]]
        advantages += leave_one_out(rewards[c].astype(float)).tolist()
        for s in range(SAMPLES):
            length = edits.lengths[c, s]
            written.append(Written(tuple(prompt.tolist()), tuple(edits.tokens[c, s, :length].tolist())))
            old.append(edits.logprobs[c, s, :length])
    total = sum(len(text.tokens) for text in written)
    step = Step([(k,) for k in range(len(written))], dict.fromkeys(range(len(written)), 1 / total), 0.5, 0.0, 1e-3)
    trainable = Trainable.of(policy, TRAINING, "lora")
    before = Trained(trainable.weights(policy, TRAINING))
    moments = initial_optimizer(before, trainable=trainable, optimizer=optimizer_of(TRAINING))
    data = {"advantage": advantages, "old": old}
    after, _, numbers = Trainer(policy.model, trainable, written, len(written)).step(
        before, moments, data, step, loss=PolicyLoss(), optimizer=optimizer_of(TRAINING)
    )
    assert numbers["policy_norm"] > 1e-2  # and is clipped
    np.testing.assert_allclose(metrics["gradient_norm"], numbers["policy_norm"], rtol=1e-3)
    np.testing.assert_allclose(metrics["reward"], rewards.mean(), rtol=1e-6)
    for ours, theirs, start in zip(*map(jax.tree.leaves, (trained, after, before)), strict=True):
        np.testing.assert_allclose(ours - start, np.asarray(theirs) - start, atol=1e-6)
    changes = [
        np.abs(np.asarray(new) - old).max() for new, old in zip(*map(jax.tree.leaves, (trained, before)), strict=True)
    ]
    assert max(changes) > 1e-5


@pytest.mark.slow
def test_the_next_round_samples_from_the_new_policy(given, rounds):
    policy, contexts, keys = given
    _, outer, (state, ((edits, _, _), trained)) = rounds
    assert int(state.rounds) == ROUNDS
    first = jax.tree.map(lambda leaf: leaf[0], trained)
    adapter = outer.trainable.policy(policy, first.policy).adapter
    prompts = contexts.prompts
    found = functional.sample(
        policy.model.params,
        policy.model.config,
        prompts.tokens[1],
        prompts.lengths[1],
        keys[1],
        new_tokens=10,
        lora=adapter.lora,
    )
    np.testing.assert_array_equal(found.tokens, edits.tokens[1])
    np.testing.assert_allclose(found.logprobs, edits.logprobs[1], atol=1e-5)


def test_a_round_that_cannot_compare_its_edits_is_an_error(given):
    policy, contexts, keys = given
    state, outer = functional.writer(policy, TRAINING, steps=3)
    inner = functional.inner_update(policy.model.config, INNER, 3)
    arguments = (policy.model.params, state, jax.tree.map(lambda leaf: leaf[0], contexts), None)
    with pytest.raises(InvalidValueError, match="Outer.steps is 3 .* for 2 contexts with 3 edits"):
        functional.outer_round(*arguments, keys[0], inner, outer=outer, new_tokens=10, line_tokens=6)
    with pytest.raises(InvalidValueError, match="'leave_one_out' needs two edits"):
        one = functional.writer(policy, TRAINING)[1]
        functional.outer_round(*arguments, keys[0][:, :1], inner, outer=one, new_tokens=10, line_tokens=6)
    with pytest.raises(InvalidValueError, match="Outer.baseline is 'value'"):
        functional.writer(policy, TRAINING, baseline="value")
