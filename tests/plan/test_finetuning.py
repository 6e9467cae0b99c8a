"""The plan of a full finetuning has the programs that `finetune` runs, with the memory of their arguments."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Update
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.engine import flops, memory
from selfadapt.engine.policy import finetune, programs
from selfadapt.errors import OutOfMemoryError
from selfadapt.models.model import Model
from selfadapt.parallel import chips
from selfadapt.plan.costs import cost
from selfadapt.plan.finetuning import full_finetuning
from selfadapt.plan.programs import abstract_model
from selfadapt.plan.round import Round
from selfadapt.plan.steps import Machine
from selfadapt.plan.topology import Topology
from selfadapt.plan.workload import Assumed, workload
from selfadapt.types import TokenSequence
from tests.engine.tiny import prompts_of, tiny_model

CHIP = chips.Chip("test chip", 2e11, 1e11, 2**33, 1e10, 1e9)
MACHINE = Machine(None, 2**30)
UPDATE = Update(
    [TokenSequence(tuple(ids)) for ids in prompts_of([30, 9, 12, 28, 10])], batch_size=3, epochs=2, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


def planned(model, dtype="float32", machine=MACHINE, held=0):
    return list(full_finetuning("improve", UPDATE, abstract_model(model, machine, dtype), machine, held))


def test_every_micro_batch_of_a_run_is_planned(model, monkeypatch):
    monkeypatch.setitem(memory.STEP_TOKENS, "cpu", (0, 64))  # several micro-batches of a step
    real, seen = programs.gradient, collections.Counter()

    def counted(trained, frozen, rows, *arguments, **options):
        seen[rows.tokens.shape] += 1
        return real(trained, frozen, rows, *arguments, **options)

    monkeypatch.setattr(programs, "gradient", counted)
    assert finetune(model, UPDATE).status == "ok"
    *gradients, last = planned(model)
    assert {step.name: step.runs for step in gradients} == {
        f"improve all weights {rows}x{time}": count for (rows, time), count in seen.items()
    }
    assert len(seen) > 1 and last.runs == 4
    assert sum(step.runs * step.tokens for step in gradients) == 2 * (30 + 9 + 12 + 28 + 10)


def test_costs_are_those_of_float32_weights_gradients_and_moments(model):
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    topology = Topology("local", CHIP, tuple(jax.local_devices()[:1]), measured=True)
    first, *_, last = planned(model, "bfloat16", held=100)
    gradient, step = (cost(each, MACHINE, topology, "bfloat16") for each in (first, last))
    assert gradient.fits and gradient.memory["weights"] == (4 + 2) * count + 100
    assert gradient.memory["optimizer"] == pytest.approx((4 + 8) * count, abs=64)  # the total, and Adam's moments
    assert step.memory["weights"] == gradient.memory["weights"]
    assert step.memory["temporaries"] >= 8 * count  # new moments; the new weights are written over the gradient
    lengths = np.full(gradient.padded // 32, 32)  # of rows, padding included
    expected = flops.of_policy(model.config, None, lengths.tolist(), backward=True)
    assert gradient.flops == pytest.approx(expected, rel=0.35)  # attention over whole rows, not half of them
    assert planned(model)[0].held["weights"] == 0  # a float32 model's parameters are those that are trained


def test_a_finetuning_that_does_not_fit_is_an_error_before_anything_is_compiled(model):
    with pytest.raises(OutOfMemoryError, match="one text of 32 tokens"):
        planned(model, machine=Machine(None, 100_000))


def test_an_outer_update_of_all_weights_is_planned_as_a_full_finetuning():
    config = resolve(load_config("quickstart", {"outer.name": "grpo", "outer.grpo.train": "all", "contexts": "4"}))
    found = tiny_model(max_position_embeddings=512)
    bare = Model(dataclasses.replace(found.config), {}, raw_config={}, name="bare")
    machine = Machine(None, 2**33)
    work = workload(config, bare, Assumed(passage=24, edit=30, longest=40, line=10, questions=2, question=12))
    steps = list(Round(config, abstract_model(bare, machine, "float32"), machine, work).improving())
    assert [step.name.startswith("improve all weights") for step in steps] == [True] * len(steps)
    assert steps[-1].runs == 2 * 2 and steps[0].inputs["weights"].policy["norm"].dtype == jnp.float32
