"""What the loop asks of engine, domain and outer update, with stand-ins for all three, so that nothing is compiled."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Adapters, ContextEdit, Edit, Question, Task, Update, loop
from selfadapt.engine.generate.sampling import Generation
from selfadapt.errors import InvalidEdit
from selfadapt.loop import Settings
from selfadapt.models.lora import Lora, Spec
from selfadapt.models.policy import Policy, State
from selfadapt.outer import Report
from selfadapt.types import Rejected

SETTINGS = Settings(
    seed=7,
    edits=2,
    temperature=0.7,
    top_p=0.9,
    edit_tokens=30,
    answer_tokens=5,
    answer_stop=("\n",),
    inner_runs=2,
    at_once=3,
)
TASKS = [Task(f"t{i}", f"context {i}", (Question("a?", ("a",)), Question("b?", ("b",)))) for i in range(2)]


class Domain:
    """Trains on an edit's text; an answer "a" is right."""

    def edit_prompt(self, task):
        return f"prompt of {task.id}"

    def apply(self, task, text):
        if text.startswith("?"):
            raise InvalidEdit(f"{text} is no edit")
        return ContextEdit(text[1:]) if text.startswith("!") else Update([text], seed=10)

    def baseline(self, task):
        return ContextEdit("")

    def questions(self, task, context):
        return [f"{context}{task.id} {question.question}" for question in task.questions]

    def grade(self, tasks, answers):
        assert all(len(texts) == len(task.questions) for task, texts in zip(tasks, answers, strict=True))
        return [[float(text == "a") for text in texts] for texts in answers]


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of the engine; prompts with "a?" are answered "a" and others "b"."""
    record = types.SimpleNamespace(generate=[], adapt=[], status={})

    def answer(prompt):
        return "a" if "a?" in prompt else "b"

    def generate(model, prompts, **options):
        record.generate.append((prompts, options))
        if options.get("return_details"):
            flat = prompts if options["adapters"] is None else prompts[0]
            texts = [
                [Generation(f"edit {i}", (1, i), np.array([-0.5, -1.0], np.float32), "stop") for i in range(2)]
                for _ in flat
            ]
            return texts if options["adapters"] is None else [texts]
        if isinstance(prompts[0], str):
            return [answer(prompt) for prompt in prompts]
        return [[answer(prompt) for prompt in each] for each in prompts]

    def adapt(model, updates, init=None, snapshots=None):
        record.adapt.append((updates, init))
        return types.SimpleNamespace(status=[record.status.get(u.sequences[0], "ok") for u in updates])

    monkeypatch.setattr(loop, "generate", generate)
    monkeypatch.setattr(loop, "adapt", adapt)
    return record


def adapter():
    factors = {"q_proj": jnp.ones((1, 1, 2, 1))}, {"q_proj": jnp.ones((1, 1, 1, 2))}
    return Adapters(Lora(*factors, jnp.ones(1)), (Spec(1, 1.0, ("q_proj",)),))


def test_edits_are_sampled_as_the_settings_say_with_keys_of_their_own_in_each_version(calls):
    for version in (0, 1):
        edits = loop.sample(Policy("model", version), Domain(), TASKS, SETTINGS)
        assert [(edit.task_id, edit.sample) for edit in edits] == [("t0", 0), ("t0", 1), ("t1", 0), ("t1", 1)]
        assert edits[1] == Edit("t0", 1, "prompt of t0", "edit 1", (1, 1), version, (-0.5, -1.0))
    (prompts, first), (_, second) = calls.generate
    assert prompts == ["prompt of t0", "prompt of t1"]
    wanted = dict(max_new_tokens=30, temperature=0.7, top_p=0.9, seed=7, num_samples=2)
    assert {name: first[name] for name in wanted} == wanted
    assert len({*first["ids"], *second["ids"]}) == 4


def test_a_policys_adapter_samples_its_edits(calls):
    policy = Policy("model", 1, adapter())
    edits = loop.sample(policy, Domain(), TASKS, SETTINGS)
    ((prompts, options),) = calls.generate
    assert options["adapters"] is policy.adapter and prompts == [["prompt of t0", "prompt of t1"]]
    assert len(edits) == 4


def test_each_edit_trains_one_adapter_per_inner_run_with_seeds_that_edits_share(calls):
    edits = [Edit("t0", i, "", f"text {i}") for i in range(2)]
    pairs = loop.applied(Domain(), TASKS, edits)
    settings = dataclasses.replace(SETTINGS, seed_offset=100)
    outcomes = loop.score(Policy("model", 3), Domain(), TASKS, pairs, settings)
    ((updates, init),) = calls.adapt
    assert [(u.sequences[0], u.seed) for u in updates] == [
        (f"text {i}", 110 + run) for i in range(2) for run in range(2)
    ]
    assert init is None
    for outcome, edit in zip(outcomes, edits, strict=True):
        assert outcome.edit is edit and outcome.status == "ok" and outcome.policy_version == 3
        assert outcome.verdicts == (1.0, 0.0) * 2 and outcome.reward == 0.5


def test_a_students_adapter_is_where_training_starts(calls):
    pairs = loop.applied(Domain(), TASKS, [Edit("t0", 0, "", "text")])
    loop.score(Policy("model", 1, adapter()), Domain(), TASKS, pairs, SETTINGS)
    ((_, init),) = calls.adapt
    assert len(init) == 2 and float(init.lora.a["q_proj"].sum()) == 4.0


def test_a_failed_run_is_the_status_and_contexts_are_asked_about_without_training(calls):
    calls.status["bad"] = "diverged"
    edits = [Edit("t0", 0, "", "bad"), Edit("t1", 0, "", "!memo "), Edit("t0", 1, "", "good")]
    outcomes = loop.score(Policy("model"), Domain(), TASKS, loop.applied(Domain(), TASKS, edits), SETTINGS)
    assert [outcome.status for outcome in outcomes] == ["diverged", "ok", "ok"]
    assert [len(outcome.answers) for outcome in outcomes] == [4, 2, 4]
    assert calls.generate[-1][0] == ["memo t1 a?", "memo t1 b?"]


def test_an_edit_that_cannot_be_applied_is_scored_as_the_student_as_it_is_and_asked_once_for_each_task(calls):
    edits = [Edit("t0", 0, "", "?x"), Edit("t0", 1, "", "?y"), Edit("t1", 0, "", "good")]
    pairs = loop.applied(Domain(), TASKS, edits)
    assert [what for _, what in pairs] == [Rejected("?x is no edit"), Rejected("?y is no edit"), pairs[2][1]]
    outcomes = loop.score(Policy("model"), Domain(), TASKS, pairs, SETTINGS)
    assert [outcome.status for outcome in outcomes] == ["?x is no edit", "?y is no edit", "ok"]
    assert [outcome.reward for outcome in outcomes] == [0.5] * 3 and outcomes[0].answers == ("a", "b")
    ((updates, _),) = calls.adapt
    assert len(updates) == SETTINGS.inner_runs  # those of the good edit
    assert calls.generate[-1] == (["t0 a?", "t0 b?"], dict(max_new_tokens=5, stop=("\n",)))


def test_a_round_hands_baselines_and_outcomes_to_the_outer_update_and_keeps_its_state(calls):
    class Outer:
        def update(self, pytree, state, baselines, outcomes):
            assert (pytree, state.round) == ("before", 4)
            assert baselines == {"t0": 0.5, "t1": 0.5}
            assert [outcome.edit.text for outcome in outcomes] == ["edit 0", "edit 1"] * 2
            return "after", dataclasses.replace(state, policy=better), Report(metrics={"loss": 1.0})

    policy, better = Policy("model", 4), Policy("better", 5)
    state, done = loop.run_round(State(policy, policy, 4, "before"), Domain(), TASKS, Outer(), SETTINGS)
    assert (state.policy, state.student, state.round, state.outer) == (better, policy, 5, "after")
    assert done.report.metrics == {"loss": 1.0}
    assert [edit.text for edit, _ in done.pairs] == [outcome.edit.text for outcome in done.outcomes]
