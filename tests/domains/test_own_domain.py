"""The loop carries a user's own domain, and recipes other than SEAL's, without change (docs/architecture.md)."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import ml_collections
import pytest

from selfadapt import ContextEdit, Edit, Update, load_model, loop
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain
from selfadapt.errors import UserError
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.outer import Report
from selfadapt.outer.rest_em import RestEM
from selfadapt.outer.select import Selection

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = dataclasses.replace(
    Settings.of(resolve(experiment())), edits=2, edit_tokens=12, answer_tokens=4, answer_stop=("\n",)
)
REST_EM = RestEM(
    select=Selection("best"),
    training=Update((), rank=4, alpha=8, learning_rate=1e-3, epochs=1, batch_size=4),
)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture
def codebook(tiny, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return make_domain(ml_collections.ConfigDict({"domain": {"name": "examples.codebook"}, "seed": 0}), tiny)


def one_model(model):
    policy = Policy(model)
    return State(policy=policy, student=policy)


def by_hand(domain, tasks, texts):
    """Pairs hand-written edits, one per task, with their applications."""
    return loop.applied(domain, tasks, [Edit(task.id, 0, "", text) for task, text in zip(tasks, texts, strict=True)])


def test_a_domain_in_one_file_runs_a_whole_round(tiny, codebook):
    tasks = codebook.tasks("train", 2)
    state, done = loop.run_round(one_model(tiny), codebook, tasks, REST_EM, SETTINGS)
    assert set(done.baselines) == {task.id for task in tasks}
    assert [(o.edit.task_id, o.edit.sample) for o in done.outcomes] == [(task.id, s) for task in tasks for s in (0, 1)]
    assert all(o.status == "ok" and len(o.verdicts) == 3 and 0 <= o.reward <= 1 for o in done.outcomes)
    assert len(done.report.learned) == 2
    assert (state.round, state.policy.version) == (1, 1)
    assert state.student is state.policy


@pytest.mark.slow
def test_training_on_its_oracle_answers_its_questions(tiny, codebook):
    tasks = codebook.tasks("heldout", 4)
    student = Policy(tiny)
    taught = loop.score(student, codebook, tasks, by_hand(codebook, tasks, map(codebook.oracle, tasks)), SETTINGS)
    untaught = [(Edit(task.id, 0, "", ""), codebook.unchanged(task)) for task in tasks]
    before = loop.score(student, codebook, tasks, untaught, SETTINGS)
    assert sum(o.reward for o in taught) / 4 > 0.9
    assert sum(o.reward for o in before) / 4 < 0.5


def test_a_users_domain_that_does_not_exist_is_an_error_that_names_it(tiny):
    with pytest.raises(UserError, match="no_such.domain"):
        make_domain(ml_collections.ConfigDict({"domain": {"name": "no_such.domain"}, "seed": 0}), tiny)


@dataclasses.dataclass(frozen=True)
class Directives:
    """As in SEAL's few-shot domain an edit is a JSON directive: which data to make, and how to train on them."""

    base: object

    def __getattr__(self, name):
        return getattr(self.base, name)

    def apply(self, task, text):
        try:
            wanted = json.loads(text)
        except ValueError:
            return Update(())  # nothing to train on, as the outcome's status reports
        oracle = self.base.oracle(task).split("\n") if wanted.pop("questions") else []
        return dataclasses.replace(self.base.update, sequences=[*oracle, task.context], **wanted)


@pytest.mark.slow
def test_an_edit_that_is_a_directive_brings_its_own_hyperparameters(tiny, codebook):
    domain = Directives(codebook)
    tasks = codebook.tasks("heldout", 1) * 4
    texts = [
        '{"questions": true, "learning_rate": 0.01, "epochs": 40}',
        '{"questions": true, "learning_rate": 0.0, "epochs": 3}',
        '{"questions": false, "learning_rate": 0.001, "epochs": 1, "rank": 2, "targets": ["q_proj"]}',
        "train harder",
    ]
    student = Policy(tiny)
    good, still, small, broken = loop.score(student, domain, tasks, by_hand(domain, tasks, texts), SETTINGS)
    (before,) = loop.score(student, domain, tasks[:1], [(good.edit, domain.unchanged(tasks[0]))], SETTINGS)
    assert good.reward > 0.9
    assert [o.status for o in (good, still, small)] == ["ok"] * 3
    assert still.answers == before.answers
    assert broken.status != "ok"
    assert broken.answers == before.answers


@dataclasses.dataclass(frozen=True)
class Instructions:
    """As in LSE an edit is a new context, which is not trained on."""

    base: object

    def __getattr__(self, name):
        return getattr(self.base, name)

    def apply(self, task, text):
        return ContextEdit(text)

    def baseline(self, task):
        return self.base.unchanged(task)


def test_an_edit_that_is_a_new_context_trains_nothing(tiny, codebook, monkeypatch):
    domain, student = Instructions(codebook), Policy(tiny)
    tasks = codebook.tasks("heldout", 2)
    asked = []

    def generate(model, prompts, **options):
        asked.extend(prompts)
        return loop_generate(model, prompts, **options)

    loop_generate = loop.generate
    monkeypatch.setattr(loop, "generate", generate)
    monkeypatch.setattr(loop, "adapt", lambda *_, **__: pytest.fail("a context edit was trained on"))
    outcomes = loop.score(student, domain, tasks, by_hand(domain, tasks, ["Be brief.", "Be bold."]), SETTINGS)
    assert asked[0] == f"Be brief.\nQuestion: {tasks[0].questions[0].question} Answer:"
    assert len(asked) == 6
    assert asked[5].startswith("Be bold.")
    assert [o.status for o in outcomes] == ["ok", "ok"]


def test_a_teacher_improves_while_its_student_stays(tiny, codebook):
    teacher, student = Policy(tiny), Policy(tiny.with_params(tiny.params))
    tasks = codebook.tasks("train", 2)
    state, first = loop.run_round(State(teacher, student), codebook, tasks, REST_EM, SETTINGS)
    assert state.student is student
    assert state.policy.version == 1
    assert {(o.edit.policy_version, o.policy_version) for o in first.outcomes} == {(0, 0)}
    _, second = loop.run_round(state, codebook, tasks, REST_EM, SETTINGS)
    assert {(o.edit.policy_version, o.policy_version) for o in second.outcomes} == {(1, 0)}


class Gains:
    """An outer update with a state: a running mean of the gain over the baseline, as a policy gradient may use."""

    def init(self, policy):
        return {"mean": jnp.zeros(()), "rounds": jnp.zeros((), jnp.int32)}

    def update(self, pytree, state, baselines, outcomes):
        gains = [outcome.reward - baselines[outcome.edit.task_id] for outcome in outcomes]
        assert all(len(outcome.edit.logprobs) == len(outcome.edit.tokens) > 0 for outcome in outcomes)
        rounds = pytree["rounds"] + 1
        mean = pytree["mean"] + (sum(gains) / len(gains) - pytree["mean"]) / rounds
        return {"mean": mean, "rounds": rounds}, state, Report(metrics={"gain": sum(gains) / len(gains)})


def test_a_users_outer_update_gets_its_state_back_each_round(tiny, codebook):
    outer = Gains()
    state = dataclasses.replace(one_model(tiny), outer=outer.init(None))
    found = []
    for _ in range(2):
        state, done = loop.run_round(state, Instructions(codebook), codebook.tasks("train", 2), outer, SETTINGS)
        found.append(done.report.metrics["gain"])
    assert (state.round, int(state.outer["rounds"])) == (2, 2)
    assert float(state.outer["mean"]) == pytest.approx(sum(found) / 2)
