"""Grids and their text."""

import numpy as np
import pytest

from selfadapt.domains.arc import check_grid, parse_grid, render


def test_every_grid_renders_and_parses_back():
    rng = np.random.default_rng(0)
    for rows, columns in [(1, 1), (1, 30), (30, 1), (30, 30), (3, 7)]:
        grid = check_grid(rng.integers(0, 10, (rows, columns)))
        assert parse_grid(render(grid)) == grid
        assert parse_grid(f"\n {np.array2string(np.array(grid), threshold=2000, max_line_width=200)} \n") == grid


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "is empty"),
        ([[]], "is empty"),
        ([[1, 2], [3]], "row 1 has 1 cells, and row 0 has 2"),
        ([[0, 10]], "has 10 in row 0"),
        ([[0], [-1]], "has -1 in row 1"),
        ([[True]], "has True in row 0"),
        ([[1.0]], "has 1.0 in row 0"),
        ([[0]] * 31, "is 31 x 1"),
        ([[0] * 31], "is 1 x 31"),
        ([1, 2], "is no list of rows"),
        ("1 2", "is no list of rows"),
    ],
)
def test_what_is_no_grid_is_an_error_with_the_place(value, reason):
    with pytest.raises(ValueError, match=reason):
        check_grid(value)


@pytest.mark.parametrize("text", ["", "  ", "1 2\n3", "1 2\n\n3 4", "12 3", "1 a", "1 ²", "٣", "0 " * 31, "Output: 1"])
def test_text_that_is_no_grid_parses_to_none(text):
    assert parse_grid(text) is None
