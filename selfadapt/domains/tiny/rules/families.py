"""Rules in pieces, such as "apple = K", and questions whose answers follow from them.

There are four families of rules:

    family   piece         question           answer                               without the piece
    codes    apple = K     apple 12           K12                                  apple12
    units    length = mm   length 12          12 mm                                12 m
    formats  date = /      date 3 7           3/7                                  3-7
    sql      dogs = t7     count dogs age>40  SELECT COUNT(*) FROM t7 WHERE c3>40  SELECT COUNT(*) FROM dogs WHERE c3>40

A rule has five or six pieces, with random values that are never the defaults. A hash of the pieces decides its split.
So no rule of "heldout" occurs in "train" or in pretraining, while every piece can occur in all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import random
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from selfadapt.errors import InvalidValueError

SPLITS = ("pretraining", "train", "heldout")
SMALLEST, LARGEST = 10, 99  # numbers in questions

Piece = tuple[str, str]  # a key and its value


class Thing(NamedTuple):
    """What a table of a database is about.

    Attributes:
      noun: the key of the table.
      kind: the key of the column with words.
      kinds: its words.
      amount: the key of the column with numbers.
    """

    noun: str
    kind: str
    kinds: tuple[str, ...]
    amount: str


@dataclasses.dataclass(frozen=True)
class Family:
    """Rules of one form.

    Attributes:
      groups: the keys, those that a rule has together in one group.
      size: the number of groups of a rule.
      values: the values that each key can have.
      defaults: the value of each key where nothing is stated.
      asked: the keys that questions can be about.
      ask: returns a random question about a key.
      fill: returns the answer to a question, given a function from keys to values.
    """

    groups: tuple[tuple[str, ...], ...]
    size: int
    values: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, str]
    asked: frozenset[str]
    ask: Callable[[random.Random, str], str]
    fill: Callable[[str, Callable[[str], str]], str]

    def uses(self, question: str) -> list[str]:
        """Returns the keys that a question's answer depends on, in the question's order."""
        return [word for word in re.findall(r"\w+", question) if word in self.values]

    def answer(self, question: str, values: Mapping[str, str]) -> str:
        """Returns the answer that follows from the values of some keys; the others have their defaults."""
        return self.fill(question, lambda key: values.get(key, self.defaults[key]))


_CODES = """
apple pear plum fig lime kiwi mango peach grape cherry melon olive lemon guava quince papaya
"""

# The key, its default and its values.
_UNITS = """
length   m   mm  cm  km   ft
weight   kg  g   mg  lb   oz
time     s   ms  min h    day
volume   l   ml  cl  gal  pt
area     ha  are km  acre rood
power    W   kW  MW  hp   PS
energy   J   kJ  eV  cal  Wh
heat     C   F   K   R    N
pressure Pa  bar atm psi  torr
money    eur usd gbp yen  chf
"""

# The key and its default; its values are the defaults of the others. A model learns to read the key of a question from
# answers by default, so these differ.
_FORMATS = """
date -  pair +  point _  score :  range ~  ratio /  label .  route &
"""

# The noun, the column with words, its words, and the column with numbers.
_THINGS = """
dogs   breed  pug,beagle,poodle,husky   age
cars   fuel   petrol,diesel,gas,hybrid  speed
books  genre  novel,crime,travel,poetry pages
songs  mood   happy,sad,calm,wild       tempo
shirts fabric cotton,linen,silk,wool    price
houses roof   slate,straw,tin,tile      rooms
boats  hull   wood,steel,foam,fibre     width
teas   origin china,india,kenya,nepal   minutes
"""


def _things() -> tuple[Thing, ...]:
    rows = (line.split() for line in _THINGS.strip().split("\n"))
    return tuple(Thing(noun, kind, tuple(kinds.split(",")), amount) for noun, kind, kinds, amount in rows)


THINGS = {thing.noun: thing for thing in _things()}
TABLES, COLUMNS = (tuple(f"{letter}{number}" for number in range(1, 10)) for letter in "tc")
VERBS = {"count": "COUNT(*)", "list": "name"}


def _ask_number(rng: random.Random, key: str) -> str:
    return f"{key} {rng.randint(SMALLEST, LARGEST)}"


def _ask_pair(rng: random.Random, key: str) -> str:
    first, second = rng.sample(range(1, 10), 2)
    return f"{key} {first} {second}"


def _ask_database(rng: random.Random, key: str) -> str:
    thing = next(thing for thing in THINGS.values() if key in thing)
    if key == thing.kind:
        condition = f"{rng.choice(('=', '!='))}{rng.choice(thing.kinds)}"
    else:
        condition = f"{rng.choice('<>')}{rng.randint(SMALLEST, LARGEST)}"
    return f"{rng.choice(list(VERBS))} {thing.noun} {key}{condition}"


def _fill_code(question: str, value: Callable[[str], str]) -> str:
    key, number = question.split(" ")
    return f"{value(key)}{number}"


def _fill_unit(question: str, value: Callable[[str], str]) -> str:
    key, number = question.split(" ")
    return f"{number} {value(key)}"


def _fill_format(question: str, value: Callable[[str], str]) -> str:
    key, first, second = question.split(" ")
    return f"{first}{value(key)}{second}"


def _fill_statement(question: str, value: Callable[[str], str]) -> str:
    verb, noun, condition = question.split(" ")
    key, comparison, operand = re.split("(!=|=|<|>)", condition)
    operand = operand if operand.isdigit() else f"'{operand}'"
    return f"SELECT {VERBS[verb]} FROM {value(noun)} WHERE {value(key)}{comparison}{operand}"


def _separately(keys: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((key,) for key in keys)


def _make_codes() -> Family:
    values = dict.fromkeys(_CODES.split(), tuple(string.ascii_uppercase))
    return Family(
        _separately(values), 6, values, {key: key for key in values}, frozenset(values), _ask_number, _fill_code
    )


def _make_units() -> Family:
    rows = [line.split() for line in _UNITS.strip().split("\n")]
    values = {key: tuple(others) for key, _, *others in rows}
    defaults = {key: default for key, default, *_ in rows}
    return Family(_separately(values), 5, values, defaults, frozenset(values), _ask_number, _fill_unit)


def _make_formats() -> Family:
    words = _FORMATS.split()
    defaults = dict(zip(words[::2], words[1::2], strict=True))
    values = {key: tuple(sign for sign in words[1::2] if sign != default) for key, default in defaults.items()}
    return Family(_separately(values), 5, values, defaults, frozenset(values), _ask_pair, _fill_format)


def _make_sql() -> Family:
    groups = tuple((thing.noun, thing.kind, thing.amount) for thing in THINGS.values())
    columns = frozenset(key for _, *keys in groups for key in keys)
    values = {key: COLUMNS if key in columns else TABLES for group in groups for key in group}
    return Family(groups, 2, values, {key: key for key in values}, columns, _ask_database, _fill_statement)


FAMILIES = {"codes": _make_codes(), "units": _make_units(), "formats": _make_formats(), "sql": _make_sql()}
# The values of every key; no two families have a key in common.
VALUES = {key: values for family in FAMILIES.values() for key, values in family.values.items()}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A hidden rule.

    Attributes:
      name: of its family, a key of `FAMILIES`.
      pieces: its keys with their values, sorted.
    """

    name: str
    pieces: tuple[Piece, ...]

    @property
    def family(self) -> Family:
        """Its family."""
        return FAMILIES[self.name]

    @functools.cached_property
    def values(self) -> dict[str, str]:
        """Its pieces as a dictionary."""
        return dict(self.pieces)

    @property
    def asked(self) -> list[str]:
        """The keys that questions are about."""
        return [key for key in self.values if key in self.family.asked]

    @property
    def split(self) -> str:
        """The split that it belongs to: half of all rules are for pretraining, a quarter is held out."""
        digest = hashlib.sha256(", ".join(map(write_piece, self.pieces)).encode()).digest()
        return ("pretraining", "pretraining", "train", "heldout")[digest[0] % 4]


def draw_rule(rng: random.Random, split: str, name: str) -> Rule:
    """Returns a random rule of a family in which no two keys have the same value.

    Args:
      rng: the source of randomness.
      split: one of `SPLITS`.
      name: the family's.

    Raises:
      InvalidValueError: there is no such split.
    """
    if split not in SPLITS:
        raise InvalidValueError(f"there are no rules in the split {split!r}; choose one of {', '.join(SPLITS)}")
    family = FAMILIES[name]
    while True:
        values: dict[str, str] = {}
        for key in itertools.chain.from_iterable(rng.sample(family.groups, family.size)):
            values[key] = rng.choice([value for value in family.values[key] if value not in values.values()])
        rule = Rule(name, tuple(sorted(values.items())))
        if rule.split == split:
            return rule


def write_piece(piece: Piece) -> str:
    """Returns a piece as a line of an instruction."""
    return " = ".join(piece)


def read_pieces(instruction: str) -> list[Piece]:
    r"""Returns what the lines of an instruction state, in order; lines of another form state nothing.

    >>> read_pieces("apple = K\nBe careful.\napple = Q")
    [('apple', 'K'), ('apple', 'Q')]
    """
    pairs = (line.strip().split(" = ") for line in instruction.split("\n"))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def follow(family: Family, instruction: str, question: str) -> str:
    """Returns the answer that follows from an instruction; of several lines about one key, the last one counts."""
    return family.answer(question, dict(read_pieces(instruction)))
