"""Updates by gradient: what they reward, what they leave alone, what they log, and what they keep between rounds."""

import contextlib
import dataclasses
import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from selfadapt import generate
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.defaults import experiment, resolve
from selfadapt.engine.policy import Measured, Trainer
from selfadapt.errors import UserError
from selfadapt.models.policy import Policy, State
from selfadapt.outer import make_outer
from selfadapt.outer.losses import PolicyLoss
from selfadapt.outer.policy_update import Experience
from selfadapt.types import Edit, Outcome, TokenSequence
from tests.engine.tiny import slow_logprobs, tiny_model

NAMES = ("reinforce", "rloo", "grpo", "ppo", "dpo")
TASKS = {"a": "The city", "b": "A river is"}
EDITS = 4


@pytest.fixture(scope="module")
def policy():
    return Policy(tiny_model(num_layers=1))


@pytest.fixture(scope="module")
def outcomes(policy):
    """Edits that the policy sampled; the reward is the share of one half of the characters."""
    written = generate(
        policy.model,
        list(TASKS.values()),
        max_new_tokens=5,
        temperature=1.0,
        num_samples=EDITS,
        return_details=True,
    )
    return [
        Outcome(
            Edit(task, index, TASKS[task], text.text, text.tokens, 0, tuple(text.logprobs.tolist())),
            float(np.mean(np.asarray(text.tokens) > 50)),
        )
        for task, texts in zip(TASKS, written, strict=True)
        for index, text in enumerate(texts)
    ]


@functools.cache
def outer_of(name, **fields):
    """Returns an update of the preset "tiny" with few and large steps."""
    config = experiment()
    config.outer.name = name
    config.sampling.max_new_tokens = 5
    defaults = dict(rank=2, alpha=2.0, targets="q_proj,v_proj", learning_rate=2e-2, batch_size=8, epochs=2)
    config.outer[name].update(defaults | fields)
    return make_outer(resolve(config))


def updated(policy, outcomes, name, pytree=None, rounds=1, **fields):
    """Returns pytree, state and report after some rounds on the same outcomes."""
    outer = outer_of(name, **fields)
    state, pytree = State(policy, policy), outer.init(policy)
    for number in range(rounds):
        pytree, state, report = outer.update(pytree, state, dict.fromkeys(TASKS, 0.5), outcomes)
        state = dataclasses.replace(state, round=number + 1)
    return pytree, state, report


def logprob(policy, outcome):
    prompt = policy.model.tokenizer(outcome.edit.prompt)["input_ids"]
    rows = slow_logprobs(policy.model, [*prompt, *outcome.edit.tokens], policy.adapter)
    return float(sum(rows[len(prompt) - 1 + i, token] for i, token in enumerate(outcome.edit.tokens)))


def equal(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_edits_above_their_tasks_mean_become_more_probable_than_those_below(policy, outcomes, name):
    _, state, report = updated(policy, outcomes, name)
    means = {task: np.mean([o.reward for o in outcomes if o.edit.task_id == task]) for task in TASKS}
    gains = [logprob(state.policy, o) - logprob(policy, o) for o in outcomes]
    chosen = [(o.reward - means[o.edit.task_id], gain) for o, gain in zip(outcomes, gains, strict=True)]
    if name == "dpo":  # which knows a best and a worst edit only
        chosen = [max(chosen[:EDITS]), min(chosen[:EDITS]), max(chosen[EDITS:]), min(chosen[EDITS:])]
    assert np.mean([gain for better, gain in chosen if better > 0]) > 0.05
    assert np.mean([gain for better, gain in chosen if better < 0]) < -0.05
    assert state.policy.version == 1 and state.student is policy  # the student stays as it was
    assert report.learned and report.metrics["optimizer_steps"] == 2
    assert report.metrics["kl_sample_train"] < 1e-8 and report.metrics["kl_start"] == 0


def test_the_metrics_describe_the_round(policy, outcomes):
    spoiled = [*outcomes[:-1], dataclasses.replace(outcomes[-1], status="invalid: no edit")]
    _, state, first = updated(policy, spoiled, "grpo")
    entropies = []
    for outcome in outcomes:
        prompt = policy.model.tokenizer(outcome.edit.prompt)["input_ids"]
        rows = slow_logprobs(policy.model, [*prompt, *outcome.edit.tokens])[len(prompt) - 1 : -1]
        entropies += (-(np.exp(rows) * rows).sum(-1)).tolist()
    metrics = first.metrics
    assert metrics["reward"] == pytest.approx(np.mean([o.reward for o in outcomes]))
    assert metrics["invalid"] == pytest.approx(1 / 8)
    assert metrics["edit_tokens"] == pytest.approx(np.mean([len(o.edit.tokens) for o in outcomes]))
    assert metrics["entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert metrics["gradient_norm"] > 0 and 0 <= metrics["clip_share"] <= 1 and metrics["kl_update"] > 0
    # The same edits again: they are now of another version than the policy, which has left its start.
    later = updated(policy, spoiled, "grpo", rounds=2)[2].metrics
    sampled = np.concatenate([o.edit.logprobs for o in outcomes])
    now = []
    for outcome in outcomes:
        prompt = policy.model.tokenizer(outcome.edit.prompt)["input_ids"]
        rows = slow_logprobs(policy.model, [*prompt, *outcome.edit.tokens], state.policy.adapter)[len(prompt) - 1 : -1]
        now += rows[np.arange(len(rows)), outcome.edit.tokens].tolist()
    change = np.asarray(now) - sampled
    assert later["kl_sample_train"] == pytest.approx(np.mean(np.exp(change) - 1 - change), rel=1e-3)
    assert later["kl_start"] == pytest.approx(np.mean(np.exp(-change) - 1 + change), rel=1e-3)


@pytest.mark.parametrize("name", ["grpo", "rloo", "dpo"])
def test_equal_rewards_of_a_task_teach_nothing(policy, outcomes, name):
    same = [dataclasses.replace(outcome, reward=0.3) for outcome in outcomes]
    pytree, state, report = updated(policy, same, name)
    assert state.policy is policy and not report.learned and report.metrics["optimizer_steps"] == 0
    equal(pytree, outer_of(name).init(policy))


def test_edits_without_an_advantage_are_not_computed_and_count_in_the_mean(policy, outcomes):
    silent = [dataclasses.replace(o, reward=0.3) if o.edit.task_id == "b" else o for o in outcomes]
    _, state, report = updated(policy, silent, "grpo", normalize="constant", epochs=1)
    assert {task for task, _ in report.learned} == {"a"}
    _, alone, halved = updated(policy, outcomes[:EDITS], "grpo", normalize="constant", epochs=1)
    equal(
        jax.tree.map(lambda x: np.round(x, 5), state.policy.adapter.lora),
        jax.tree.map(lambda x: np.round(x, 5), alone.policy.adapter.lora),
    )  # Adam does not see the factor
    assert report.metrics["loss"] == pytest.approx(halved.metrics["loss"] / 2, rel=1e-3, abs=1e-7)
    assert report.metrics["gradient_norm"] == pytest.approx(halved.metrics["gradient_norm"] / 2, rel=1e-3)


def test_the_loss_gets_what_was_recorded_and_the_starting_policys_log_probabilities(outcomes):
    reference = [np.full(len(outcome.edit.tokens), -1.0) for outcome in outcomes]
    lesson = outer_of("grpo", kl=0.1).lesson(Experience(outcomes, {}, [], reference, ()))
    assert lesson.data["old"] == [outcome.edit.logprobs for outcome in outcomes]
    assert lesson.data["reference"] is reference and all(lesson.teaches)  # a divergence acts on every edit
    assert outer_of("grpo", kl=0.1).loss == PolicyLoss((0.2, 0.2), kl=0.1)


def experience(rewards, values=None, status=None, tasks="aabb"):
    """Returns outcomes with these rewards, each of two tokens."""
    outcomes = [
        Outcome(Edit(task, index, "", "xy", (1, 2), 0, (-1.0, -2.0)), reward, status=(status or {}).get(index, "ok"))
        for index, (task, reward) in enumerate(zip(tasks, rewards, strict=True))
    ]
    zeros = np.zeros(2)
    before = [Measured(zeros, zeros, zeros if values is None else np.asarray(values[i])) for i in range(len(rewards))]
    return Experience(outcomes, {"a": 0.25, "b": 0.5}, before, [zeros] * len(rewards), ())


def test_advantages_compare_the_edits_of_one_task_in_whatever_order_they_come():
    mixed = experience([1.0, 0.5, 0.5, 0.1], tasks="abab")
    deviation, other = np.std([1.0, 0.5], ddof=1) + 1e-4, np.std([0.5, 0.1], ddof=1) + 1e-4
    expected = np.asarray([0.25 / deviation, 0.2 / other, -0.25 / deviation, -0.2 / other])
    np.testing.assert_allclose(outer_of("grpo").advantages(mixed), expected)
    np.testing.assert_allclose(outer_of("rloo").advantages(mixed), [0.5, 0.4, -0.5, -0.4])


def test_ppo_learns_from_rewards_above_the_baseline_by_token():
    values = [[0.5, 0.25], [0.0, 0.0], [0.25, 0.5], [0.0, 0.5]]
    given = experience([1.0, 0.25, 0.5, 0.0], values)
    plain = outer_of("ppo", whiten=False, trace=0.5, discount=1.0).lesson(given)
    # Rewards less the baselines are 0.75, 0, 0 and -0.5; the first token sees half of the second's error.
    expected = [[-0.25 + 0.25, 0.5], [0.0, 0.0], [0.25 - 0.25, -0.5], [0.5 - 0.5, -1.0]]
    np.testing.assert_allclose(plain.data["advantage"], expected)
    np.testing.assert_allclose(plain.data["returns"], np.asarray(expected) + values)
    returns = np.asarray(expected) + values
    explained = 1 - np.var(returns - values) / np.var(returns)
    assert plain.metrics["value_explained"] == pytest.approx(explained)
    white = np.asarray(outer_of("ppo", trace=0.5).lesson(given).data["advantage"])
    np.testing.assert_allclose(white, (np.asarray(expected) - np.mean(expected)) / np.std(expected))
    raw = outer_of("ppo", whiten=False, baseline="none", trace=0.0).lesson(given)
    np.testing.assert_allclose(np.asarray(raw.data["advantage"])[:, 1], [0.75, 0.25, 0.0, -0.5])


def test_preferences_are_of_the_best_edit_that_could_be_applied_over_the_worst():
    rewards = [0.2, 0.9, 0.1, 0.5, 0.5, 0.9]
    given = experience(rewards, status={1: "invalid: no edit", 2: "invalid: no edit"}, tasks="aaabbb")
    assert list(outer_of("dpo").lesson(given).groups) == [(0, 2), (5, 3)]
    assert list(outer_of("dpo", margin=0.2).lesson(given).groups) == [(5, 3)]
    none = experience([0.1, 0.9], status={0: "invalid", 1: "invalid"}, tasks="aa")
    assert not outer_of("dpo").lesson(none).groups


def test_the_running_baseline_is_a_moving_average_of_rewards(policy, outcomes):
    mean = np.mean([o.reward for o in outcomes])
    lower = [dataclasses.replace(o, reward=o.reward / 2) for o in outcomes]
    outer = outer_of("reinforce", decay=0.75)
    pytree, state, _ = outer.update(outer.init(policy), State(policy, policy), {}, outcomes)
    assert float(pytree.extra["mean"]) == pytest.approx(mean, rel=1e-6)
    pytree, _, report = outer.update(pytree, state, {}, lower)
    assert float(pytree.extra["mean"]) == pytest.approx(0.75 * mean + 0.25 * mean / 2, rel=1e-6)
    with pytest.raises(UserError, match="the task 'a' has no baseline"):
        outer_of("reinforce", baseline="task").update(outer.init(policy), State(policy, policy), {}, outcomes)


def test_advantages_are_differences_from_the_task_without_an_edit_of_rewards_or_of_log_odds(outcomes):
    rewards, status = (0.9, 0.5, 0.0, -0.75), ("ok", "ok", "ok", "no instruction")
    given = [dataclasses.replace(o, reward=r, status=s) for o, r, s in zip(outcomes, rewards, status, strict=False)]
    extra = {"mean": np.float32(0), "rounds": np.int32(0)}

    def advantages(baseline, p):
        lesson = outer_of("reinforce", baseline=baseline).lesson(Experience(given, {"a": p}, (), (), extra))
        return lesson.data["advantage"]

    assert advantages("task", 0.25) == pytest.approx([0.65, 0.25, -0.25, -1])
    assert advantages("none", 0.25) == pytest.approx(rewards)
    # 0.9 is 9 to 1, 0.25 is 1 to 3; 0 counts as 1 to 99. What could not be applied has no odds.
    assert advantages("task_logit", 0.25) == pytest.approx([np.log(27), np.log(3), np.log(3 / 99), -1])
    assert advantages("task_logit", 0.0) == pytest.approx([np.log(9 * 99), np.log(99), 0, -0.75])


def test_all_weights_are_trained_and_a_student_can_follow(policy, outcomes):
    _, state, _ = updated(policy, outcomes, "grpo", train="all", learning_rate=1e-3, update_student=True)
    assert state.policy.adapter is None and state.student is state.policy and state.policy.version == 1
    best, worst = (pick(outcomes[:EDITS], key=lambda o: o.reward) for pick in (max, min))
    assert logprob(state.policy, best) - logprob(policy, best) > logprob(state.policy, worst) - logprob(policy, worst)
    assert len(outer_of("grpo", train="all").largest_update(3, 2, [TokenSequence((1, 2))]).sequences) == 6


def test_a_student_follows_with_the_adapter_merged_unless_it_is_another_model(policy, outcomes):
    _, state, _ = updated(policy, outcomes, "rloo", rounds=2, update_student=True)
    assert state.student.version == 2 and state.student.adapter is None
    assert logprob(state.student, outcomes[0]) == pytest.approx(logprob(state.policy, outcomes[0]), abs=1e-3)
    other, outer = Policy(tiny_model(1, num_layers=1)), outer_of("rloo", update_student=True)
    pytree, after, _ = outer.update(outer.init(policy), State(policy, other), {}, outcomes)
    assert after.student is other
    assert outer.update(pytree, after, {}, outcomes)[1].student is other


def test_training_resumes_from_a_checkpoint_of_the_round_before(policy, outcomes, tmp_path):
    baselines, outer = dict.fromkeys(TASKS, 0.5), outer_of("ppo")
    start = State(policy, policy, outer=outer.init(policy))
    pytree, state, _ = outer.update(start.outer, start, baselines, outcomes)
    state = dataclasses.replace(state, round=1, outer=pytree)
    with Checkpoints(tmp_path, 2, start) as checkpoints:
        checkpoints.save(state, {})
    with Checkpoints(tmp_path, 2, start) as checkpoints:
        restored, _ = checkpoints.restore()
    equal(restored.outer, state.outer)
    expected, found = (outer.update(each.outer, each, baselines, outcomes) for each in (state, restored))
    equal((expected[0], expected[1].policy.adapter.lora), (found[0], found[1].policy.adapter.lora))
    assert expected[2] == found[2]


def test_an_interrupted_update_resumes_at_the_step_that_was_saved(policy, outcomes, tmp_path, monkeypatch):
    outer, state = outer_of("grpo"), State(policy, policy)
    expected = outer.update(outer.init(policy), state, {}, outcomes)
    real, steps = Trainer.step, []

    def counted(*args, **options):
        steps.append(len(steps))
        if len(steps) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(Trainer, "step", counted)
    for _ in range(2):
        with (
            contextlib.suppress(KeyboardInterrupt),
            DurableUnits(tmp_path, 0.0, lambda path, reason: pytest.fail(reason)) as stored,
            stored.round(1).active(),
        ):
            found = outer.update(outer.init(policy), state, {}, outcomes)
    assert len(steps) == 3  # the first was not taken again
    equal((found[0], found[1].policy.adapter.lora), (expected[0], expected[1].policy.adapter.lora))
    assert found[2] == expected[2]


def test_outcomes_that_have_no_gradient_are_errors(policy, outcomes):
    outer, state = outer_of("grpo"), State(policy, policy)

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            outer.update(outer.init(policy), state, {}, [dataclasses.replace(outcomes[0], **changes), *outcomes[1:]])

    refused(
        "edit 0 of task 'a' has 5 tokens and 0 log-probabilities",
        edit=dataclasses.replace(outcomes[0].edit, logprobs=()),
    )
    refused("edit 0 of task 'a' has the reward nan", reward=float("nan"))
    refused("mix policy versions", policy_version=3)
    with pytest.raises(ValueError, match="there are no outcomes"):
        outer.update(outer.init(policy), state, {}, [])


def test_a_diverged_training_is_an_error_that_names_the_field(policy, outcomes):
    with pytest.raises(ValueError, match=r"round 1: .*diverged .*lower config\.outer\.grpo\.learning_rate"):
        updated(policy, outcomes, "grpo", learning_rate=1e30)


def test_the_update_that_the_documentation_shows_ranks_the_edits_of_a_task(outcomes):
    page = pathlib.Path(__file__).parents[2] / "docs" / "outer_updates.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(code, page.name, "exec"), names)
    ranked = [dataclasses.replace(o, reward=reward) for o, reward in zip(outcomes[:3], (0.5, 0.9, 0.1), strict=True)]
    update = names["make"](resolve(experiment()))
    assert update.advantages(Experience(ranked, {}, [], [], ())).tolist() == [0.0, 1.0, -1.0]


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("grpo", {"train": "some"}, r"config\.outer\.grpo\.train is 'some'; it must be one of lora, all"),
        ("grpo", {"clip": 0.0}, r"config\.outer\.grpo\.clip is 0.0; it must be above 0 and below 1"),
        ("rloo", {"normalize": "length"}, r"config\.outer\.rloo\.normalize is 'length'; it must be one of edit, tok"),
        ("rloo", {"kl": -1.0}, r"config\.outer\.rloo\.kl is -1.0; it must be a number of at least 0"),
        ("reinforce", {"baseline": "mean"}, r"config\.outer\.reinforce\.baseline is 'mean'; it must be one of runni"),
        ("ppo", {"trace": 1.5}, r"config\.outer\.ppo\.trace is 1.5; it must be at least 0 and at most 1"),
        ("dpo", {"beta": 0.0}, r"config\.outer\.dpo\.beta is 0.0; it must be above 0"),
        ("dpo", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(name, fields, match):
    with pytest.raises(ValueError, match=match):
        outer_of(name, **fields)
