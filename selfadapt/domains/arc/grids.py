"""Grids: rectangles of colours 0 to 9, at most 30 x 30, as tuples of rows; and how they are written as text."""

from __future__ import annotations

from typing import Any

from selfadapt.errors import InvalidValueError

LARGEST = 30  # rows or columns
COLOURS = 10

Grid = tuple[tuple[int, ...], ...]


def check_grid(value: Any) -> Grid:
    """Returns a list of rows (or an integer array) as a grid.

    Raises:
      InvalidValueError: it is empty, ragged, larger than 30 x 30, or holds something that is no colour.

    >>> check_grid([[1, 2], [3, 4]])
    ((1, 2), (3, 4))
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) for row in value):
        raise InvalidValueError("is no list of rows; a grid is a list of lists of colours")
    if not value or not value[0]:
        raise InvalidValueError("is empty; a grid has at least one row and one column")
    for number, row in enumerate(value):
        if len(row) != len(value[0]):
            raise InvalidValueError(f"is ragged: row {number} has {len(row)} cells, and row 0 has {len(value[0])}")
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise InvalidValueError(f"has {cell!r:.40} in row {number}; a colour is a whole number from 0 to 9")
    if not fits(value):
        raise InvalidValueError(f"is {len(value)} x {len(value[0])}; a grid has at most 30 rows and 30 columns")
    return tuple(tuple(row) for row in value)


def fits(grid: Any) -> bool:
    """Returns whether a grid has at most 30 rows and 30 columns."""
    return len(grid) <= LARGEST and len(grid[0]) <= LARGEST


def render(grid: Grid) -> str:
    r"""Returns a grid as text: a line per row, with a space between colours.

    >>> render(((1, 2), (3, 4)))
    '1 2\n3 4'
    """
    return "\n".join(" ".join(map(str, row)) for row in grid)


def parse_grid(text: str) -> Grid | None:
    r"""Returns the grid that a text is, `None` if it is none.

    White space around the text and around its rows does not matter, nor do the brackets that numpy prints.

    >>> parse_grid("[[1 2]\n [3 4]]")
    ((1, 2), (3, 4))
    >>> parse_grid("1 2\n3") is None
    True
    """
    rows = [line.split() for line in text.replace("[", " ").replace("]", " ").strip().split("\n")]
    if not all(len(cell) == 1 and "0" <= cell <= "9" for row in rows for cell in row):
        return None
    try:
        return check_grid([[int(cell) for cell in row] for row in rows])
    except InvalidValueError:
        return None
