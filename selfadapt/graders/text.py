"""Graders that compare texts: exact, containment and token F1, with SQuAD's normalisation."""

from __future__ import annotations

import collections
import dataclasses
import re
import string
from collections.abc import Sequence
from typing import Protocol

from selfadapt.errors import InvalidValueError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclasses.dataclass(frozen=True)
class GradeItem:
    """One answer to grade.

    Attributes:
      question: what was asked.
      golds: the correct answers; the first is the reference.
      answer: the model's answer.
      prompt: the text that the model answered, for graders that need it; "" for the question.
    """

    question: str
    golds: tuple[str, ...]
    answer: str
    prompt: str = ""


class Grader(Protocol):
    """The protocol of graders."""

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns one verdict in [0, 1] per item."""
        ...


def normalize_answer(text: str) -> str:
    """Normalises text as SQuAD v1.1's evaluation does: lower case, no ASCII punctuation or articles, single spaces.

    Reference: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.

    >>> normalize_answer("The  Fragmentation, of an army!")
    'fragmentation of army'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _tokens(text: str) -> list[str]:
    # An answer that is only an article or a sign ("A", "+") would become empty and equal every other such answer.
    return (normalize_answer(text) or text.lower()).split()


def token_f1(answer: str, gold: str) -> float:
    """Returns the F1 of the answer's words against the gold's, counted with repetition (SQuAD v1.1).

    >>> round(token_f1("the army was divided", "a divided army"), 3)
    0.8
    """
    answer_tokens, gold_tokens = _tokens(answer), _tokens(gold)
    common = sum((collections.Counter(answer_tokens) & collections.Counter(gold_tokens)).values())
    return 2 * common / (len(answer_tokens) + len(gold_tokens)) if common else 0.0


@dataclasses.dataclass(frozen=True)
class Exact:
    """1 if the normalised answer equals a normalised gold answer, else 0."""

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns 0 or 1 per item."""
        return [
            float(bool(answer) and any(answer == _tokens(gold) for gold in item.golds))
            for item, answer in ((item, _tokens(item.answer)) for item in items)
        ]


@dataclasses.dataclass(frozen=True)
class Containment:
    """1 if a normalised gold answer occurs in the normalised answer, in whole words, else 0."""

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns 0 or 1 per item."""
        return [float(any(self._contains(item.answer, gold) for gold in item.golds)) for item in items]

    @staticmethod
    def _contains(answer: str, gold: str) -> bool:
        words = " ".join(_tokens(gold))
        return bool(words) and f" {words} " in f" {' '.join(_tokens(answer))} "


@dataclasses.dataclass(frozen=True)
class TokenF1:
    """The best token F1 over the gold answers.

    Attributes:
      threshold: in (0, 1]; a verdict is then 1 if F1 reaches it, else 0. `None` gives F1 itself.
    """

    threshold: float | None = None

    def __post_init__(self):
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise InvalidValueError(
                f"TokenF1.threshold is {self.threshold!r}; it must be in (0, 1], or None for F1 itself"
            )

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns F1 per item, or 0 or 1 if there is a threshold."""
        scores = [max((token_f1(item.answer, gold) for gold in item.golds), default=0.0) for item in items]
        return scores if self.threshold is None else [float(score >= self.threshold) for score in scores]
