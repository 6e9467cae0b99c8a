"""Completed units of work and adapters in training are read back exactly, or computed again if damaged."""

import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from selfadapt import Update, adapt, load_model
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.errors import Preempted
from selfadapt.types import Edit, Outcome
from tests.checkpoint.damage import damage
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    return random_world_model(tmp_path_factory.mktemp("world") / "model")


@pytest.fixture(scope="module")
def model(model_directory):
    return load_model(model_directory)


def units_at(path, damaged=lambda path, reason: None, every_seconds=0.0):
    return DurableUnits(path, every_seconds, damaged)


OUTCOMES = [
    Outcome(Edit("t", 0, "a\ud800 \u2028\n", "\x00", (1, 2), 3), 0.1 + 0.2, ("x", ""), (1 / 3, 1.0), "ok", 2),
    Outcome(Edit("\u00fc", 1, "", ""), math.inf),
]


def test_a_unit_that_was_done_is_found_exactly_as_it_was(tmp_path):
    with units_at(tmp_path) as stored:
        assert stored.round(1).within("score").once("outcomes", lambda: OUTCOMES) == OUTCOMES
    with units_at(tmp_path) as stored:
        assert stored.round(1).within("score").once("outcomes", lambda: pytest.fail("done again")) == OUTCOMES


def test_only_the_units_of_earlier_rounds_are_forgotten(tmp_path):
    with units_at(tmp_path) as stored:
        for number in (0, 1, 2, 10):
            stored.round(number).once("unit", lambda: "old")
        stored.forget(2)
    with units_at(tmp_path) as stored:
        found = {number: stored.round(number).once("unit", lambda: "new") for number in (0, 1, 2, 10)}
    assert found == {0: "new", 1: "new", 2: "old", 10: "old"}


@pytest.mark.parametrize("text", ["", "{", '{"text": "[]", "digest": "0"}', "[1]", "null"])
def test_a_damaged_unit_is_named_and_done_again(tmp_path, text):
    with units_at(tmp_path) as stored:
        stored.once("unit", lambda: [1])
    (tmp_path / "units" / "unit.json").write_text(text)
    named = []
    with units_at(tmp_path, lambda path, reason: named.append((path.name, reason))) as stored:
        assert stored.once("unit", lambda: [2]) == [2]
    ((name, reason),) = named
    assert name == "unit.json" and "computed again" in reason
    with units_at(tmp_path) as stored:
        assert stored.once("unit", lambda: pytest.fail("done again")) == [2]


UPDATES = [Update([f"The {word} is green."], rank=rank, epochs=3) for word, rank in (("sky", 4), ("sea", 2))]


def trained(model):
    return lambda snapshots: adapt(model, UPDATES, snapshots=snapshots)


def same_adapters(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.lora, b.lora)
    assert (a.specs, a.status) == (b.specs, b.status)
    for one, other in zip(a.losses, b.losses, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapters_that_were_trained_are_not_trained_again_and_go_when_their_outcomes_are_recorded(model, tmp_path):
    with units_at(tmp_path) as stored:
        first = stored.within("0").adapters(model, trained(model))
    same_adapters(first, trained(model)(None))
    with units_at(tmp_path) as stored:
        part = stored.within("0")
        same_adapters(part.adapters(model, lambda snapshots: pytest.fail("trained again")), first)
        part.once("outcomes", lambda: [1])
    assert list((tmp_path / "arrays").iterdir()) == []


@pytest.mark.parametrize("how", ["truncated", "no head", "empty"])
def test_damaged_adapters_are_named_and_trained_again(model, tmp_path, how):
    with units_at(tmp_path) as stored:
        first = stored.within("0").adapters(model, trained(model))
    damage(tmp_path / "arrays" / "0.trained", how)
    named = []
    with units_at(tmp_path, lambda path, reason: named.append(path.name)) as stored:
        same_adapters(stored.within("0").adapters(model, trained(model)), first)
    assert named == ["0.trained"]


def test_adapters_in_flight_go_on_where_they_were_and_earlier_where_that_is_damaged(model, tmp_path):
    update = Update(["The sky is green.", "The sea is red."], rank=4, epochs=4)  # 8 training steps
    arrays, named, steps = tmp_path / "run" / "arrays", [], []

    class Watched:
        def __init__(self, snapshots, stop):
            self.inner, self.restore, self.stop = snapshots, snapshots.restore, stop

        def offer(self, name, about, tree):
            self.inner.offer(name, about, tree)
            steps.append(about()["training_steps"])
            if steps[-1] == 4:
                self.inner._store.settle()
                shutil.copytree(arrays, tmp_path / "fourth")
            if steps[-1] == self.stop:
                raise KeyboardInterrupt

    def run(stop=None):
        def go(snapshots):
            return adapt(model, [update], snapshots=Watched(snapshots, stop))

        with units_at(tmp_path / "run", lambda path, reason: named.append(path.name)) as stored:
            return stored.within("0").adapters(model, go)

    with pytest.raises(KeyboardInterrupt):
        run(stop=6)
    (newest,) = arrays.iterdir()
    shutil.copytree(tmp_path / "fourth", arrays, dirs_exist_ok=True)
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        run(stop=7)
    assert steps == [7] and not named
    (newest,) = arrays.iterdir()
    shutil.copytree(tmp_path / "fourth", arrays, dirs_exist_ok=True)
    damage(newest, "truncated")
    steps.clear()
    same_adapters(run(), adapt(model, [update]))
    assert named == [newest.name] and steps == [5, 6, 7, 8]


def test_adapters_in_flight_start_again_where_the_work_is_cut_otherwise(model, tmp_path, monkeypatch):
    monkeypatch.setattr("selfadapt.parallel.distributed.preempted", lambda step: True)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.within("0").adapters(model, trained(model))
    monkeypatch.undo()
    monkeypatch.setattr("selfadapt.engine.memory.STEP_TOKENS", {"cpu": (8, 8)})
    with units_at(tmp_path) as stored:
        same_adapters(stored.within("0").adapters(model, trained(model)), trained(model)(None))


def test_a_preempted_run_says_so_by_an_exception_of_its_own(model, tmp_path, monkeypatch):
    monkeypatch.setattr("selfadapt.parallel.distributed.preempted", lambda step: True)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.once("unit", lambda: 1)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.within("0").adapters(model, trained(model))
    assert any("flight" in path.name for path in (tmp_path / "arrays").iterdir())


MESHES = """
import sys, jax, numpy as np
from selfadapt import Update, adapt, load_model
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.parallel.sharding import make_mesh, to_host
from selfadapt.models.peft import merge
from selfadapt.models.policy import Policy, State

directory, checkpoints = sys.argv[1:]
updates = [Update([f"The {word} is green."], rank=4, epochs=2) for word in ("sky", "sea", "sun")]
stored = DurableUnits(checkpoints, 0, print)
expected = None
for number, sizes in enumerate([(4, 1, 1), (1, 4, 1), (2, 1, 2), None]):
    mesh = None if sizes is None else make_mesh(*sizes)
    model = load_model(directory, mesh=mesh)
    start = Policy(model)
    with Checkpoints(checkpoints, 2, State(start, start)) as rounds:
        state, _ = rounds.restore()
        adapters = stored.within("0").adapters(model, lambda snapshots: adapt(model, updates, snapshots=snapshots))
        if expected is None:
            policy = Policy(merge(model, adapters[0]), 1)
            state = State(policy, policy, 1)
            rounds.save(state, {})
            expected = to_host((state.policy.model.params, adapters[:3].lora))
            stored._store.settle()
            stored = DurableUnits(checkpoints, 0, print)
    assert state.policy.version == 1
    found = to_host((state.policy.model.params, adapters[:3].lora))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for leaf, like in zip(jax.tree.leaves(state.policy.model.params), jax.tree.leaves(model.params)):
        assert leaf.sharding == like.sharding
    adapt(model, updates, init=adapters)
"""


@pytest.mark.slow
def test_a_checkpoint_of_one_mesh_restores_on_another(model_directory, tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-c", MESHES, str(model_directory), str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
