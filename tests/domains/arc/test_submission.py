"""ARC's submission file: its form, and its score."""

import copy
import json

import pytest

from selfadapt.domains.arc import ArcTask, Pair, check_grid, check_submission, load_tasks, make_submission, score

A, B = check_grid([[1, 2]]), check_grid([[3], [4]])
PAIR = Pair(A, B)
TASKS = [ArcTask("one", (PAIR,), (A,), (B,)), ArcTask("two", (PAIR,), (A, B), (B, A))]
GOLD = make_submission({"one": [[A, B]], "two": [[B], [B, A]]})


def test_two_attempts_are_given_for_each_test_also_where_there_are_fewer():
    made = make_submission({"one": [[]], "two": [[B], [A, B]]})
    assert made["one"] == [{"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}]
    assert made["two"][0] == {"attempt_1": [[3], [4]], "attempt_2": [[3], [4]]}
    assert made["two"][1] == {"attempt_1": [[1, 2]], "attempt_2": [[3], [4]]}
    assert json.loads(json.dumps(made)) == made == check_submission(made, TASKS)


def test_a_task_is_solved_when_every_test_is_by_either_attempt():
    assert score(GOLD, TASKS) == 1.0
    half = copy.deepcopy(GOLD)
    half["two"][1] = {"attempt_1": [[9]], "attempt_2": [[9]]}
    assert score(half, TASKS) == 0.5
    half["one"][0]["attempt_2"] = [[9]]
    assert score(half, TASKS) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("one"), "has 0 tests of task 'one', and there are 1"),
        (lambda s: s.update(three=s["one"]), "has 1 tests of task 'three', and there are 0"),
        (lambda s: s["two"].pop(), "has 1 tests of task 'two', and there are 2"),
        (lambda s: s["two"].clear(), "'two' of the submission must be a list"),
        (lambda s: s["one"][0].pop("attempt_2"), "'one', test 0 .* attempt_1 and attempt_2"),
        (lambda s: s["one"][0].update(attempt_1=[[11]]), "'one', test 0 .* 'attempt_1' has 11"),
        (lambda s: s["one"].append([[1]]), "'one', test 1"),
    ],
)
def test_a_submission_of_another_form_is_an_error_that_names_the_place(change, message):
    submission = copy.deepcopy(GOLD)
    change(submission)
    with pytest.raises(ValueError, match=message):
        check_submission(submission, TASKS)
    with pytest.raises(ValueError, match="a submission is an object"):
        check_submission([])


def test_gold_outputs_of_all_real_tasks_score_one_in_the_form_of_the_sample(seal_data):
    folder = seal_data / "seal" / "few_shot"
    sample = check_submission(json.loads((folder / "sample_submission.json").read_text()))
    for split in ("training", "evaluation"):
        tasks = load_tasks(*(folder / f"arc-agi_{split}_{part}.json" for part in ("challenges", "solutions")))
        gold = make_submission({task.id: [[grid] for grid in task.solutions] for task in tasks})
        assert score(gold, tasks) == 1.0
        assert {frozenset(test) for tests in (*gold.values(), *sample.values()) for test in tests} == {
            frozenset(["attempt_1", "attempt_2"])
        }
        wrong = make_submission({task.id: [[] for _ in task.tests] for task in tasks})
        assert score(wrong, tasks) == 0.0
