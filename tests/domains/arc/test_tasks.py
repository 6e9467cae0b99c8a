"""Reading ARC tasks: from files, from a folder, and what cannot be used."""

import json

import pytest

from selfadapt.domains import arc
from selfadapt.domains.arc import ArcTask, Pair, load_tasks

A, B, C = [[1, 2]], [[2, 1]], [[3]]


def records(**tests):
    """A file's contents: tasks by id, each with two demonstrations and the given tests."""
    train = [{"input": A, "output": B}, {"input": C, "output": C}]
    return {id: {"train": train, "test": test} for id, test in tests.items()}


@pytest.fixture
def write(tmp_path):
    def write(name, value):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def test_a_file_of_challenges_is_joined_with_its_solutions(write):
    challenges = write("c.json", records(one=[{"input": A}, {"input": C}], two=[{"input": C}]))
    solutions = write("s.json", {"two": [C], "one": [B, C], "three": [C]})
    grid = arc.check_grid
    first, second = load_tasks(challenges, solutions)
    train = (Pair(grid(A), grid(B)), Pair(grid(C), grid(C)))
    assert first == ArcTask("one", train, (grid(A), grid(C)), (grid(B), grid(C)))
    assert (second.id, second.solutions) == ("two", (grid(C),))
    assert [task.solutions for task in load_tasks(challenges)] == [(), ()]


def test_a_folder_has_a_task_in_each_file_and_ids_choose_some_in_their_order(write):
    for name in ("b", "a", "c"):
        folder = write(f"tasks/{name}.json", records(x=[{"input": A, "output": B}])["x"]).parent
    assert [task.id for task in load_tasks(folder)] == ["a", "b", "c"]
    chosen = load_tasks(folder, ids=["c", "a"])
    assert [(task.id, task.solutions) for task in chosen] == [("c", (arc.check_grid(B),)), ("a", (arc.check_grid(B),))]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "is no object"),
        ({"train": [{"input": A, "output": B}]}, "'test' is missing or empty"),
        ({"train": [], "test": [{"input": A}]}, "'train' is missing or empty"),
        ({"train": [A], "test": [{"input": A}]}, "train 0: is no object"),
        ({"train": [{"input": A}], "test": [{"input": A}]}, "train 0: the field 'output' is missing"),
        ({"train": [{"input": [[1], [2, 3]], "output": B}], "test": [{"input": A}]}, "train 0: 'input' is ragged"),
        ({"train": [{"input": A, "output": B}], "test": [{"input": [[10]]}]}, "test 0: 'input' has 10 in row 0"),
        (
            {"train": [{"input": A, "output": B}], "test": [{"input": A, "output": B}, {"input": A}]},
            "1 of 2 tests have an 'output'",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_named_with_its_file_and_field(write, record, message):
    path = write("c.json", records(good=[{"input": A}]) | {"bad": record})
    with pytest.raises(ValueError, match=message) as caught:
        load_tasks(path)
    assert str(caught.value).startswith(f"{path}: task 'bad'")
    assert [task.id for task in load_tasks(path, ids=["good"])] == ["good"]


@pytest.mark.parametrize(
    ("golds", "message"),
    [
        ({}, "task 'one': has no solution"),
        ({"one": [C]}, "a list of 2 grids"),
        ({"one": [C, [[]]]}, "solution 1: is empty"),
        ("[1]", "it must be an object"),
        ('{"one": [[[1, 2]', "is not JSON .* is it complete"),
    ],
)
def test_solutions_that_do_not_match_are_an_error(write, golds, message):
    challenges = write("c.json", records(one=[{"input": A}, {"input": C}]))
    with pytest.raises(ValueError, match=message):
        load_tasks(challenges, write("s.json", golds))


def test_missing_files_and_ids_are_named(write, tmp_path):
    path = write("c.json", records(one=[{"input": A}]))
    with pytest.raises(ValueError, match=r"c\.json: there is no task 'two'"):
        load_tasks(path, ids=["one", "two"])
    with pytest.raises(ValueError, match=r"absent\.json cannot be read"):
        load_tasks(tmp_path / "absent.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no \.json file"):
        load_tasks(tmp_path / "empty")


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_all_real_tasks_load_render_and_parse_back(seal_data, split):
    files = [seal_data / "seal" / "few_shot" / f"arc-agi_{split}_{part}.json" for part in ("challenges", "solutions")]
    tasks = load_tasks(*files)
    assert len(tasks) == 400
    for task in tasks:
        assert len(task.tests) == len(task.solutions) >= 1
        for grid in (*(grid for pair in task.train for grid in pair), *task.tests, *task.solutions):
            assert arc.parse_grid(arc.render(grid)) == grid


@pytest.mark.parametrize(
    ("split", "name", "count"),
    [("training", "filtered_1B_training_set", 12), ("evaluation", "filtered_1B_eval_set", 10)],
)
def test_seals_filtered_sets_are_the_tasks_of_their_ids(seal_data, split, name, count):
    folder = seal_data / "seal" / "few_shot"
    whole = [folder / f"arc-agi_{split}_{part}.json" for part in ("challenges", "solutions")]
    filtered = load_tasks(*(path.with_stem(f"{path.stem}_{name}") for path in whole))
    assert len(filtered) == count and load_tasks(*whole, ids=[task.id for task in filtered]) == filtered
