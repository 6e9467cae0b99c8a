"""A real round of ReST-EM improves the edits of held-out tasks, and one on shuffled rewards does not."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from selfadapt import load_model, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.outer import make_outer
from selfadapt.outer.controls import ShuffledRewards
from selfadapt.telemetry.statistics import paired_difference

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
CONTEXTS, HELDOUT = 16, 40

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """The suite compiles without most optimizations; here running takes longer than compiling."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_a_round_teaches_the_policy_to_write_better_edits_and_shuffled_rewards_do_not():
    config = resolve(load_config(QUICKSTART))
    policy = Policy(load_model("tiny"))
    start = State(policy, policy)
    domain, outer, settings = make_domain(config, policy.model), make_outer(config), Settings.of(config)
    after, done = loop.run_round(start, domain, domain.tasks("train", CONTEXTS), outer, settings)
    _, shuffled, _ = ShuffledRewards(outer, seed=2).update((), start, done.baselines, done.outcomes)

    heldout = domain.tasks("heldout", HELDOUT)
    other = dataclasses.replace(settings, edits=1, seed_offset=1000)

    def rewards(state):
        """Returns the rewards of a policy's edits of held-out tasks, applied to the untrained weights."""
        edits = loop.sample(state.policy, domain, heldout, other)
        outcomes = loop.score(start.student, domain, heldout, loop.applied(domain, heldout, edits), other)
        return [outcome.reward for outcome in outcomes]

    before, learned, control = map(rewards, (start, after, shuffled))
    assert paired_difference(learned, before)[1] > 0  # the lower end of the 95% interval over passages
    assert paired_difference(learned, control)[1] > 0
    # Finetuning on any of the edits it sampled makes the policy a little less random, which helps a little.
    assert np.mean(control) - np.mean(before) < 0.5 * (np.mean(learned) - np.mean(before))
