"""The reference rows of the evaluation, with a stand-in for training and scoring."""

import contextlib

import pytest

from selfadapt import ContextEdit, Outcome, Task, Update, loop
from selfadapt.checkpoint.units import Units
from selfadapt.evaluate import Evaluation
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State

SETTINGS = Settings(
    seed=0, edits=3, temperature=1.0, top_p=1.0, edit_tokens=8, answer_tokens=8, answer_stop=(), inner_runs=2, at_once=9
)
HELD_OUT = [Task(f"held{number}", "", ()) for number in range(2)]
TRAINING = [Task(f"train{number}", "", ()) for number in range(2)]


class Domain:
    """Edits are numbers; without one there is nothing to train on."""

    def apply(self, task, text):
        return ContextEdit("") if text is None else Update([text])

    def unchanged(self, task):
        return ContextEdit("")

    def oracle(self, task):
        return "9"


class Searchable(Domain):
    """The same, with four edits to choose from."""

    def candidates(self):
        return ["1", "5", "7", "3"]

    def random_edit(self, draw):
        return str(draw.randrange(1000))


@pytest.fixture
def scored(monkeypatch):
    """Rewards an edit by its number in the training tasks, and a 7 by nothing on the second of them."""

    def score(student, domain, tasks, pairs, settings, advance=None):
        calls.append([(edit.task_id, edit.text) for edit, _ in pairs])
        return [
            Outcome(edit, 0.0 if (edit.text, edit.task_id) == ("7", "train1") else float(edit.text or 0))
            for edit, _ in pairs
        ]

    calls = []
    monkeypatch.setattr(loop, "score", score)
    return calls


def rows(domain, search=()):
    @contextlib.contextmanager
    def phase(name, total, label, round):
        yield lambda count: None

    policy = Policy("model")
    evaluation = Evaluation(domain, HELD_OUT, SETTINGS, State(policy, policy), Units(), phase, 0.3, search)
    return {row.name: row for row in evaluation.references()}


def test_a_domain_that_trains_on_nothing_without_an_edit_has_no_row_of_that(scored):
    assert list(rows(Domain())) == ["none", "oracle"]


def test_random_edits_are_as_many_as_a_policys_and_depend_on_task_and_sample_alone(scored):
    found = rows(Searchable())
    assert list(found) == ["none", "oracle", "random"]
    edits = [(edit.task_id, edit.sample, edit.text) for edit, _ in found["random"].pairs]
    assert [edit[:2] for edit in edits] == [(task.id, sample) for task in HELD_OUT for sample in range(3)]
    assert len({text for _, _, text in edits}) == 6
    again = [(edit.task_id, edit.sample, edit.text) for edit, _ in rows(Searchable())["random"].pairs]
    assert again == edits


def test_the_best_constant_edit_is_found_on_training_tasks_and_scored_on_the_others(scored):
    row = rows(Searchable(), TRAINING)["constant"]
    search, last = scored[-2:]
    assert search == [(task.id, text) for text in ("1", "5", "7", "3") for task in TRAINING]
    assert last == [(task.id, "5") for task in HELD_OUT]
    assert row.details == {
        "edit": "5",
        "candidates": 4,
        "training_tasks": 2,
        "training_reward": 5.0,
        "inner_updates": 4 * 2 * 2,
    }
