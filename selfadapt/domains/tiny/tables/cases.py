"""What is to be learned in the world of tables: a rule, a table of facts, or one of each.

    kind    to learn                           in lines            questions              answers
    rule    a hidden rule of 5 or 6 pieces     apple = K           ? apple 12 ->          K12
    table   20 facts                           pug = R             pug =                  R
    mixed   a rule and 14 facts                both                both                   both

Rules are those of the world of rules, without its databases, whose words are the keys of facts here. A line of a rule
has to be followed, with another number in each question; a line of a table has to be recalled.
"""

from __future__ import annotations

import dataclasses
import random
import string
from collections.abc import Iterable

from selfadapt.domains.tiny.rules import families
from selfadapt.domains.tiny.rules.families import THINGS, Piece, Rule, draw_rule, write_piece
from selfadapt.domains.tiny.rules.format import answer_prompt, edit_prompt

FACTS = {"rule": 0, "table": 20, "mixed": 14}  # the number of facts by kind of case
RULES = ("codes", "units", "formats")
KEYS = tuple(word for thing in THINGS.values() for word in (thing.noun, thing.kind, *thing.kinds, thing.amount))
# The values of every key, of a rule or a fact.
VALUES = families.VALUES | dict.fromkeys(KEYS, tuple(string.ascii_uppercase))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is to be learned, and what the author of an edit sees of it.

    Attributes:
      kind: a key of `FACTS`.
      facts: keys with their values, in random order.
      rule: the rule, or `None` for a table.
      examples: a question about each key of the rule that can be asked about, in random order.
    """

    kind: str
    facts: tuple[Piece, ...]
    rule: Rule | None = None
    examples: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, tuple[Piece, ...]]:
        """The lines that state everything: those of the rule, in the order of the examples, and the facts."""
        found = {} if self.rule is None else {"rule": _shown(self.rule, self.examples)}
        return found | ({"table": self.facts} if self.facts else {})

    @property
    def prompt(self) -> str:
        """The prompt for an edit: the facts, and the examples with the answers by default and the right ones."""
        summary: list[tuple[str, str, str]] = []
        if self.rule is not None:
            answer, values = self.rule.family.answer, self.rule.values
            summary = [(question, answer(question, {}), answer(question, values)) for question in self.examples]
        return edit_prompt("\n".join(map(write_piece, self.facts)), summary)


def _shown(rule: Rule, questions: Iterable[str]) -> tuple[Piece, ...]:
    return tuple((key, rule.values[key]) for question in questions for key in rule.family.uses(question))


def draw_case(rng: random.Random, split: str, kind: str) -> Case:
    """Returns a random case.

    Args:
      rng: the source of randomness.
      split: that of the rule, `selfadapt.domains.tiny.rules.families.SPLITS`.
      kind: a key of `FACTS`.

    Raises:
      InvalidValueError: there is no such split.
    """
    facts = tuple((key, rng.choice(VALUES[key])) for key in rng.sample(KEYS, FACTS[kind]))
    if kind == "table":
        return Case(kind, facts)
    rule = draw_rule(rng, split, rng.choice(RULES))
    examples = tuple(rule.family.ask(rng, key) for key in rng.sample(rule.asked, len(rule.asked)))
    return Case(kind, facts, rule, examples)


def ask(lines: Iterable[str], question: str) -> str:
    """Returns a question's prompt after the lines of an instruction; a key asks for the end of its fact's line."""
    if question in KEYS:
        return "".join(f"{line}\n" for line in lines) + write_piece((question, ""))
    return answer_prompt("\n".join(lines), question)
