"""Graders that use a model: its likelihood of the gold answers, or its verdict in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from selfadapt.errors import InvalidValueError
from selfadapt.graders.text import GradeItem
from selfadapt.templates import check_template

_WORD = re.compile(r"[a-z]+")


def parse_verdict(reply: str) -> bool:
    """Returns whether a judge said yes: the reply has the word "yes" and not the word "no" (SEAL's rule).

    >>> parse_verdict("**Yes.**"), parse_verdict("No, yes is wrong"), parse_verdict("I cannot know")
    (True, False, False)
    """
    words = set(_WORD.findall(reply.lower()))
    return "yes" in words and "no" not in words


JUDGE_FIELDS = ("question", "gold", "answer")  # of a judge's prompt template


def judge_prompt(item: GradeItem, template: str = "") -> str:
    """Returns the text that asks a judge for one word, yes or no.

    Args:
      item: the answer to grade.
      template: a text with `{question}`, `{gold}` (the gold answers, one per line) and `{answer}`; "" for the
        built-in prompt.
    """
    answer = item.answer.strip()
    if template:
        return template.format(question=item.question, gold="\n".join(item.golds), answer=answer)
    golds = "\n".join(f"Reference answer: {gold}" for gold in item.golds)
    return (
        "Decide whether an answer is right. It is right if it says all that one of the reference answers says "
        "and contradicts none of them; wording, length and extra correct detail do not matter.\n\n"
        f"Question: {item.question}\n{golds}\nAnswer to judge: {answer}\n\n"
        "Is the answer right? Say yes or no.\nVerdict:"
    )


class ModelJudge:
    """Grades by asking a model at hand, such as the policy, for yes or no. Empty answers are wrong without asking."""

    def __init__(self, generate_fn: Callable[[list[str]], list[str]], *, prompt: str = ""):
        """Wraps a model.

        Args:
          generate_fn: continues each prompt, greedily and for a few tokens.
          prompt: the template of the judge's prompt, see `judge_prompt`; "" for the built-in one.

        Raises:
          InvalidValueError: a placeholder of the template is unknown or missing.
        """
        self._generate = generate_fn
        self._prompt = check_template(prompt, "the judge's prompt", JUDGE_FIELDS) if prompt else ""

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns 0 or 1 per item, by the first line that the model writes."""
        asked = [i for i, item in enumerate(items) if item.answer.strip()]
        replies = self._generate([judge_prompt(items[i], self._prompt) for i in asked]) if asked else []
        if len(replies) != len(asked):
            raise InvalidValueError(f"the judge's generate_fn gave {len(replies)} replies to {len(asked)} prompts")
        verdicts = [0.0] * len(items)
        for i, reply in zip(asked, replies, strict=True):
            # A base model continues after its verdict, often with a question it makes up.
            verdicts[i] = float(parse_verdict((reply.strip().splitlines() or [""])[0]))
        return verdicts


class LogLikelihoodGrader:
    """Grades by the likelihood of the gold answers under the adapted model; its own answers are ignored."""

    def __init__(self, score_fn: Callable[[list[str], list[str]], Sequence[float]], threshold: float | None = None):
        """Wraps a scorer.

        Args:
          score_fn: maps (prompts, targets) to the mean log-probability per target token, in nats.
          threshold: in nats per token; a verdict is then 1 if the best gold answer reaches it, else 0. `None` gives
            the geometric mean of the best gold answer's token probabilities, in [0, 1].
        """
        if threshold is not None and not threshold <= 0:
            raise InvalidValueError(f"the log-likelihood threshold is {threshold!r}; a log-probability is at most 0")
        self._score = score_fn
        self._threshold = threshold

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns a verdict in [0, 1] per item: the best over its gold answers."""
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
