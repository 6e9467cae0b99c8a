"""The training tasks of a directive: which there are, how many, and in what order."""

import dataclasses
import random

import pytest

from selfadapt.domains.arc import (
    ArcTask,
    Directive,
    Example,
    Pair,
    augmentations,
    check_grid,
    check_steps,
    leave_out,
    load_tasks,
    training_tasks,
)
from selfadapt.errors import InvalidEdit

NONE = Directive(False, False, False, False, "all", 1e-3, 1)
SIZE = dataclasses.replace(NONE, size=True)
ALL = Directive(True, True, True, True, "all", 1e-3, 1)


def pair(number):
    return Pair(check_grid([[number, 0, 1]]), check_grid([[number], [2], [0]]))


def task(count, *pairs):
    return ArcTask("t", tuple(map(pair, range(3, 3 + count))) + pairs, (check_grid([[9]]),))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_leaving_one_out_gives_n_tasks_and_two_n_times_n_minus_one(count):
    pairs = list(map(pair, range(count)))
    one, two = leave_out(pairs, 1), leave_out(pairs, 2)
    assert (len(one), len(two)) == (count, count * (count - 1))
    assert {(example.test, *example.train) for example in one} == {
        (each, *(other for other in pairs if other != each)) for each in pairs
    }
    assert len(set(two)) == len(two) and all(len(example.train) == max(count - 2, 0) for example in two)
    assert all(example.test not in example.train for example in one + two)


def reordered(example):
    return (frozenset(example.train), example.test)


def test_without_augmentations_there_are_the_tasks_and_copies_in_another_order_with_their_colours():
    found = training_tasks(task(4), NONE, seed=0)
    plain = [*leave_out(task(4).train, 1), *leave_out(task(4).train, 2)]
    assert set(plain) <= set(found) and len(set(found)) == len(found)
    assert {reordered(example) for example in found} == {reordered(example) for example in plain}
    assert len(plain) < len(found) <= 2 * len(plain)  # copies in the same order are no new ones


def test_an_augmentation_changes_demonstrations_and_test_alike_and_copies_have_other_colours():
    own = task(3)
    found = training_tasks(own, SIZE, seed=0)
    plain = [*leave_out(own.train, 1), *leave_out(own.train, 2)]
    for change in augmentations(SIZE):
        made = [
            Example(tuple(Pair(*map(change.apply, p)) for p in e.train), Pair(*map(change.apply, e.test)))
            for e in plain
        ]
        assert set(made) <= set(found)
    assert set(plain) <= set(found) and len(found) == 2 * 4 * len(plain)
    recoloured = [
        e for e in found if not {cell for grid in e.grids for row in grid for cell in row} <= {0, 1, 2, 3, 4, 5}
    ]
    assert len(recoloured) == 4 * len(plain)


def test_what_grows_beyond_thirty_cells_is_left_out():
    large = Pair(check_grid([[1] * 16]), check_grid([[2]]))
    found = training_tasks(task(2, large), SIZE, seed=0)
    assert all(len(grid[0]) <= 30 for example in found for grid in example.grids)
    doubled = [e for e in found if any(len(grid[0]) == 6 for grid in e.grids)]
    assert doubled and all(len(grid[0]) != 16 for e in doubled for grid in e.grids)


def test_the_seed_determines_the_order_and_another_gives_another():
    found = [training_tasks(task(3), ALL, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] and found[0] != found[2]
    first = training_tasks(task(3), NONE, seed=0)
    assert first != sorted(first, key=lambda e: (len(e.train), e.test))
    random.seed(5)  # nothing depends on the global state
    assert training_tasks(task(3), NONE, seed=0) == first


def test_there_are_at_most_as_many_as_asked_for_and_all_may_be_kept():
    assert len(training_tasks(task(5), ALL, seed=0)) == 250
    assert len(training_tasks(task(5), ALL, seed=0, most=7)) == 7
    short = training_tasks(task(5), ALL, seed=0, keep=lambda example: len(example.train) == 3)
    assert len(short) == 250 and all(len(example.train) == 3 for example in short)
    assert training_tasks(task(1), NONE, seed=0) == leave_out(task(1).train, 1)


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "fine"), [(3, 250, 2, True), (3, 251, 2, False), (375, 2, 2, True)]
)
def test_a_training_has_at_most_375_optimizer_steps(epochs, examples, batch, fine):
    directive = dataclasses.replace(NONE, epochs=epochs)
    if fine:
        check_steps(directive, examples, batch)
    else:
        with pytest.raises(InvalidEdit, match="more than 375 optimizer steps"):
            check_steps(directive, examples, batch)


def test_every_filtered_real_task_has_training_tasks_within_the_limits(seal_data):
    folder = seal_data / "seal" / "few_shot"
    names = ("training_challenges_filtered_1B_training_set", "evaluation_challenges_filtered_1B_eval_set")
    tasks = [each for name in names for each in load_tasks(folder / f"arc-agi_{name}.json")]
    assert len(tasks) == 12 + 10
    for each in tasks[::3]:
        n = len(each.train)
        assert len(leave_out(each.train, 1)) + len(leave_out(each.train, 2)) == n + n * (n - 1)
        found = training_tasks(each, ALL, seed=0)
        assert n * n < len(found) <= 250 and len(set(found)) == len(found)
