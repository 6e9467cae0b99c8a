"""Graders that ask a model: its likelihood of the gold answer, or its judgement in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from selfadapt.errors import InvalidValueError
from selfadapt.graders.text import GradeItem

_WORD = re.compile(r"[a-z]+")


def parse_verdict(reply: str) -> bool:
    """Returns whether a judge said yes: the reply has the word "yes" and not the word "no" (SEAL's rule).

    >>> parse_verdict("**Yes.**"), parse_verdict("No, yes is wrong"), parse_verdict("I cannot know")
    (True, False, False)
    """
    words = set(_WORD.findall(reply.lower()))
    return "yes" in words and "no" not in words


def judge_prompt(item: GradeItem) -> str:
    """Returns the text that asks a judge for one word, yes or no."""
    golds = "\n".join(f"Reference answer: {gold}" for gold in item.golds)
    return (
        "Decide whether an answer is right. It is right if it says all that one of the reference answers says "
        "and contradicts none of them; wording, length and extra correct detail do not matter.\n\n"
        f"Question: {item.question}\n{golds}\nAnswer to judge: {item.answer.strip()}\n\n"
        "Is the answer right? Say yes or no.\nVerdict:"
    )


class ModelJudge:
    """The policy, or any model at hand, as judge. Empty answers are wrong without being asked about."""

    def __init__(self, generate_fn: Callable[[list[str]], list[str]]):
        """Wraps a model.

        Args:
          generate_fn: continues each prompt, greedily and for a few tokens.
        """
        self._generate = generate_fn

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns 0 or 1 an item, by the first line that the model writes."""
        asked = [i for i, item in enumerate(items) if item.answer.strip()]
        replies = self._generate([judge_prompt(items[i]) for i in asked]) if asked else []
        if len(replies) != len(asked):
            raise InvalidValueError(f"the judge's generate_fn gave {len(replies)} replies to {len(asked)} prompts")
        verdicts = [0.0] * len(items)
        for i, reply in zip(asked, replies, strict=True):
            # A base model goes on after its verdict, often with a question of its own.
            verdicts[i] = float(parse_verdict((reply.strip().splitlines() or [""])[0]))
        return verdicts


class LogLikelihoodGrader:
    """How likely the adapted model finds the gold answers. What it answered is not looked at."""

    def __init__(self, score_fn: Callable[[list[str], list[str]], Sequence[float]], threshold: float | None = None):
        """Wraps a scorer.

        Args:
          score_fn: maps (prompts, targets) to the mean log-probability per target token, in nats.
          threshold: in nats per token; a verdict is then 1 where the best gold reaches it. `None` gives
            the best gold's geometric-mean token probability, which lies in [0, 1].
        """
        if threshold is not None and not threshold <= 0:
            raise InvalidValueError(f"the log-likelihood threshold is {threshold!r}; a log-probability is at most 0")
        self._score = score_fn
        self._threshold = threshold

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns a verdict in [0, 1] an item: the best over its gold answers."""
        owners = [i for i, item in enumerate(items) for _ in item.golds]
        prompts = [items[i].prompt or items[i].question for i in owners]
        targets = [gold for item in items for gold in item.golds]
        scores = self._score(prompts, targets) if owners else []
        if len(scores) != len(owners):
            raise InvalidValueError(f"the grader's score_fn gave {len(scores)} scores for {len(owners)} targets")
        best = [-math.inf] * len(items)
        for i, score in zip(owners, scores, strict=True):
            best[i] = max(best[i], float(score))  # a NaN never wins
        if self._threshold is None:
            return [min(math.exp(score), 1.0) for score in best]
        return [float(score >= self._threshold) for score in best]
