"""Full finetuning equals plain training with optax, sequence by sequence, and resumes to identical weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfadapt import Update
from selfadapt.engine.adapt.schedule import optimizer_steps
from selfadapt.engine.policy import finetune
from selfadapt.engine.policy.train import Trainer
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.types import TokenSequence
from tests.engine.tiny import prompts_of, tiny_model

MASKS = [(True,) * 12, (False, True, True) * 3, (True,) * 7, (False,) * 4 + (True,) * 6, (True,) * 5]
SEQUENCES = [
    TokenSequence(tuple(ids), mask) for ids, mask in zip(prompts_of([len(m) for m in MASKS]), MASKS, strict=True)
]
UPDATE = Update(
    SEQUENCES,
    learning_rate=0.01,
    epochs=2,
    batch_size=1,
    gradient_accumulation=2,
    warmup_steps=2,
    weight_decay=0.1,
    max_grad_norm=0.5,
    seed=3,
)
RATES = [0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025]  # 2 steps of warm-up, then linear to zero at step 6


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def finetuned(model):
    return finetune(model, UPDATE)


class Kept:
    """Snapshots in memory that stop the training after some steps."""

    def __init__(self, stop):
        self.stop, self.saved = stop, None

    def restore(self, name, like):
        return self.saved

    def offer(self, name, about, tree):
        self.saved = about(), jax.tree.map(jnp.copy, tree)
        self.stop -= 1
        if not self.stop:
            raise KeyboardInterrupt


def test_all_weights_equal_those_of_plain_training_with_optax(model, finetuned):
    @jax.jit
    def gradient(params, tokens, mask):
        def total(params):
            hidden = decoder.forward(params, model.config, tokens[None, None])[0, 0, :-1]
            logprobs = jax.nn.log_softmax(hidden @ params["embed_tokens"].T)
            return -(logprobs[jnp.arange(11), tokens[1:]] * mask[1:]).sum()

        return jax.value_and_grad(total)(params)

    def padded(values):
        return jnp.zeros(12).at[: len(values)].set(jnp.asarray(values)).astype(jnp.asarray(values).dtype)

    params, losses = model.params, []
    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.0, weight_decay=0.1)
    state = optimizer.init(params)
    for batch, rate in zip(optimizer_steps(UPDATE, 5), RATES, strict=True):
        found = [gradient(params, padded(SEQUENCES[i].ids), padded(SEQUENCES[i].mask)) for i in batch]
        targets = sum(sum(SEQUENCES[i].mask[1:]) for i in batch)
        slope = optax.tree.scale(1 / targets, jax.tree.map(lambda *leaves: sum(leaves), *(each for _, each in found)))
        slope = optax.tree.scale(jnp.minimum(1, 0.5 / optax.tree.norm(slope)), slope)
        state.hyperparams["learning_rate"] = rate
        changes, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, changes)
        losses.append(float(sum(loss for loss, _ in found)) / targets)
    assert finetuned.status == "ok"
    np.testing.assert_allclose(finetuned.losses, losses, rtol=1e-4)
    for ours, theirs, start in zip(*map(jax.tree.leaves, (finetuned.model.params, params, model.params)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)  # Adam divides by gradients near zero
        assert np.abs(theirs - start).max() > 0.005
    assert optax.tree.norm(model.params) == optax.tree.norm(tiny_model(num_layers=1).params)  # the base is unchanged


def test_interrupted_training_resumes_to_identical_weights(model, finetuned, monkeypatch):
    kept, real, taken = Kept(4), Trainer.step, []
    with pytest.raises(KeyboardInterrupt):
        finetune(model, UPDATE, snapshots=kept)
    monkeypatch.setattr(Trainer, "step", lambda *arguments, **options: taken.append(1) or real(*arguments, **options))
    again = finetune(model, UPDATE, snapshots=kept)
    assert len(taken) == 2
    for ours, theirs in zip(jax.tree.leaves(again.model.params), jax.tree.leaves(finetuned.model.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.losses, finetuned.losses)


def test_a_bfloat16_model_stays_one_and_keeps_no_float32_copies(model, finetuned):
    rounded = model.with_params(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params))
    found = finetune(rounded, UPDATE.replace(epochs=1)).model
    assert found.dtype == jnp.bfloat16 and found.master is None


def test_training_that_fails_leaves_the_model_as_it_was_with_the_reason(model):
    for changes, reason in [
        (dict(learning_rate=1e30, warmup_steps=0), "diverged: "),
        (dict(learning_rate=3.0, warmup_steps=0, max_grad_norm=None), "diverged: the loss went from"),
        (dict(sequences=()), "empty: no sequence has a token to learn"),
        (dict(sequences=[TokenSequence((5,) * 300)]), "invalid: sequence 0 has 300 tokens"),
    ]:
        found = finetune(model, UPDATE.replace(**changes))
        assert found.status.startswith(reason) and found.model is model


@pytest.mark.parametrize("penalty", [{"orthogonality": 0.5}, {"divergence": 1.0, "anchors": [((5, 6), (True, True))]}])
def test_a_penalty_is_refused_and_not_ignored(model, penalty):
    field = next(iter(penalty))
    with pytest.raises(
        InvalidValueError, match=rf"Update\.{field} is .*only the training of adapters has; set it to 0"
    ):
        finetune(model, UPDATE.replace(**penalty))


def test_sequences_that_hide_tokens_are_refused(model):
    hidden = TokenSequence((5, 6, 7), attention=(True, True, False))
    with pytest.raises(InvalidValueError, match="`attention`, which the training of all weights cannot apply"):
        finetune(model, UPDATE.replace(sequences=[hidden]))
