"""Subjects of multiple-choice items as environments whose instruction is edited (LSE, arXiv 2603.18620)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from selfadapt.domains.choice.holdout import holdout
from selfadapt.domains.choice.items import LETTERS, Item, list_subjects, load_items
from selfadapt.domains.choice.prompts import SEED_INSTRUCTION, answer_messages, answer_prompt, parse_answer
from selfadapt.domains.choice.prompts import verdict as right
from selfadapt.domains.instructions.environment import Problem, Verdict
from selfadapt.domains.instructions.sources import at_turn, chat_tokenizer, holdout_size, kept
from selfadapt.errors import InvalidValueError
from selfadapt.templates import chat_text


@dataclasses.dataclass(frozen=True)
class ChoiceEnvironment:
    """The items of one subject; the data of a problem is its `Item`.

    Attributes:
      id: its identity.
      pool: the problems that summaries are made of.
      holdout: the problems that instructions are scored on.
      tokenizer: writes prompts as chats; `None` for plain text.
    """

    id: str
    pool: tuple[Problem, ...]
    holdout: tuple[Problem, ...]
    tokenizer: Any = None
    seed_instruction = SEED_INSTRUCTION

    def prompt(self, problem: Problem, instruction: str) -> str:
        """Returns the question with its choices and the instruction."""
        if self.tokenizer is None:
            return answer_prompt(problem.data, instruction)
        return chat_text(self.tokenizer, answer_messages(problem.data, instruction))

    def verdicts(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
        """Compares the letter between the answer tags with the right one."""
        return [
            Verdict(right(problem.data, answer), "" if parse_answer(answer) else "no letter is between answer tags")
            for problem, answer in zip(problems, answers, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class ChoiceSource:
    """Subjects of data sets in the form of MMLU-Redux.

    Attributes:
      train: the data set (see `load_items`) and the subjects to train on.
      heldout: those to evaluate on.
      dev: problems of a holdout.
      seed: draws the holdouts; when the training subjects come again, the next one does.
      tokenizer: writes prompts as chats; `None` for plain text.
    """

    train: tuple[str, tuple[str, ...]]
    heldout: tuple[str, tuple[str, ...]]
    dev: int
    seed: int
    tokenizer: Any = None
    name = "the multiple-choice items"
    style = None

    def environments(self, split: str, count: int, round: int = 0) -> list[ChoiceEnvironment]:
        """Returns one environment for each subject, in order; more of "train" have other holdouts.

        Raises:
          UserError: there are fewer, an item cannot be used, or a subject has too few items.
        """
        path, subjects = self.train if split == "train" else self.heldout
        turns = at_turn(self.name, split, subjects, count, round)
        return [self._environment(split, path, subject, turn) for subject, turn in turns]

    def _environment(self, split: str, path: str, subject: str, turn: int) -> ChoiceEnvironment:
        drawn = holdout(_items(path, subject), seed=self.seed + turn, dev=self.dev)
        pool, dev = (tuple(map(_problem, some)) for some in (drawn.train, drawn.dev))
        return ChoiceEnvironment(f"{split}-{subject}-{self.seed + turn}", pool, dev, self.tokenizer)


@functools.lru_cache(maxsize=256)
def _items(path: str, subject: str) -> list[Item]:
    return load_items(path, subject)


def _problem(item: Item) -> Problem:
    choices = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False))
    return Problem(item.id, "\n".join([item.question.strip(), *choices]), item.gold, item)


def make(config: Any, model: Any) -> ChoiceSource:
    """Returns the source that `config.data` describes.

    Raises:
      UserError: a field cannot be used, or a data set cannot be read.
    """
    fields = config.data
    dev = holdout_size(fields)
    train, heldout = (_subjects(fields, prefix) for prefix in ("", "eval_"))
    return ChoiceSource(train, heldout, dev, config.seed, chat_tokenizer(config, model))


def _subjects(fields: Any, prefix: str) -> tuple[str, tuple[str, ...]]:
    path = fields[f"{prefix}path"]
    if not path:
        raise InvalidValueError(f"config.data.{prefix}path is empty; name a folder of data sets, or one of the hub")
    return path, kept(f"config.data.{prefix}ids", list_subjects(path), fields[f"{prefix}ids"])
