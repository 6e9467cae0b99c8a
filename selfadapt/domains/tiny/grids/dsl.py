"""Rules on small grids: symmetries, shifts, colour maps, gravity, fills and tilings, and compositions of two of them.

A rule is one step, or two steps of different families. Pretraining has all rules of one step and the compositions of a
few pairs of families (`PRETRAINED`). The tasks of an experiment are compositions of the other pairs: two thirds of them
belong to the split "train" and one third to "heldout", by a hash of the names of their steps.

Grids here are integer arrays `[height, width]` of colours 0 to 9, in which 0 is the background.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np

from selfadapt.errors import InvalidValueError

SPLITS = ("pretraining", "train", "heldout")

_TRIES = 1000  # random grids before it is an error that a rule changes none of them

Example = tuple[np.ndarray, np.ndarray]  # an input and its output


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a step does, without its colours.

    Attributes:
      family: one of `FAMILIES`.
      apply: maps a grid and the step's colours to a grid.
      colours: how many colours it takes.
      reads: how many of these, the first ones, it looks for in the grid.
    """

    family: str
    apply: Callable[..., np.ndarray]
    colours: int = 0
    reads: int = 0


def _swap(grid: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.where(grid == first, second, np.where(grid == second, first, grid))


def _fall_down(grid: np.ndarray) -> np.ndarray:
    """Moves what is not background to the lower end of its column, in its order."""
    return np.take_along_axis(grid, np.argsort(grid != 0, axis=0, kind="stable"), axis=0)


def _edge(grid: np.ndarray, colour: int) -> np.ndarray:
    """Fills the first row."""
    return np.concatenate([np.full_like(grid[:1], colour), grid[1:]])


def _recolour(grid: np.ndarray, old: int, new: int) -> np.ndarray:
    return np.where(grid == old, new, grid)


def _fill_background(grid: np.ndarray, colour: int) -> np.ndarray:
    return np.where(grid == 0, colour, grid)


def _turned(apply: Callable[..., np.ndarray], quarters: int) -> Callable[..., np.ndarray]:
    """Returns a function of grids that sees them turned by some quarters, counterclockwise, and turns them back."""
    return lambda grid, *colours: np.rot90(apply(np.rot90(grid, quarters), *colours), -quarters)


KINDS: dict[str, Kind] = {
    "flip up down": Kind("symmetry", np.flipud),
    "flip left right": Kind("symmetry", np.fliplr),
    "rotate 90": Kind("symmetry", np.rot90),
    "rotate 180": Kind("symmetry", functools.partial(np.rot90, k=2)),
    "rotate 270": Kind("symmetry", functools.partial(np.rot90, k=3)),
    "transpose": Kind("symmetry", np.transpose),
    "shift up": Kind("shift", functools.partial(np.roll, shift=-1, axis=0)),
    "shift down": Kind("shift", functools.partial(np.roll, shift=1, axis=0)),
    "shift left": Kind("shift", functools.partial(np.roll, shift=-1, axis=1)),
    "shift right": Kind("shift", functools.partial(np.roll, shift=1, axis=1)),
    "swap": Kind("colour", _swap, colours=2, reads=2),
    "recolour": Kind("colour", _recolour, colours=2, reads=1),
    "fall down": Kind("gravity", _fall_down),
    "fall left": Kind("gravity", _turned(_fall_down, 1)),
    "fall up": Kind("gravity", _turned(_fall_down, 2)),
    "fall right": Kind("gravity", _turned(_fall_down, 3)),
    "fill background": Kind("fill", _fill_background, colours=1),
    "fill top": Kind("fill", _edge, colours=1),
    "fill right": Kind("fill", _turned(_edge, 1), colours=1),
    "fill bottom": Kind("fill", _turned(_edge, 2), colours=1),
    "fill left": Kind("fill", _turned(_edge, 3), colours=1),
    "repeat right": Kind("tile", lambda grid: np.tile(grid, (1, 2))),
    "repeat down": Kind("tile", lambda grid: np.tile(grid, (2, 1))),
    "mirror right": Kind("tile", lambda grid: np.concatenate([grid, np.fliplr(grid)], axis=1)),
    "mirror down": Kind("tile", lambda grid: np.concatenate([grid, np.flipud(grid)], axis=0)),
}
FAMILIES = tuple(dict.fromkeys(kind.family for kind in KINDS.values()))

# Pairs of families of which pretraining has compositions. Every family is in one of them.
PRETRAINED = (
    frozenset({"shift", "colour"}),
    frozenset({"symmetry", "gravity"}),
    frozenset({"tile", "colour"}),
    frozenset({"symmetry", "fill"}),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One transformation of a grid.

    Attributes:
      name: a key of `KINDS`.
      colours: the colours that it takes.
    """

    name: str
    colours: tuple[int, ...] = ()

    @property
    def kind(self) -> Kind:
        """What it does."""
        return KINDS[self.name]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One step, or several that follow each other.

    Attributes:
      steps: the steps, in the order in which they are applied.
    """

    steps: tuple[Step, ...]

    def __call__(self, grid: np.ndarray) -> np.ndarray:
        """Returns the grid that the rule makes of a grid."""
        for step in self.steps:
            grid = step.kind.apply(grid, *step.colours)
        return grid

    @property
    def name(self) -> str:
        """The names of its steps."""
        return ", ".join(step.name for step in self.steps)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of its steps."""
        return tuple(step.kind.family for step in self.steps)

    @property
    def reads(self) -> tuple[int, ...]:
        """The colours that it looks for in a grid."""
        return tuple(colour for step in self.steps for colour in step.colours[: step.kind.reads])


def split_of(names: Sequence[str]) -> str:
    """Returns the split of the rules whose steps have these names, in any order."""
    families = frozenset(KINDS[name].family for name in names)
    if len(names) == 1 or families in PRETRAINED:
        return "pretraining"
    digest = hashlib.sha256(", ".join(sorted(names)).encode()).digest()
    return "heldout" if digest[0] % 3 == 0 else "train"


def draw_rule(rng: random.Random, split: str, *, steps: int = 2) -> Rule:
    """Returns a random rule of a split.

    Families are equally likely, or of compositions the pairs of families; then the kinds of a family, the order, and
    the colours, of which no two are equal. Compositions that do what a rule of one step does are left out.

    Args:
      rng: the source of randomness.
      split: "pretraining", "train" or "heldout".
      steps: 1 or 2; the rules of "train" and "heldout" have 2.

    Raises:
      InvalidValueError: there is no such split, or it has no rules of so many steps.
    """
    if split not in SPLITS or steps not in (1, 2) or (steps == 1 and split != "pretraining"):
        raise InvalidValueError(
            f"there are no rules of {steps} steps in the split {split!r}; pretraining has rules of 1 and 2 steps, "
            "train and heldout of 2"
        )
    while True:
        names = [rng.choice(_names(family)) for family in rng.choice(_families(split, steps))]
        rng.shuffle(names)
        if split_of(names) == split and not _is_simple(tuple(names)):
            return _with_colours(rng, names)


def _with_colours(rng: random.Random, names: Sequence[str]) -> Rule:
    colours = iter(rng.sample(range(1, 10), sum(KINDS[name].colours for name in names)))
    return Rule(tuple(Step(name, tuple(itertools.islice(colours, KINDS[name].colours))) for name in names))


@functools.cache
def _is_simple(names: tuple[str, ...]) -> bool:
    """Returns whether steps do what one of them does alone, such as flipping a grid that the first step mirrored."""
    rng = random.Random("tiny/grids/probe")
    rule = _with_colours(rng, names)
    examples = draw_examples(rng, rule, 8)
    return len(names) > 1 and any(explains(simple, examples) for simple in simple_rules())


@functools.cache
def _names(family: str) -> tuple[str, ...]:
    return tuple(name for name, kind in KINDS.items() if kind.family == family)


@functools.cache
def _families(split: str, steps: int) -> tuple[tuple[str, ...], ...]:
    """Returns the families, or the pairs of families, that rules of a split are drawn from."""
    return tuple(
        families
        for families in itertools.combinations(FAMILIES, steps)
        if steps == 1 or (frozenset(families) in PRETRAINED) == (split == "pretraining")
    )


@functools.cache
def simple_rules() -> tuple[Rule, ...]:
    """Returns every rule of one step, with every choice of colours."""
    return tuple(
        Rule((Step(name, colours),))
        for name, kind in KINDS.items()
        for colours in itertools.permutations(range(1, 10), kind.colours)
    )


def draw_examples(rng: random.Random, rule: Rule, count: int, shape: tuple[int, int] = (3, 3)) -> list[Example]:
    """Returns random grids with what a rule makes of them.

    Three cells in ten are background. Every input has the colours that the rule looks for, and every output differs
    from its input.

    Args:
      rng: the source of randomness.
      rule: the rule.
      count: how many examples.
      shape: height and width of the inputs, each at least 2.

    Raises:
      InvalidValueError: the rule changes no grid of this shape.
    """
    return [_draw_example(rng, rule, shape) for _ in range(count)]


def explains(rule: Rule, examples: Sequence[Example]) -> bool:
    """Returns whether a rule makes the output of every example from its input."""
    return all(np.array_equal(rule(given), output) for given, output in examples)


def _draw_example(rng: random.Random, rule: Rule, shape: tuple[int, int]) -> Example:
    cells = shape[0] * shape[1]
    for _ in range(_TRIES):
        flat = [0 if rng.random() < 0.3 else rng.randint(1, 9) for _ in range(cells)]
        for place, colour in zip(rng.sample(range(cells), len(rule.reads)), rule.reads, strict=True):
            flat[place] = colour
        grid = np.array(flat).reshape(shape)
        output = rule(grid)
        if not np.array_equal(output, grid):
            return grid, output
    raise InvalidValueError(f"the rule ({rule.name}) changes no grid of {shape}; use larger ones")
