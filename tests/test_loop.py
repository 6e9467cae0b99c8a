"""What the loop asks of engine, domain and outer update, with stand-ins for all three, so that nothing is compiled."""

import contextlib
import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Adapters, ContextEdit, ContextUpdate, Edit, Question, Task, Update, loop
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.defaults import experiment, resolve
from selfadapt.engine.generate.sampling import Generation
from selfadapt.errors import InvalidEdit, UserError
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
        assert outcome.verdicts == (1.0, 0.0) * 2 and outcome.reward == 0.5 and outcome.runs == (0.5, 0.5)


def test_a_students_adapter_is_where_training_starts(calls):
    pairs = loop.applied(Domain(), TASKS, [Edit("t0", 0, "", "text")])
    loop.score(Policy("model", 1, adapter()), Domain(), TASKS, pairs, SETTINGS)
    ((_, init),) = calls.adapt
    assert len(init) == 2 and float(init.lora.a["q_proj"].sum()) == 4.0


class Both(Domain):
    """The same, with edits of which one half is trained on and the other is the context."""

    def apply(self, task, text):
        context, _, lines = text.rpartition("&")
        return ContextUpdate.of(super().apply(task, lines), context) if context else super().apply(task, text)


def test_an_edit_of_both_kinds_is_trained_with_the_others_and_asked_with_its_context(calls):
    edits = [Edit("t0", 0, "", "lines"), Edit("t0", 1, "", "memo &more"), Edit("t1", 0, "", "!note ")]
    outcomes = loop.score(Policy("model"), Both(), TASKS, loop.applied(Both(), TASKS, edits), SETTINGS)
    ((updates, _),) = calls.adapt
    assert [(update.sequences, update.seed) for update in updates] == [
        ((lines,), seed) for lines in ("lines", "more") for seed in (10, 11)
    ]
    (adapted, _), (plain, _) = calls.generate
    assert adapted == [["t0 a?", "t0 b?"]] * 2 + [["memo t0 a?", "memo t0 b?"]] * 2
    assert plain == ["note t1 a?", "note t1 b?"]
    assert [len(outcome.answers) for outcome in outcomes] == [4, 4, 2]


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


class Luck(Domain):
    """Verdicts are given by the edit and the seed, of the update whose answers are graded."""

    def apply(self, task, text):
        if text == "edit 2":
            raise InvalidEdit("no edit")
        return Update([f"{task.id} {text}"], seed=10)

    def baseline(self, task):
        return Update([f"{task.id} alone"], seed=10)

    def grade(self, tasks, answers):
        return [[LUCK[text] for text in texts] for texts in answers]


# Mean verdicts by update and seed; what is not here fails the test. Two edits are left after the first stage, one after
# the second.
LUCK = {
    **{f"t0 edit 0 {seed}": value for seed, value in zip(range(10, 15), (1.0, 0.0, 0.0, 0.0, 1.0), strict=True)},
    **{f"t0 edit 1 {seed}": value for seed, value in zip(range(10, 12), (0.0, 0.25), strict=True)},
    **{f"t0 edit 3 {seed}": value for seed, value in zip(range(10, 13), (0.0, 0.75, 0.0), strict=True)},
    **{f"t0 alone {seed}": 0.5 for seed in range(10, 15)},
    "as it is": 0.0,
}


HALVING = dataclasses.replace(SETTINGS, edits=4, halving=(1, 2))


@pytest.fixture
def luck(calls, monkeypatch):
    """Edits whose verdicts are those of `LUCK`."""

    def generate(model, prompts, adapters=None, **options):
        if options.get("return_details"):
            return [[Generation(f"edit {i}", (i,), np.zeros(1, np.float32), "stop") for i in range(4)] for _ in prompts]
        if adapters is None:
            return ["as it is"] * len(prompts)
        updates = calls.adapt[-1][0]
        return [[f"{u.sequences[0]} {u.seed}"] * len(each) for u, each in zip(updates, prompts, strict=True)]

    monkeypatch.setattr(loop, "generate", generate)


def test_halving_measures_better_edits_with_seeds_that_follow_and_counts_what_it_trains(calls, luck):
    policy, outer, shown = Policy("model"), Learner(), []

    @contextlib.contextmanager
    def phase(name, total):
        shown.append((name, total))
        yield lambda count: None

    _, done = loop.run_round(State(policy, policy), Luck(), TASKS[:1], outer, HALVING, phase)
    assert shown == [
        ("baseline", 1), ("sample", 1), ("apply and score", 4), ("halving 1", 2), ("halving 2", 1), ("improve", 1)
    ]  # fmt: skip
    assert [outcome.runs for outcome in done.outcomes] == [
        (1.0, 0.0, 0.0, 0.0, 1.0),
        (0.0, 0.25),
        (0.0,),
        (0.0, 0.75, 0.0),
    ]
    assert [outcome.eliminated for outcome in done.outcomes] == [False, True, True, True]
    assert [outcome.reward for outcome in done.outcomes] == [0.4, 0.125, 0.0, 0.25]
    assert done.baselines == {"t0": 0.5} and done.outcomes == outer.outcomes
    assert done.inner_updates == 5 + (5 + 2 + 3) and sum(len(updates) for updates, _ in calls.adapt) == 15


def test_a_round_stopped_while_it_halves_resumes_with_the_stage_that_was_not_complete(
    calls, luck, monkeypatch, tmp_path
):
    trained = loop.adapt

    def adapt(model, updates, **rest):
        return dataclasses.replace(Adapters.stack([adapter()] * len(updates)), status=trained(model, updates).status)

    monkeypatch.setattr(loop, "adapt", adapt)
    policy, stop = Policy("model"), ["halving 2"]

    @contextlib.contextmanager
    def phase(name, total):
        if name in stop:
            raise KeyboardInterrupt
        yield lambda count: None

    def run():
        calls.adapt.clear()
        with DurableUnits(tmp_path, 60.0, lambda path, reason: pytest.fail(reason)) as stored, stored.active():
            return loop.run_round(State(policy, policy), Luck(), TASKS[:1], Learner(), HALVING, phase)[1]

    with pytest.raises(KeyboardInterrupt):
        run()
    stop.clear()
    resumed = run()
    assert [[update.seed for update in updates] for updates, _ in calls.adapt] == [[13, 14]]
    whole = loop.run_round(State(policy, policy), Luck(), TASKS[:1], Learner(), HALVING)[1]
    assert (resumed.outcomes, resumed.inner_updates) == (whole.outcomes, whole.inner_updates)


class RatedDomain(Domain):
    """The same; an edit's ratings are five times 5 minus its number."""

    def apply(self, task, text):
        if task.id == "t1" and text == "edit 1":
            raise InvalidEdit("no edit")
        return super().apply(task, text)

    def rate(self, tasks, texts):
        rated.append([(task.id, text) for task, text in zip(tasks, texts, strict=True)])
        return [[5 - int(text[-1])] * 4 for text in texts]


rated: list = []


class Learner:
    """Records what an outer update is given."""

    def update(self, pytree, state, baselines, outcomes):
        self.baselines, self.outcomes = baselines, outcomes
        return pytree, state, Report()


def rated_round(**fields):
    rated.clear()
    policy, outer = Policy("model", 3), Learner()
    settings = dataclasses.replace(SETTINGS, **fields)
    _, done = loop.run_round(State(policy, policy), RatedDomain(), TASKS, outer, settings)
    assert done.outcomes == outer.outcomes and done.baselines == outer.baselines
    return outer


def test_with_a_proxy_nothing_is_trained_or_asked_and_rejected_edits_have_the_lowest_reward(calls):
    outer = rated_round(reward="proxy")
    assert not calls.adapt and len(calls.generate) == 1  # the edits
    assert outer.baselines == {"t0": 0.0, "t1": 0.0}
    assert [outcome.reward for outcome in outer.outcomes] == [1.0, 0.75, 1.0, 0.0]
    assert [outcome.proxy for outcome in outer.outcomes] == [1.0, 0.75, 1.0, 0.0]
    assert [outcome.ratings for outcome in outer.outcomes] == [(5,) * 4, (4,) * 4, (5,) * 4, ()]
    assert [outcome.status for outcome in outer.outcomes] == ["ok", "ok", "ok", "no edit"]
    assert {(outcome.policy_version, outcome.verdicts) for outcome in outer.outcomes} == {(3, ())}
    assert [edit for each in rated for edit in each] == [("t0", "edit 0"), ("t0", "edit 1"), ("t1", "edit 0")]


@pytest.mark.parametrize(
    ("learn_from", "rewards", "baselines"), [("inner", [0.5] * 4, 0.5), ("proxy", [1.0, 0.75, 1.0, 0.0], 0.0)]
)
def test_of_both_rewards_the_outer_update_learns_from_the_chosen_one(calls, learn_from, rewards, baselines):
    outer = rated_round(reward="both", learn_from=learn_from)
    assert [outcome.reward for outcome in outer.outcomes] == rewards
    assert [outcome.proxy for outcome in outer.outcomes] == [1.0, 0.75, 1.0, 0.0]
    assert [np.mean(outcome.verdicts) for outcome in outer.outcomes] == [0.5] * 4
    assert outer.baselines == {"t0": baselines, "t1": baselines}
    assert len(calls.adapt) == 1 and len(rated) == 1  # the second chunk is a rejected edit


def test_without_a_proxy_nothing_is_rated(calls):
    outer = rated_round()
    assert not rated and {(outcome.ratings, outcome.proxy) for outcome in outer.outcomes} == {((), None)}


def test_a_domain_that_cannot_rate_edits_has_no_proxy(calls):
    with pytest.raises(UserError, match="Domain has no method `rate`"):
        loop.rate(Domain(), TASKS, [], [], SETTINGS)


@pytest.mark.parametrize(
    ("reward", "learn_from", "by_proxy"),
    [("inner", "proxy", False), ("proxy", "inner", True), ("both", "proxy", True), ("both", "inner", False)],
)
def test_the_reward_to_learn_from_is_a_choice_for_both_only(reward, learn_from, by_proxy):
    config = experiment()
    config.reward, config.rubric.learn_from = reward, learn_from
    assert Settings.of(resolve(config)).by_proxy == by_proxy
