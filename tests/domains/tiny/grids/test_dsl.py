"""Tests of the rules on small grids."""

import itertools
import random

import numpy as np
import pytest

from selfadapt.domains.tiny.grids import dsl
from selfadapt.errors import InvalidValueError
from tests.domains.tiny.grids.rules import pretrained_compositions

GRID = np.array([[1, 0, 2], [0, 3, 0], [4, 5, 6]])
NAMES = list(dsl.KINDS)


def cells_moved(grid, place):
    """The grid whose cell (i, j) is the cell `place(i, j)` of another one, by loops."""
    height, width = grid.shape
    return [[int(grid[place(i, j)]) for j in range(width)] for i in range(height)]


def fallen(lines):
    """Each line with its background first and the rest after it, in its order."""
    return [[cell for cell in line if cell == 0] + [cell for cell in line if cell] for line in lines]


# What each kind of step makes of GRID, by hand or with loops.
EXPECTED = {
    "flip up down": cells_moved(GRID, lambda i, j: (2 - i, j)),
    "flip left right": cells_moved(GRID, lambda i, j: (i, 2 - j)),
    "rotate 90": cells_moved(GRID, lambda i, j: (j, 2 - i)),
    "rotate 180": cells_moved(GRID, lambda i, j: (2 - i, 2 - j)),
    "rotate 270": cells_moved(GRID, lambda i, j: (2 - j, i)),
    "transpose": cells_moved(GRID, lambda i, j: (j, i)),
    "shift up": cells_moved(GRID, lambda i, j: ((i + 1) % 3, j)),
    "shift down": cells_moved(GRID, lambda i, j: ((i - 1) % 3, j)),
    "shift left": cells_moved(GRID, lambda i, j: (i, (j + 1) % 3)),
    "shift right": cells_moved(GRID, lambda i, j: (i, (j - 1) % 3)),
    "swap": [[2, 0, 1], [0, 3, 0], [4, 5, 6]],  # 1 and 2
    "recolour": [[2, 0, 2], [0, 3, 0], [4, 5, 6]],  # 1 to 2
    "fall down": [list(row) for row in zip(*fallen(GRID.T.tolist()), strict=True)],
    "fall right": fallen(GRID.tolist()),
    "fall up": [[1, 3, 2], [4, 5, 6], [0, 0, 0]],
    "fall left": [[1, 2, 0], [3, 0, 0], [4, 5, 6]],
    "fill background": [[1, 1, 2], [1, 3, 1], [4, 5, 6]],
    "fill top": [[1, 1, 1], [0, 3, 0], [4, 5, 6]],
    "fill bottom": [[1, 0, 2], [0, 3, 0], [1, 1, 1]],
    "fill left": [[1, 0, 2], [1, 3, 0], [1, 5, 6]],
    "fill right": [[1, 0, 1], [0, 3, 1], [4, 5, 1]],
    "repeat right": [[1, 0, 2, 1, 0, 2], [0, 3, 0, 0, 3, 0], [4, 5, 6, 4, 5, 6]],
    "repeat down": [[1, 0, 2], [0, 3, 0], [4, 5, 6], [1, 0, 2], [0, 3, 0], [4, 5, 6]],
    "mirror right": [[1, 0, 2, 2, 0, 1], [0, 3, 0, 0, 3, 0], [4, 5, 6, 6, 5, 4]],
    "mirror down": [[1, 0, 2], [0, 3, 0], [4, 5, 6], [4, 5, 6], [0, 3, 0], [1, 0, 2]],
}


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_of_step_does_what_its_name_says(name):
    rule = dsl.Rule((dsl.Step(name, (1, 2)[: dsl.KINDS[name].colours]),))
    assert rule(GRID).tolist() == EXPECTED[name]


def test_the_steps_of_a_composition_follow_each_other():
    rule = dsl.Rule((dsl.Step("recolour", (3, 7)), dsl.Step("fall up")))
    assert rule(GRID).tolist() == [[1, 7, 2], [4, 5, 6], [0, 0, 0]]
    assert rule.name == "recolour, fall up" and rule.families == ("colour", "gravity") and rule.reads == (3,)


def test_rules_and_examples_are_determined_by_their_seed():
    def draw(seed):
        rng = random.Random(seed)
        rule = dsl.draw_rule(rng, "train")
        return rule, [grid.tolist() for example in dsl.draw_examples(rng, rule, 3) for grid in example]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("split, steps", [("pretraining", 1), ("pretraining", 2), ("train", 2), ("heldout", 2)])
def test_every_rule_maps_grids_to_other_legal_grids_and_finds_its_colours(split, steps):
    rng = random.Random(split)
    for _ in range(200):
        rule = dsl.draw_rule(rng, split, steps=steps)
        for given, output in dsl.draw_examples(rng, rule, 2):
            assert given.shape == (3, 3) and set(rule.reads) <= set(given.ravel())
            assert output.ndim == 2 and all(side in (3, 6) for side in output.shape)
            assert 0 <= output.min() and output.max() <= 9
            assert output.shape != given.shape or (output != given).any()
        assert dsl.split_of([step.name for step in rule.steps]) == split and len(rule.steps) == steps


def test_of_a_composition_all_orders_are_in_one_split_and_every_split_has_many():
    pairs = [p for p in itertools.combinations(NAMES, 2) if dsl.KINDS[p[0]].family != dsl.KINDS[p[1]].family]
    assert all(dsl.split_of(pair) == dsl.split_of(pair[::-1]) for pair in pairs)
    counts = {split: sum(dsl.split_of(pair) == split for pair in pairs) for split in dsl.SPLITS}
    assert min(counts.values()) > 50


def images(rule, grids):
    return tuple(rule(grid).tobytes() + bytes(rule(grid).shape) for grid in grids)


def test_no_composition_of_tasks_does_what_a_rule_of_pretraining_does():
    """Compared by what they make of grids, over all rules of pretraining with every choice of colours."""
    rng = np.random.default_rng(0)
    grids = [rng.permutation([0, 0, *range(1, 10)])[:9].reshape(3, 3) for _ in range(6)]
    pretrained = {images(rule, grids) for rule in (*dsl.simple_rules(), *pretrained_compositions())}
    draw = random.Random(0)
    for split in ("train", "heldout"):
        for _ in range(200):
            rule = dsl.draw_rule(draw, split)
            assert images(rule, grids) not in pretrained, rule.name


@pytest.mark.parametrize("split, steps", [("test", 2), ("train", 1), ("pretraining", 3)])
def test_rules_that_do_not_exist_are_an_error(split, steps):
    with pytest.raises(InvalidValueError, match=f"no rules of {steps} steps in the split '{split}'"):
        dsl.draw_rule(random.Random(0), split, steps=steps)


def test_a_rule_that_changes_no_grid_of_a_shape_is_an_error():
    rule = dsl.Rule((dsl.Step("flip left right"), dsl.Step("shift left")))
    with pytest.raises(InvalidValueError, match=r"rule \(flip left right, shift left\) changes no grid of \(3, 2\)"):
        dsl.draw_examples(random.Random(0), rule, 1, shape=(3, 2))
