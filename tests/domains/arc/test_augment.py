"""Augmentations, each against its definition cell by cell."""

import random

import pytest

from selfadapt.domains.arc import Directive, augmentations, check_grid, load_tasks
from selfadapt.domains.arc.augment import IDENTITY, permuted_colours

GRID = check_grid([[1, 2, 3], [4, 5, 6]])
EVERYTHING = Directive(True, True, True, True, "all", 1e-3, 1)
NOTHING = Directive(False, False, False, False, "all", 1e-3, 1)

BY_HAND = {
    "rotate 90": [[3, 6], [2, 5], [1, 4]],
    "rotate 270": [[4, 1], [5, 2], [6, 3]],
    "rotate 180": [[6, 5, 4], [3, 2, 1]],
    "flip up-down": [[4, 5, 6], [1, 2, 3]],
    "flip left-right": [[3, 2, 1], [6, 5, 4]],
    "reflect down": [[1, 2, 3], [4, 5, 6], [4, 5, 6], [1, 2, 3]],
    "reflect up": [[4, 5, 6], [1, 2, 3], [1, 2, 3], [4, 5, 6]],
    "reflect right": [[1, 2, 3, 3, 2, 1], [4, 5, 6, 6, 5, 4]],
    "reflect left": [[3, 2, 1, 1, 2, 3], [6, 5, 4, 4, 5, 6]],
    "transpose": [[1, 4], [2, 5], [3, 6]],
    "enlarge": [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2,
    "enlarge height": [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2,
    "enlarge width": [[1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6]],
    "rotate 90, enlarge": [[3, 3, 6, 6]] * 2 + [[2, 2, 5, 5]] * 2 + [[1, 1, 4, 4]] * 2,
    "repeat down": [[1, 2, 3], [4, 5, 6]] * 2,
    "repeat right": [[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]],
    "repeat both": [[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]] * 2,
}


def test_each_transformation_does_what_its_name_says():
    found = {each.name: each for each in augmentations(EVERYTHING)}
    assert len(found) == 11 + 3 + 6 + 3
    for name, expected in BY_HAND.items():
        assert found[name].apply(GRID) == check_grid(expected), name
    for name in ("rotate 90", "rotate 270", "rotate 180", "flip up-down", "flip left-right", "transpose"):
        assert found[f"{name}, enlarge"].apply(GRID) == found["enlarge"].apply(found[name].apply(GRID))
    assert len(BY_HAND.keys() | {f"{name}, enlarge" for name in BY_HAND} & found.keys() | {"shift"}) == len(found)


@pytest.mark.parametrize(("flag", "count"), [("basic", 11), ("size", 3), ("chain", 6), ("repeat", 3)])
def test_a_flag_chooses_its_group_alone(flag, count):
    fields = {name: name == flag for name in ("basic", "size", "chain", "repeat")}
    chosen = augmentations(Directive(**fields, loss="all", learning_rate=1e-3, epochs=1))
    assert len(chosen) == count and augmentations(NOTHING) == []


def test_a_shift_is_shorter_than_four_cells_around_the_edges():
    # One cell of colour 1 shows the distances.
    grid = check_grid([[int(row == column == 0) for column in range(6)] for row in range(6)])
    found = set()
    for seed in range(40):
        (shift,) = [each for each in augmentations(EVERYTHING, seed=seed) if each.name == "shift"]
        ((down, right),) = [
            (row, column) for row, cells in enumerate(shift.apply(grid)) for column, cell in enumerate(cells) if cell
        ]
        assert shift.apply(check_grid([[7]])) == ((7,),)
        assert shift.inverse(shift.apply(GRID)) == GRID and sorted(map(sorted, shift.apply(GRID))) == [
            [1, 2, 3],
            [4, 5, 6],
        ]
        found.add((down, right))
    assert {down for down, _ in found} == {right for _, right in found} == {0, 1, 2, 3} and len(found) > 8


def test_permuted_colours_keep_zero_and_stay_apart_and_prefer_colours_that_do_not_occur():
    for seed in range(20):
        few, all_nine = check_grid([[0, 1, 2, 3]]), check_grid([list(range(10))])
        change = permuted_colours([few], random.Random(seed))
        ((zero, *others),) = change(few)
        assert zero == 0 and len(set(others)) == 3 and not set(others) & {0, 1, 2, 3}
        assert sorted(permuted_colours([all_nine], random.Random(seed))(all_nine)[0]) == list(range(10))
        six = check_grid([[1, 2, 3, 4, 5, 6]])
        assert {7, 8, 9} <= set(permuted_colours([six], random.Random(seed))(six)[0])
    pairs = [check_grid([[1, 2]]), check_grid([[2, 1]])]
    change = permuted_colours(pairs, random.Random(0))
    assert change(pairs[0])[0] == change(pairs[1])[0][::-1]


def test_every_inverse_restores_every_grid_of_real_tasks(seal_data):
    invertible = [each for each in augmentations(EVERYTHING, seed=3) if each.inverse]
    assert len(invertible) == 7
    for task in load_tasks(seal_data / "seal" / "few_shot" / "arc-agi_evaluation_challenges.json")[::4]:
        for grid in (*(grid for pair in task.train for grid in pair), *task.tests):
            assert all(each.inverse(each.apply(grid)) == grid for each in (*invertible, IDENTITY))
