"""ReST-EM trains the policy: on the selected edits, not on their prompts, and so that new edits teach more."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from selfadapt import load_model, log_likelihood, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.outer import make_outer
from selfadapt.outer.controls import ShuffledRewards
from selfadapt.outer.rest_em import sft_sequence
from selfadapt.telemetry.statistics import paired_difference
from selfadapt.types import Edit, Outcome

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
CONTEXTS, HELDOUT = 16, 40


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """The suite compiles without most optimizations; here running takes longer than compiling."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def config():
    return resolve(load_config(QUICKSTART))


@pytest.fixture(scope="module")
def start():
    policy = Policy(load_model("tiny"))
    return State(policy, policy)


@pytest.fixture(scope="module")
def domain(config, start):
    return make_domain(config, start.policy.model)


def heldout_rewards(config, domain, state, start):
    """Returns the rewards of a policy's edits of held-out tasks, applied to the untrained weights."""
    tasks = domain.tasks("heldout", HELDOUT)
    settings = dataclasses.replace(Settings.of(config), edits=1, seed_offset=1000)
    edits = loop.sample(state.policy, domain, tasks, settings)
    outcomes = loop.score(start.student, domain, tasks, loop.applied(domain, tasks, edits), settings)
    return [outcome.reward for outcome in outcomes]


@pytest.fixture(scope="module")
def trained(config, domain, start):
    """One real round: its outcomes, and the states after learning from them with true and with shuffled rewards."""
    outer = make_outer(config)
    tasks = domain.tasks("train", CONTEXTS)
    after, done = loop.run_round(start, domain, tasks, outer, Settings.of(config))
    _, shuffled, _ = ShuffledRewards(outer, seed=2).update((), start, done.baselines, done.outcomes)
    return done, after, shuffled


def logprobs(model, outcomes):
    """Returns the mean log-likelihood per token of the edits given their prompts, and of the prompts."""
    edits = log_likelihood(model, [o.edit.prompt for o in outcomes], [o.edit.text for o in outcomes])
    tokens = [len(o.edit.tokens) for o in outcomes]
    parts = [(o.edit.prompt.split(" ", 1)[0], " " + o.edit.prompt.split(" ", 1)[1]) for o in outcomes]
    prompts = log_likelihood(model, [first for first, _ in parts], [rest for _, rest in parts])
    sizes = [len(model.tokenizer(rest, add_special_tokens=False)["input_ids"]) for _, rest in parts]
    return np.sum(edits) / np.sum(tokens), np.sum(prompts) / np.sum(sizes)


def test_the_m_step_raises_the_likelihood_of_selected_edits_and_not_of_prompts(start, trained):
    done, after, _ = trained
    chosen = [o for o in done.outcomes if (o.edit.task_id, o.edit.sample) in done.report.learned]
    assert 5 < len(chosen) <= CONTEXTS
    (edits_before, prompts_before), (edits, prompts) = (logprobs(s.policy.model, chosen) for s in (start, after))
    assert edits > edits_before + 0.1
    assert prompts < prompts_before + 0.05


def test_a_round_teaches_the_policy_to_write_better_edits_and_shuffled_rewards_do_not(config, domain, start, trained):
    _, after, shuffled = trained
    before, learned, control = (heldout_rewards(config, domain, state, start) for state in (start, after, shuffled))
    assert paired_difference(learned, before)[1] > 0  # the lower end of the 95% interval over passages
    assert paired_difference(learned, control)[1] > 0
    # Finetuning on any of the edits it sampled makes the policy a little less random, which helps a little.
    assert np.mean(control) - np.mean(before) < 0.5 * (np.mean(learned) - np.mean(before))


def test_the_finetuned_model_is_policy_and_student_with_a_new_version(start, trained):
    _, after, _ = trained
    assert after.student is after.policy and after.policy.version == start.policy.version + 1
    changed = np.abs(after.policy.model.params["layers"]["q_proj"] - start.policy.model.params["layers"]["q_proj"])
    assert float(changed.max()) > 1e-3


def test_the_loss_counts_the_tokens_of_the_edit_and_none_of_the_prompt(start):
    model = start.policy.model
    sequence = sft_sequence(model, Edit("t", 0, "The city", " is old.", tokens=(7, 8, 9)))
    prompt = tuple(model.tokenizer("The city")["input_ids"])
    assert sequence.ids == (*prompt, 7, 8, 9)
    assert sequence.mask == (False,) * len(prompt) + (True,) * 3


def test_a_diverged_finetuning_is_an_error_that_names_the_field(config, start):
    outer = make_outer(config)
    outer = dataclasses.replace(outer, training=outer.training.replace(learning_rate=1e6, warmup_steps=0))
    outcomes = [Outcome(Edit("t", 0, "The city", " is old.", tokens=(7, 8, 9)), 1.0)]
    with pytest.raises(ValueError, match=r"round 1.*lower config\.outer\.rest_em\.learning_rate"):
        outer.update((), start, {"t": 0.0}, outcomes)
