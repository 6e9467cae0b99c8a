"""ReST-EM trains the policy on the selected edits, and not on their prompts."""

import dataclasses
import pathlib

import numpy as np
import pytest

from selfadapt import load_model, log_likelihood
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.models.policy import Policy, State
from selfadapt.outer import make_outer
from selfadapt.outer.rest_em import sft_sequence
from selfadapt.types import Edit, Outcome

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"


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


@pytest.fixture(scope="module")
def trained(config, domain, start):
    """The outcomes of a good and a bad edit for each task, and the state after learning from them."""
    outcomes = []
    for task in domain.tasks("train", 8):
        for sample, (text, reward) in enumerate([("It is old.", 0.0), (domain.oracle(task), 1.0)]):
            tokens = tuple(start.policy.model.tokenizer(text, add_special_tokens=False)["input_ids"])
            outcomes.append(Outcome(Edit(task.id, sample, domain.edit_prompt(task), text, tokens), reward))
    _, after, report = make_outer(config).update(
        (), start, {outcome.edit.task_id: 0.5 for outcome in outcomes}, outcomes
    )
    return outcomes, after, report


def logprobs(model, outcomes):
    """Returns the mean log-likelihood per token of the edits given their prompts, and of the prompts."""
    edits = log_likelihood(model, [o.edit.prompt for o in outcomes], [o.edit.text for o in outcomes])
    tokens = [len(o.edit.tokens) for o in outcomes]
    parts = [(o.edit.prompt.split(" ", 1)[0], " " + o.edit.prompt.split(" ", 1)[1]) for o in outcomes]
    prompts = log_likelihood(model, [first for first, _ in parts], [rest for _, rest in parts])
    sizes = [len(model.tokenizer(rest, add_special_tokens=False)["input_ids"]) for _, rest in parts]
    return np.sum(edits) / np.sum(tokens), np.sum(prompts) / np.sum(sizes)


def test_the_m_step_raises_the_likelihood_of_selected_edits_and_not_of_prompts(start, trained):
    outcomes, after, report = trained
    assert report.learned == {(outcome.edit.task_id, 1) for outcome in outcomes}
    bad, good = outcomes[::2], outcomes[1::2]
    (edits_before, prompts_before), (edits, prompts) = (logprobs(s.policy.model, good) for s in (start, after))
    assert edits > edits_before + 0.05
    assert prompts < prompts_before + 0.05
    assert logprobs(after.policy.model, bad)[0] < logprobs(start.policy.model, bad)[0] + 0.05


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
