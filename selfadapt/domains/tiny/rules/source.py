"""The tiny world of rules as a source of environments."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from selfadapt.domains.instructions.environment import Environment, Problem, Verdict
from selfadapt.domains.sql import Result, same_result
from selfadapt.domains.tiny.rules import database
from selfadapt.domains.tiny.rules.families import FAMILIES, Rule, draw_rule, read_pieces, write_piece
from selfadapt.domains.tiny.rules.format import LineFormat, answer_prompt
from selfadapt.domains.tiny.splits import numbers
from selfadapt.errors import InvalidTypeError

POOL, HOLDOUT = 32, 16  # problems of an environment


@dataclasses.dataclass(frozen=True)
class RuleEnvironment:
    """Problems whose answers follow from one hidden rule.

    Attributes:
      id: its identity.
      rule: the rule.
      pool: the problems that summaries are made of.
      holdout: the problems that instructions are scored on, other questions than those of the pool.
      tables: the database, empty where the rule's family is not "sql".
    """

    id: str
    rule: Rule
    pool: tuple[Problem, ...]
    holdout: tuple[Problem, ...]
    tables: tuple[database.Table, ...] = ()
    seed_instruction = ""

    def prompt(self, problem: Problem, instruction: str) -> str:
        """Returns the instruction and the question."""
        return answer_prompt(instruction, problem.question)

    def verdicts(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
        """Compares answers with the truth: texts, or what statements return from the database."""
        pairs = [(problem.truth, answer.strip()) for problem, answer in zip(problems, answers, strict=True)]
        if not self.tables:
            return [Verdict(float(truth == answer)) for truth, answer in pairs]
        results = database.run(self.tables, [statement for pair in pairs for statement in pair])
        return [_compare(*both) for both in zip(results[::2], results[1::2], strict=True)]


def _compare(truth: Result, answer: Result) -> Verdict:
    if truth.error:
        raise RuntimeError(f"the statement that is right does not run ({truth.message})")
    if same_result(truth, answer):
        return Verdict(1.0)
    if answer.error:
        return Verdict(0.0, answer.message)
    return Verdict(0.0, f"it returns {_some(answer)}, and the truth {_some(truth)}")


def _some(result: Result) -> str:
    return ", ".join(sorted(set(map(str, result.rows)))[:3]) or "nothing"


@dataclasses.dataclass(frozen=True)
class TinyRules:
    """Environments with hidden rules, any number of them; the families take turns.

    Attributes:
      seed: chooses the rules and the questions.
    """

    seed: int = 0
    name = "the tiny world of rules"
    style = LineFormat()

    def environments(self, split: str, count: int, round: int = 0) -> list[RuleEnvironment]:
        """Returns environments: new ones each round for "train", always the same for "heldout".

        The rules of one split do not occur in the other, nor in pretraining.

        Raises:
          InvalidValueError: there is no such split.
        """
        return [_draw(split, self.seed, number) for number in numbers(self.name, split, count, round)]

    def oracle(self, environment: Environment) -> str:
        """Returns `oracle_instruction`."""
        return oracle_instruction(environment)

    def describe(self, environment: Environment, instruction: str) -> dict[str, int]:
        """Returns `describe`."""
        return describe(environment, instruction)


def make(config: Any, model: Any = None) -> TinyRules:
    """Returns the world with the seed of an experiment."""
    del model
    return TinyRules(config.seed)


def oracle_instruction(environment: Environment) -> str:
    """Returns the instruction that states the whole rule.

    Raises:
      InvalidTypeError: the environment is not of this world.

    >>> print(oracle_instruction(TinyRules().environments("heldout", 2)[1]))
    area = are
    energy = kJ
    length = mm
    power = kW
    time = ms
    """
    return "\n".join(map(write_piece, rule_of(environment).pieces))


def describe(environment: Environment, instruction: str) -> dict[str, int]:
    r"""Returns how many lines of an instruction are right, wrong and irrelevant, and how many pieces it lacks.

    A line is right or wrong about a piece of the rule, and irrelevant if it is about none. Missing are the pieces that
    the model cannot follow from it, since no line is about them or the last one is wrong.

    Raises:
      InvalidTypeError: the environment is not of this world.

    >>> environment = TinyRules().environments("heldout", 1)[0]
    >>> describe(environment, "Think.\n" + oracle_instruction(environment))
    {'right': 6, 'wrong': 0, 'irrelevant': 1, 'missing': 0}
    """
    rule = rule_of(environment)
    pieces = read_pieces(instruction)
    found = collections.Counter(value == rule.values[key] for key, value in pieces if key in rule.values)
    lines = sum(bool(line.strip()) for line in instruction.split("\n"))
    return {
        "right": found[True],
        "wrong": found[False],
        "irrelevant": lines - found.total(),
        "missing": len(rule.pieces) - len(rule.values.items() & dict(pieces).items()),
    }


def rule_of(environment: Environment) -> Rule:
    """Returns the rule of an environment, for reports and analyses.

    Raises:
      InvalidTypeError: the environment is not of this world.
    """
    if not isinstance(environment, RuleEnvironment):
        raise InvalidTypeError(
            f"environment {environment.id!r} is not of {TinyRules.name}; its environments come from TinyRules"
        )
    return environment.rule


def _draw(split: str, seed: int, number: int) -> RuleEnvironment:
    rng = random.Random(f"tiny/rules/{split}/{seed}/{number}")
    rule = draw_rule(rng, split, list(FAMILIES)[number % len(FAMILIES)])
    keys = rng.sample(rule.asked, len(rule.asked))
    questions: list[str] = []
    while len(questions) < POOL + HOLDOUT:
        # The keys take turns, so that pool and holdout have about as many questions about each.
        question = rule.family.ask(rng, keys[len(questions) % len(keys)])
        if question not in questions:
            questions.append(question)
    problems = tuple(
        Problem(str(place), question, rule.family.answer(question, rule.values))
        for place, question in enumerate(questions)
    )
    tables = database.draw_tables(rng, rule) if rule.name == "sql" else ()
    return RuleEnvironment(f"rules-{split}-{seed}-{number}", rule, problems[HOLDOUT:], problems[:HOLDOUT], tables)
