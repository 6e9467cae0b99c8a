"""Databases with questions as environments whose instruction is edited (LSE, arXiv 2603.18620)."""

from __future__ import annotations

import atexit
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.domains.instructions.environment import Problem, Verdict
from selfadapt.domains.instructions.sources import at_turn, chat_tokenizer, holdout_size, kept
from selfadapt.domains.sql.databases import database_path, schema_text
from selfadapt.domains.sql.executor import Executor
from selfadapt.domains.sql.holdout import holdout
from selfadapt.domains.sql.prompts import SEED_INSTRUCTION, answer_messages, answer_prompt
from selfadapt.domains.sql.questions import SqlQuestion, check_gold, load_questions, load_schemas
from selfadapt.domains.sql.results import Result, same_result
from selfadapt.domains.sql.statements import extract_statement
from selfadapt.errors import InvalidValueError
from selfadapt.templates import chat_text

SHOWN = 200  # characters of a result in a summary


@dataclasses.dataclass(frozen=True)
class SqlEnvironment:
    """The questions about one database; the data of a problem is its `SqlQuestion`.

    Attributes:
      id: its identity.
      schema: the database's schema as text.
      pool: the problems that summaries are made of.
      holdout: the problems that instructions are scored on.
      tokenizer: writes prompts as chats; `None` for plain text.
    """

    id: str
    schema: str
    pool: tuple[Problem, ...]
    holdout: tuple[Problem, ...]
    tokenizer: Any = None
    seed_instruction = SEED_INSTRUCTION

    def prompt(self, problem: Problem, instruction: str) -> str:
        """Returns the schema, the question and the instruction."""
        if self.tokenizer is None:
            return answer_prompt(self.schema, problem.question, instruction)
        return chat_text(self.tokenizer, answer_messages(self.schema, problem.question, instruction))

    def verdicts(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
        """Compares what the statements between the answer tags return with what the gold statements do."""
        statements = [extract_statement(answer) for answer in answers]
        jobs: list[tuple[Any, str]] = [(problem.data.path, problem.data.gold) for problem in problems]
        jobs += [
            (problem.data.path, text) for problem, text in zip(problems, statements, strict=True) if text is not None
        ]
        results = executor().execute_many(jobs)
        written = iter(results[len(problems) :])
        return [
            Verdict(0.0, "no statement is between answer tags") if text is None else _compared(gold, next(written))
            for text, gold in zip(statements, results[: len(problems)], strict=True)
        ]


def _compared(gold: Result, answer: Result) -> Verdict:
    if same_result(gold, answer):
        return Verdict(1.0)
    if answer.error:
        return Verdict(0.0, answer.message)
    return Verdict(0.0, f"it returns {_shown(answer)}, and the right statement {_shown(gold)}")


def _shown(result: Result) -> str:
    text = ", ".join(map(str, result.rows[:3])) or "nothing"
    return f"{text[:SHOWN]}..." if len(text) > SHOWN or len(result.rows) > 3 else text


@functools.cache
def executor() -> Executor:
    """Returns what runs the statements of all environments; it ends with Python."""
    made = Executor()
    atexit.register(made.close)
    return made


@dataclasses.dataclass(frozen=True)
class Databases:
    """Questions about some databases.

    Attributes:
      questions: the questions, with the paths of their databases.
      schemas: the schema of each database.
      names: the databases, in the order in which they are used.
    """

    questions: tuple[SqlQuestion, ...]
    schemas: Mapping[str, str]
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SqlSource:
    """Databases in the form of BIRD.

    Attributes:
      train: the databases to train on.
      heldout: those to evaluate on.
      dev: problems of a holdout.
      seed: draws the holdouts; when the training databases come again, the next one does.
      tokenizer: writes prompts as chats; `None` for plain text.
    """

    train: Databases
    heldout: Databases
    dev: int
    seed: int
    tokenizer: Any = None
    name = "the questions about databases"
    style = None

    def environments(self, split: str, count: int, round: int = 0) -> list[SqlEnvironment]:
        """Returns one environment for each database, in order; more of "train" have other holdouts.

        Raises:
          UserError: there are fewer, or a database has too few questions.
        """
        side = self.train if split == "train" else self.heldout
        found = []
        for name, turn in at_turn(self.name, split, side.names, count, round):
            drawn = holdout(side.questions, seed=self.seed + turn, dev=self.dev, database=name)
            pool, dev = (
                tuple(Problem(str(question.id), question.text, question.gold, question) for question in some)
                for some in (drawn.train, drawn.dev)
            )
            id = f"{split}-{name}-{self.seed + turn}"
            found.append(SqlEnvironment(id, side.schemas[name], pool, dev, self.tokenizer))
        return found


def make(config: Any, model: Any) -> SqlSource:
    """Returns the source that `config.data` describes.

    Raises:
      UserError: a field, a file or a database cannot be used, or a gold statement does not run.
    """
    fields = config.data
    dev = holdout_size(fields)
    train, heldout = (_databases(fields, prefix) for prefix in ("", "eval_"))
    return SqlSource(train, heldout, dev, config.seed, chat_tokenizer(config, model))


def _databases(fields: Any, prefix: str) -> Databases:
    path, folder, schemas = (fields[f"{prefix}{name}"] for name in ("path", "databases", "schemas"))
    for name, value in (("path", path), ("databases", folder)):
        if not value:
            raise InvalidValueError(f"config.data.{prefix}{name} is empty; it names BIRD's questions and databases")
    questions = load_questions(path, folder)
    found = list(dict.fromkeys(question.database for question in questions))
    names = kept(f"config.data.{prefix}ids", found, fields[f"{prefix}ids"])
    questions = [question for question in questions if question.database in names]
    if failed := check_gold(questions, executor()):
        id, result = next(iter(failed.items()))
        raise InvalidValueError(f"{path}: the gold statement of question {id} does not run ({result.message})")
    known = load_schemas(schemas) if schemas else {name: schema_text(database_path(folder, name)) for name in names}
    if missing := [name for name in names if name not in known]:
        raise InvalidValueError(f"{schemas} has no schema of the database {missing[0]!r}")
    return Databases(tuple(questions), known, names)
