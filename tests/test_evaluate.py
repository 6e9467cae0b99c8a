"""The reference rows of the evaluation, with a stand-in for training and scoring."""

import contextlib
import json

import pytest

from selfadapt import ContextEdit, Edit, Outcome, Question, Task, Update, loop
from selfadapt.checkpoint.units import Units
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.evaluate import Evaluation, references
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.types import Rejected

SETTINGS = Settings(
    seed=0, edits=3, temperature=1.0, top_p=1.0, edit_tokens=8, answer_tokens=8, answer_stop=(), inner_runs=2, at_once=9
)
HELD_OUT = [Task(f"held{number}", f"Passage {number}.", (Question("?", ("!",)),)) for number in range(2)]
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
            Outcome(edit, 0.0 if (edit.text, edit.task_id) == ("7", "train1") else float(edit.text.strip("?") or 0))
            for edit, _ in pairs
        ]

    calls = []
    monkeypatch.setattr(loop, "score", score)
    return calls


def evaluation(domain, tasks=HELD_OUT, search=(), given=(), start=None):
    @contextlib.contextmanager
    def phase(name, total, label, round):
        yield lambda count: None

    policy = Policy("model")
    start = start or State(policy, policy)
    return Evaluation(domain, tasks, SETTINGS, start, Units(), phase, 0.3, search, given)


def rows(domain, search=(), given=()):
    return {row.name: row for row in evaluation(domain, search=search, given=given).references()}


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


def test_edits_of_other_tasks_are_the_policys_moved_on_by_one_task(scored, monkeypatch):
    def sample(policy, domain, tasks, settings, advance=None):
        return [Edit(task.id, sample, "", f"{task.id[-1]}{sample}") for task in tasks for sample in range(2)]

    monkeypatch.setattr(loop, "sample", sample)
    policy = Policy("model")
    state, three = State(policy, policy), [*HELD_OUT, Task("held2", "", ())]
    found = {row.name: row for row in evaluation(Domain(), three).controls(state)}
    moved = [(edit.task_id, edit.text) for edit, _ in found["edits of other tasks"].pairs]
    tasks = ["held1", "held1", "held2", "held2", "held0", "held0"]
    assert moved == list(zip(tasks, ["00", "01", "10", "11", "20", "21"], strict=True))
    assert "edits of other tasks" not in [row.name for row in evaluation(Domain(), HELD_OUT[:1]).controls(state)]


class Referenced(Domain):
    """The same, with a row in which the context is the task's own."""

    def apply(self, task, text):
        if text and text.startswith("?"):
            raise InvalidEdit("no edit")
        return super().apply(task, text)

    def references(self, tasks):
        return {"own context": [ContextEdit(task.context) for task in tasks]}


class Narrowed(Domain):
    """The same, with two narrower forms; edits are what a policy writes in each."""

    def narrowed(self):
        return {"ones only": Marked("1"), "twos only": Marked("2")}


class Marked(Domain):
    def __init__(self, text):
        self.text = text


def test_the_first_and_the_last_policy_write_in_each_narrower_form(scored, monkeypatch):
    def sample(policy, domain, tasks, settings, advance=None):
        text = getattr(domain, "text", "9")
        return [Edit(task.id, n, "", f"{text}{policy.version}") for task in tasks for n in range(settings.edits)]

    monkeypatch.setattr(loop, "sample", sample)
    policies = [Policy("model", version) for version in range(2)]
    start, last = (State(policy, policy, round=round) for round, policy in enumerate(policies))
    found = {row.name: row for row in evaluation(Narrowed(), start=start).controls(last)}
    names = [f"{name}, {left}" for left in ("ones only", "twos only") for name in ("untrained", "round1")]
    assert list(found)[-4:] == names and all(row.kind == "control" for row in found.values())
    for name, text in zip(names, ("10", "11", "20", "21"), strict=True):
        assert [(e.task_id, e.sample, e.text) for e, _ in found[name].pairs] == [
            (task.id, n, text) for task in HELD_OUT for n in range(3)
        ]
        assert all(what == Update([text]) for _, what in found[name].pairs)
    untrained = {row.name: row for row in evaluation(Narrowed(), start=start).controls(start)}
    assert [name for name in untrained if "only" in name] == ["untrained, ones only", "untrained, twos only"]


def edits_file(path, *texts):
    """Writes as many texts for each held-out passage."""
    questions = [{"question": "?", "answer": "!"}]
    records = [{"title": "", "context": task.context, "questions": questions} for task in HELD_OUT]
    path.write_text(json.dumps([record | {"completions": list(texts)} for record in records]))
    return path


def test_a_domains_reference_rows_are_scored_after_those_of_every_domain(scored):
    domain = Referenced()
    found = rows(domain, given=references(domain, HELD_OUT))
    assert list(found) == ["none", "oracle", "own context"]
    assert [what for _, what in found["own context"].pairs] == [ContextEdit("Passage 0."), ContextEdit("Passage 1.")]
    assert found["own context"].kind == "eval"
    assert references(Domain(), HELD_OUT) == []


def test_the_edits_of_a_file_are_a_row_of_its_name_with_the_first_ones_of_each_task(scored, tmp_path):
    path = edits_file(tmp_path / "edits.json", "4", "?5", "6")
    domain = Referenced()
    found = rows(domain, given=references(domain, HELD_OUT, [f"GPT-4.1={path}"], 2))
    assert list(found) == ["none", "oracle", "own context", "GPT-4.1"]
    assert scored[-1] == [(task.id, text) for task in HELD_OUT for text in ("4", "?5")]
    assert [what for _, what in found["GPT-4.1"].pairs[:2]] == [Update(["4"]), Rejected("no edit")]
    assert [edit.sample for edit, _ in found["GPT-4.1"].pairs] == [0, 1, 0, 1]
    assert found["GPT-4.1"].details == {"note": f"adapted to the edits of {path}"}


def test_a_text_that_an_entity_graph_lacks_is_rejected_and_its_neighbours_are_not(tmp_path):
    path = edits_file(tmp_path / "edits.json")
    records = [each | {"pair_completions": ["1", "2"][: 2 - n]} for n, each in enumerate(json.loads(path.read_text()))]
    for each in records:
        del each["completions"]
    path.write_text(json.dumps(records))
    (row,) = references(Domain(), HELD_OUT, [f"graph={path}"], 2)
    lacking = Rejected("the file has fewer texts of this passage")
    assert [what for _, what in row.pairs] == [Update(["1"]), Update(["2"]), Update(["1"]), lacking]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{path}"], r"edits_from has .*; each is NAME=FILE"),
        (["a/b={path}"], "a name has letters"),
        (["GPT="], "each is NAME=FILE"),
        (["oracle={path}"], "a row has the name 'oracle' already"),
        (["round3={path}"], "a row has the name 'round3' already"),
        (["own context={path}"], "a row has the name 'own context' already"),
        (["a={path}", "a={path}"], "a row has the name 'a' already"),
        (["passage, equal steps={path}"], "a name has letters"),
        (["round2 edits on untrained weights={path}"], "already"),
        (["a=absent.json"], "edits_from, row 'a': absent.json: there is no such file of edits"),
        (["a={path}", "b={path}x"], "row 'b': .*x: there is no such file"),
    ],
)
def test_a_file_of_edits_that_cannot_be_a_row_is_named(tmp_path, given, message):
    path = edits_file(tmp_path / "edits.json", "4", "5")
    with pytest.raises(InvalidValueError, match=message):
        references(Referenced(), HELD_OUT, [each.format(path=path) for each in given], 2)


def test_too_few_edits_in_a_file_are_an_error_before_anything_is_scored(tmp_path):
    path = edits_file(tmp_path / "edits.json", "4")
    with pytest.raises(InvalidValueError, match="row 'a': .*2 of the 2 held-out passages have fewer than 2 edits"):
        references(Domain(), HELD_OUT, [f"a={path}"], 2)
