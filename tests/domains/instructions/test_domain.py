"""LSE's domain: situations, edits, and rewards on one holdout, with stand-ins for the models."""

import dataclasses

import numpy as np
import pytest

from selfadapt import loop
from selfadapt.checkpoint import units
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import Prepared, make_domain
from selfadapt.domains.instructions import nodes
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.experiment import make_settings
from selfadapt.models.policy import State
from selfadapt.outer import Report
from selfadapt.outer.grpo import group_advantages
from selfadapt.outer.rloo import leave_one_out
from selfadapt.telemetry.progress import silent
from selfadapt.types import ContextEdit, Edit
from tests.domains.instructions import following


@pytest.fixture
def generate(monkeypatch):
    fake = following.Generate(following.piece_by_piece)
    monkeypatch.setattr(nodes, "generate", fake)
    monkeypatch.setattr(loop, "generate", fake)
    return fake


def config_of(**changes):
    config = experiment("instructions")
    config.preset = "tiny_lse"
    config.contexts, config.edits, config.domain.environments, config.evaluation.contexts = 3, 2, 4, 4
    for name, value in changes.items():
        *groups, leaf = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[leaf] = value
    return resolve(config)


def domain_of(positions=1024, **changes):
    return make_domain(config_of(**changes), following.model(positions).model)


def prepared(**changes):
    model = following.model()
    return domain_of(**changes).prepare(State(model, model), silent)


def test_heldout_tasks_are_the_seed_instructions_with_summaries_of_the_students_answers(generate):
    domain = prepared()
    assert isinstance(domain, Prepared)
    tasks = domain.tasks("heldout", 3)
    environments = TinyRules().environments("heldout", 3)
    assert [task.id for task in tasks] == [environment.id for environment in environments]
    for task, environment in zip(tasks, environments, strict=True):
        assert task.context == "" and len(task.data.summary) == 5
        assert [question.question for question in task.questions] == [p.question for p in environment.holdout]
        assert all(line.answer == following.follow(f"? {line.problem.question} -> ") for line in task.data.summary)
        assert domain.edit_prompt(task).endswith(f" | {task.data.summary[-1].problem.truth}\nrewrite:\n")
    assert generate.calls[0] == 4 * (16 + 5)


def test_training_tasks_take_turns_with_ids_of_their_own(generate):
    domain = prepared(**{"domain.tree_rounds": 0})
    ids = [task.id for number in range(3) for task in domain.tasks("train", 3, number)]
    first = [f"{environment.id}/0" for environment in TinyRules().environments("train", 4)]
    assert ids[:4] == first and ids[4:8] == [f"{id}, turn 2" for id in first] and len(set(ids)) == 9
    assert [task.title for task in domain_of().tasks("train", 3)] == [id[:-2] for id in first[:3]]


def test_an_edit_becomes_the_instruction_of_the_same_holdout_that_the_baseline_is_asked(generate):
    domain = prepared()
    task = at(domain.tasks("heldout", 1)[0], "plum = C")
    assert domain.apply(task, " apple = K\n\n") == ContextEdit("apple = K")
    assert domain.apply(task, None) == domain.baseline(task) == domain.unchanged(task) == ContextEdit("plum = C")
    before, after = domain.questions(task, "plum = C"), domain.questions(task, "apple = K")
    assert [text.removeprefix("plum = C") for text in before] == [text.removeprefix("apple = K") for text in after]
    assert len(before) == 16 and domain.questions(task, "") == before  # of an edit that cannot be applied
    with pytest.raises(InvalidEdit, match="the instruction is empty"):
        domain.apply(task, " \n")
    with pytest.raises(InvalidEdit, match="over 12"):
        domain.apply(task, "a = b\n" * 13)


def whole(task):
    return oracle_instruction(task.data.environment)


def at(task, instruction):
    """The task with another current instruction."""
    return dataclasses.replace(task, data=dataclasses.replace(task.data, instruction=instruction))


class Learner:
    """An outer update that only looks."""

    def init(self, policy):
        return ()

    def update(self, pytree, state, baselines, outcomes):
        self.baselines, self.outcomes = baselines, outcomes
        return (), state, Report()


def run_round(generate, monkeypatch, texts, **changes):
    """A round in which the edits of each task are given; returns what the outer update gets."""
    domain, learner, model = prepared(**changes), Learner(), following.model()
    tasks = [at(task, whole(task).split("\n")[0]) for task in domain.tasks("train", 3)]
    edits = [Edit(task.id, i, "", write(task)) for task in tasks for i, write in enumerate(texts)]
    monkeypatch.setattr(loop, "sample", lambda *_: edits)
    loop.run_round(State(model, model), domain, tasks, learner, make_settings(config_of(**changes)))
    return tasks, learner


def test_the_reward_is_the_accuracy_on_the_holdout_and_the_baseline_that_of_the_current_instruction(
    generate, monkeypatch
):
    tasks, found = run_round(generate, monkeypatch, [whole, lambda task: task.data.instruction])
    for task, (best, same) in zip(tasks, zip(found.outcomes[::2], found.outcomes[1::2], strict=True), strict=True):
        environment, instruction = task.data.environment, task.data.instruction
        answers = [following.follow(environment.prompt(problem, instruction)) for problem in environment.holdout]
        alone = np.mean([verdict.reward for verdict in environment.verdicts(environment.holdout, answers)])
        assert found.baselines[task.id] == same.reward == alone < best.reward == 1.0


def test_an_edit_that_cannot_be_applied_loses_the_configs_reward_and_keeps_its_reason(generate, monkeypatch):
    for value, gain in ((None, -1.0), (-0.25, -0.25)):
        tasks, found = run_round(generate, monkeypatch, [whole, lambda task: "\n"], invalid_reward=value)
        for task, (best, bad) in zip(tasks, zip(found.outcomes[::2], found.outcomes[1::2], strict=True), strict=True):
            assert best.reward == 1.0 and best.status == "ok"
            assert bad.reward == found.baselines[task.id] + gain and bad.status == "the instruction is empty"
            assert np.mean(bad.verdicts) == found.baselines[task.id]


def test_among_edits_of_one_situation_the_baseline_cancels_for_group_advantages(generate, monkeypatch):
    _, found = run_round(generate, monkeypatch, [whole, lambda task: "\n", lambda task: task.data.instruction], edits=3)
    for place in range(0, 9, 3):
        group = found.outcomes[place : place + 3]
        rewards = np.asarray([outcome.reward for outcome in group])
        gains = rewards - found.baselines[group[0].edit.task_id]
        assert len(set(gains)) == 3
        for divide in (True, False):
            np.testing.assert_allclose(group_advantages(rewards, divide), group_advantages(gains, divide), atol=1e-12)
        np.testing.assert_allclose(leave_one_out(rewards), leave_one_out(gains), atol=1e-12)


def test_the_oracle_and_the_kinds_of_lines_are_those_of_the_source(generate):
    domain = prepared()
    task = domain.tasks("heldout", 1)[0]
    assert domain.oracle(task) == oracle_instruction(task.data.environment)
    assert domain.describe(task, f"Think.\n{domain.oracle(task)}") == {
        "right": 6, "wrong": 0, "irrelevant": 1, "missing": 0
    }  # fmt: skip
    assert domain.describe(task, " ") == {}


def test_summaries_are_units_of_work_that_a_resumed_run_reads(generate):
    class Kept(units.Units):
        def __init__(self):
            self.values = {}

        def once(self, name, compute):
            return self.values.setdefault(name, None) or self.values.__setitem__(name, compute()) or self.values[name]

    kept, model = Kept(), following.model()
    with kept.active():
        first = domain_of().prepare(State(model, model), silent)
        again = domain_of().prepare(State(model, model), silent)
    assert generate.calls and first.situations == again.situations
    before = len(generate.calls)
    with kept.active():
        assert domain_of().prepare(State(model, model), silent).trees.keys() == first.trees.keys()
    assert len(generate.calls) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain.batch": 0}, r"config\.domain\.batch is 0; it must be at least 1"),
        ({"domain.tree_edits": 0}, r"config\.domain\.tree_edits is 0; it must be at least 1"),
        ({"domain.ucb_c": -1.0}, r"config\.domain\.ucb_c is -1.0; it must be at least 0"),
        ({"domain.selection": "worst"}, r"config\.domain\.selection is 'worst'; it must be one of ucb, best, deepest"),
        ({"domain.environments": 0}, r"config\.domain\.environments is 0"),
        ({"data.source": "tiny_rulez"}, r"config\.data\.source is 'tiny_rulez', and there is no such module; did you"),
        ({"answer.max_new_tokens": 1020}, r"'rules-heldout-0-0': with its seed, the instruction makes a prompt of"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_computed(changes, message):
    with pytest.raises(ValueError, match=message):
        domain_of(**changes).tasks("heldout", 1)


def test_a_summary_that_is_too_long_for_the_editor_is_named(generate):
    with pytest.raises(
        InvalidValueError, match=r"'rules-heldout-0-0': the summary makes a prompt of .* config\.domain"
    ):
        prepared(**{"sampling.max_new_tokens": 1000})
    with pytest.raises(InvalidValueError, match="there are 4 held-out environments, and 5 are needed"):
        domain_of().tasks("heldout", 5)
