"""Augmentations of grids: those that a directive can choose, and permutations of colours and examples (SEAL's code).

A transformation is applied to the inputs and outputs of a task alike.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from selfadapt.domains.arc.directive import Directive
from selfadapt.domains.arc.grids import COLOURS, Grid

_MOST_SHIFT = 4  # a grid is shifted by less than this, along either axis


@dataclasses.dataclass(frozen=True)
class Transformation:
    """A function of grids.

    Attributes:
      name: what reports and votes call it.
      apply: the function.
      inverse: the function that restores every grid, `None` where the transformation makes grids of some shapes or
        symmetries only.
    """

    name: str
    apply: Callable[[Grid], Grid]
    inverse: Callable[[Grid], Grid] | None = None


def _on_arrays(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Grid], Grid]:
    def apply(grid: Grid) -> Grid:
        return tuple(map(tuple, change(np.array(grid, np.int8)).tolist()))

    return apply


def _bijection(
    name: str, change: Callable[[np.ndarray], np.ndarray], back: Callable[[np.ndarray], np.ndarray] | None = None
) -> Transformation:
    """Returns a transformation with an inverse; without `back`, it is its own."""
    return Transformation(name, _on_arrays(change), _on_arrays(back or change))


IDENTITY = Transformation("identity", lambda grid: grid, lambda grid: grid)
# numpy turns counterclockwise.
ROTATE_90 = _bijection("rotate 90", np.rot90, lambda array: np.rot90(array, 3))
ROTATE_270 = _bijection("rotate 270", lambda array: np.rot90(array, 3), np.rot90)
ROTATE_180 = _bijection("rotate 180", lambda array: np.rot90(array, 2))
FLIP_ROWS = _bijection("flip up-down", np.flipud)
FLIP_COLUMNS = _bijection("flip left-right", np.fliplr)
TRANSPOSE = _bijection("transpose", np.transpose)


def _reflections() -> list[Transformation]:
    """Returns the concatenations of a grid and its mirror image, along either axis and in either order."""

    def reflect(axis: int, mirror_first: bool) -> Callable[[np.ndarray], np.ndarray]:
        def change(array: np.ndarray) -> np.ndarray:
            parts = [array, np.flip(array, axis)]
            return np.concatenate(parts[::-1] if mirror_first else parts, axis)

        return change

    return [
        Transformation(f"reflect {side}", _on_arrays(reflect(axis, mirror_first)))
        for side, axis, mirror_first in (("down", 0, False), ("up", 0, True), ("right", 1, False), ("left", 1, True))
    ]


def _shift(seed: int) -> Transformation:
    """Returns a shift around the edges; its distances depend on the seed and a grid's shape, and may be zero."""
    draw = random.Random(f"shift {seed}")
    parts = draw.random(), draw.random()

    def roll(sign: int) -> Callable[[np.ndarray], np.ndarray]:
        def change(array: np.ndarray) -> np.ndarray:
            shifts = [sign * int(part * min(_MOST_SHIFT, size)) for part, size in zip(parts, array.shape, strict=True)]
            return np.roll(array, shifts, (0, 1))

        return change

    return _bijection("shift", roll(1), roll(-1))


def _enlargement(name: str, rows: int, columns: int) -> Transformation:
    """Returns the transformation that makes a block of cells of each cell."""
    return Transformation(name, _on_arrays(lambda array: array.repeat(rows, 0).repeat(columns, 1)))


def _tiling(name: str, rows: int, columns: int) -> Transformation:
    return Transformation(name, _on_arrays(lambda array: np.tile(array, (rows, columns))))


_TWICE = _enlargement("enlarge", 2, 2)


def _then_enlarged(first: Transformation) -> Transformation:
    return Transformation(f"{first.name}, enlarge", lambda grid: _TWICE.apply(first.apply(grid)))


def augmentations(directive: Directive, *, seed: int = 0) -> list[Transformation]:
    """Returns the transformations that a directive chooses: 11 basic ones, 3 of size, 6 chains and 3 repetitions.

    Args:
      directive: its four flags choose.
      seed: seeds the distances of the shift.
    """
    turns = [ROTATE_90, ROTATE_270, ROTATE_180, FLIP_ROWS, FLIP_COLUMNS]
    chosen: list[Transformation] = []
    if directive.basic:
        chosen += [*turns, *_reflections(), _shift(seed), TRANSPOSE]
    if directive.size:
        chosen += [_TWICE, _enlargement("enlarge height", 2, 1), _enlargement("enlarge width", 1, 2)]
    if directive.chain:
        chosen += [_then_enlarged(each) for each in (*turns, TRANSPOSE)]
    if directive.repeat:
        chosen += [_tiling("repeat down", 2, 1), _tiling("repeat right", 1, 2), _tiling("repeat both", 2, 2)]
    return chosen


def permuted_colours(grids: Iterable[Grid], draw: random.Random) -> Callable[[Grid], Grid]:
    """Returns a random permutation of colours that keeps 0.

    Colours of the grids are replaced by ones that do not occur in them as long as there are any.

    Args:
      grids: the grids whose colours are told apart.
      draw: the source of randomness.
    """
    used = sorted({cell for grid in grids for row in grid for cell in row} - {0})
    unused = [colour for colour in range(1, COLOURS) if colour not in used]
    targets = draw.sample(unused, len(unused)) + draw.sample(used, len(used))
    change = {0: 0} | dict(zip(used, targets, strict=False))
    return lambda grid: tuple(tuple(change[cell] for cell in row) for row in grid)


def permuted(values: Sequence, draw: random.Random) -> tuple:
    """Returns the values in a random order."""
    return tuple(draw.sample(list(values), len(values)))
