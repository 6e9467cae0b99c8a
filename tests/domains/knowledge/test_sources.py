"""Sources of passages: which are trained on, which are held out, and a user's own."""

import json

import pytest

from selfadapt import Question, Task
from selfadapt.defaults import experiment, resolve
from selfadapt.domains.knowledge import Passages
from selfadapt.domains.knowledge.sources import make_source
from selfadapt.domains.tiny.source import TinyWorld
from selfadapt.errors import UserError


def passages(count, first=0):
    return tuple(Task(f"p{i}", f"Passage {i}.", (Question(f"Q{i}?", (f"A{i}", "B")),)) for i in range(first, count))


def write(path, numbers):
    records = [
        {"title": f"T{i}", "context": f"Passage {i}.", "questions": [{"question": "Q?", "answer": "A"}]}
        for i in numbers
    ]
    path.write_text(json.dumps(records))
    return str(path)


def config(**fields):
    config = experiment()
    config.data.update(fields)
    config.evaluation.contexts = 3
    return resolve(config)


def everything(task):
    return True


def contexts(tasks):
    return [task.context for task in tasks]


def test_each_round_has_other_passages_until_all_came_once():
    source = Passages("here", passages(10), (), seed=1)
    rounds = [source.tasks("train", 4, number) for number in range(5)]
    every = [task.id for tasks in rounds for task in tasks]
    assert sorted(every[:10]) == sorted(every[10:]) == sorted(task.id for task in source.train)
    assert every[:10] != [task.id for task in source.train]
    assert every[:10] != every[10:]  # each lap has another order
    assert rounds[1] == source.tasks("train", 4, 1)
    assert Passages("here", passages(10), (), seed=2).tasks("train", 4) != rounds[0]


def test_heldout_passages_are_the_same_in_every_round():
    source = Passages("here", passages(4), passages(9, first=4))
    assert source.tasks("heldout", 2) == source.tasks("heldout", 2, 3) == list(source.heldout[:2])


@pytest.mark.parametrize(("split", "has"), [("train", 4), ("heldout", 2)])
def test_too_few_passages_are_an_error_with_the_numbers_and_the_fields(split, has):
    source = Passages("squad.json", passages(4), passages(2))
    assert len(source.tasks(split, has)) == has
    with pytest.raises(
        UserError, match=rf"squad\.json has {has} passages for '{split}', and 5 are needed; lower config\."
    ):
        source.tasks(split, 5)


def test_the_oracle_of_passages_states_the_first_gold_answers():
    source = Passages("here", (), ())
    assert source.oracle(passages(1)[0]) == "Question: Q0? Answer: A0"
    assert source.describe(passages(1)[0], "A line.") == {}


def test_the_first_passages_in_seals_order_are_held_out(tmp_path):
    path = write(tmp_path / "all.json", range(8))
    source = make_source(config(path=path), everything)
    assert source.name == path
    assert len(source.heldout) == 3 and len(source.train) == 5
    assert contexts(source.heldout) != [f"Passage {i}." for i in range(3)]
    assert sorted(contexts(source.heldout + source.train)) == [f"Passage {i}." for i in range(8)]


def test_passages_of_the_evaluation_file_are_not_trained_on(tmp_path):
    train, heldout = write(tmp_path / "train.json", range(6)), write(tmp_path / "eval.json", range(4, 9))
    source = make_source(config(path=train, eval_path=heldout), everything)
    assert sorted(contexts(source.train)) == [f"Passage {i}." for i in range(4)]
    assert sorted(contexts(source.heldout)) == [f"Passage {i}." for i in range(4, 9)]


def test_passages_that_are_not_kept_do_not_count_as_held_out(tmp_path):
    path = write(tmp_path / "all.json", range(8))
    every = make_source(config(path=path), everything)
    some = make_source(config(path=path), lambda task: task not in every.heldout)
    assert some.heldout == every.train[:3] and some.train == every.train[3:]


def test_the_data_path_chooses_the_tiny_world():
    assert make_source(config(path="tiny_world"), everything) == TinyWorld(0)
