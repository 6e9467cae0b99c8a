"""Checkpoints hold both models and the outer update's state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Update, adapt, merge
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.models.policy import Policy, State
from tests.engine.tiny import tiny_model


@pytest.fixture(scope="module")
def start():
    """A teacher and another student, with an outer state."""
    outer = {"mean": jnp.zeros(()), "rounds": jnp.zeros((), jnp.int32)}
    return State(Policy(tiny_model(seed=0)), Policy(tiny_model(seed=1)), outer=outer)


def changed(policy):
    """Returns a policy whose weights were trained."""
    (adapter,) = [adapt(policy.model, [Update([([1, 2, 3], [0, 1, 1])], epochs=2, learning_rate=0.1)])]
    return Policy(merge(policy.model, adapter), policy.version + 1)


def same(a, b):
    for one, other in zip(jax.tree.leaves(a.model.params), jax.tree.leaves(b.model.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert a.version == b.version


def saved_and_restored(tmp_path, start, state):
    with Checkpoints(tmp_path, 2, start) as checkpoints:
        checkpoints.restore()
        checkpoints.save(state, {"scores": {}})
    with Checkpoints(tmp_path, 2, start) as checkpoints:
        restored, record = checkpoints.restore()
    assert record == {"scores": {}} and restored.round == state.round
    return restored


def test_two_models_and_the_outer_state_survive(start, tmp_path):
    outer = {"mean": jnp.float32(0.25), "rounds": jnp.int32(3)}
    state = State(changed(start.policy), changed(start.student), 3, outer)
    restored = saved_and_restored(tmp_path, start, state)
    same(restored.policy, state.policy)
    same(restored.student, state.student)
    assert restored.student is not restored.policy
    assert {name: float(value) for name, value in restored.outer.items()} == {"mean": 0.25, "rounds": 3.0}


def test_an_unchanged_student_is_the_one_that_the_run_started_with(start, tmp_path):
    state = dataclasses.replace(start, policy=changed(start.policy), round=1)
    restored = saved_and_restored(tmp_path, start, state)
    same(restored.policy, state.policy)
    assert restored.student is start.student


def test_one_model_stays_one_model(tmp_path):
    policy = Policy(tiny_model(seed=0))
    start = State(policy, policy, outer=())
    new = changed(policy)
    restored = saved_and_restored(tmp_path, start, State(new, new, 1, ()))
    same(restored.policy, new)
    assert restored.student is restored.policy


def test_the_float32_master_of_a_bfloat16_policy_survives(tmp_path):
    model = tiny_model(seed=0)
    policy = Policy(model.with_params(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)))
    start = State(policy, policy)
    adapter = adapt(policy.model, [Update([([1, 2, 3], [0, 1, 1])], epochs=2, targets="q_proj")])
    new = Policy(merge(policy.model, adapter, keep_master=True), 1)
    restored = saved_and_restored(tmp_path, start, State(new, new, 1))
    assert restored.policy.model.master["q_proj"].dtype == jnp.float32
    np.testing.assert_array_equal(restored.policy.model.master["q_proj"], new.model.master["q_proj"])


def test_a_policys_adapter_is_restored_with_its_spec(tmp_path):
    policy = Policy(tiny_model(seed=0))
    start = State(policy, policy)
    adapter = adapt(policy.model, [Update([([1, 2, 3], [0, 1, 1])], rank=3, targets="q_proj", epochs=1)])
    state = State(Policy(policy.model, 1, adapter), policy, 1)
    restored = saved_and_restored(tmp_path, start, state)
    assert restored.policy.adapter.specs == adapter.specs and restored.student is policy
    np.testing.assert_array_equal(restored.policy.adapter.lora.a["q_proj"], adapter.lora.a["q_proj"])


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    policy = Policy(tiny_model(seed=0))
    with Checkpoints(tmp_path, 2, State(policy, policy)) as checkpoints:
        for number in range(4):
            checkpoints.save(State(policy, policy, number), {"number": number})
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path, 2, State(policy, policy)) as checkpoints:
        state, record = checkpoints.restore()
    assert state.round == 3 and record == {"number": 3}
