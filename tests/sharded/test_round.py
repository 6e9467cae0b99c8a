"""A round of ReST-EM on eight devices equals that of one device: edits, verdicts, the new policy."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from selfadapt import load_model, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.models.policy import Policy, State
from selfadapt.outer import make_outer
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    "preset": "tiny",
    "inner.epochs": "1",
    "domain.split": "document",  # few shapes, and so few programs to compile
    "domain.max_segments": "1",
    "contexts": "3",
    "edits": "3",
    "sampling.max_new_tokens": "24",
    "outer.rest_em.select": "best",
    "outer.rest_em.epochs": "2",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return random_world_model(tmp_path_factory.mktemp("world") / "model")


def a_round(directory, mesh):
    config = resolve(load_config(ROOT / "configs" / "quickstart.py", SMALL | {"model": str(directory)}))
    model = load_model(directory, mesh=mesh)
    domain = make_domain(config, model)
    policy = Policy(model)
    tasks = domain.tasks("train", 3)
    return loop.run_round(State(policy, policy), domain, tasks, make_outer(config), loop.Settings.of(config))


@pytest.fixture(scope="module")
def one_device(directory):
    return a_round(directory, None)


# Each axis alone is in test_programs.py; a round takes half a minute to compile.
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 2, 2)], indirect=True, ids=["2x2x2"])
def test_a_round_equals_that_of_one_device(directory, mesh, one_device):
    (state, ours), (expected, theirs) = a_round(directory, mesh), one_device
    assert ours.baselines == theirs.baselines
    for (mine, _), (other, _) in zip(ours.pairs, theirs.pairs, strict=True):
        assert dataclasses.replace(mine, logprobs=()) == dataclasses.replace(other, logprobs=())
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)  # sums in another order
    assert [outcome.answers for outcome in ours.outcomes] == [outcome.answers for outcome in theirs.outcomes]
    assert [outcome.verdicts for outcome in ours.outcomes] == [outcome.verdicts for outcome in theirs.outcomes]
    assert ours.report.learned == theirs.report.learned
    for name, value in theirs.report.metrics.items():
        np.testing.assert_allclose(ours.report.metrics[name], value, rtol=1e-4)
    assert state.policy.version == expected.policy.version == 1
    before = load_model(directory).params
    for new, same, old in zip(
        *map(jax.tree.leaves, (state.policy.model.params, expected.policy.model.params, before)), strict=True
    ):
        # Adam turns differences of rounding into parts of a step where a gradient is nearly zero; against the whole
        # change of the weights they are small.
        change = np.linalg.norm(np.asarray(same) - np.asarray(old))
        assert np.linalg.norm(np.asarray(new) - np.asarray(same)) <= 0.01 * change + 1e-7
