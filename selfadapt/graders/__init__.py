"""Graders: each has `grade(items) -> verdicts in [0, 1]`; `get_grader` makes one by name. Rubrics rate edits."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from selfadapt.errors import InvalidValueError
from selfadapt.graders.endpoint import EndpointJudge
from selfadapt.graders.model import JUDGE_FIELDS, LogLikelihoodGrader, ModelJudge, judge_prompt, parse_verdict
from selfadapt.graders.rubric import CRITERIA, RUBRIC_FIELDS, JudgedRubric, Ratings, Rubric, parse_ratings, proxy_reward
from selfadapt.graders.text import Containment, Exact, GradeItem, Grader, TokenF1, normalize_answer, token_f1

GRADERS: dict[str, Callable[..., Grader]] = {
    "exact": Exact,
    "containment": Containment,
    "token-f1": TokenF1,
    "log-likelihood": LogLikelihoodGrader,
    "model": ModelJudge,
    "endpoint": EndpointJudge,
}

__all__ = [
    "CRITERIA",
    "GRADERS",
    "JUDGE_FIELDS",
    "RUBRIC_FIELDS",
    "Containment",
    "EndpointJudge",
    "Exact",
    "GradeItem",
    "Grader",
    "JudgedRubric",
    "LogLikelihoodGrader",
    "ModelJudge",
    "Ratings",
    "Rubric",
    "TokenF1",
    "get_grader",
    "judge_prompt",
    "normalize_answer",
    "parse_ratings",
    "parse_verdict",
    "proxy_reward",
    "token_f1",
]


def get_grader(name: str, **options: Any) -> Grader:
    """Makes a grader.

    Args:
      name: a key of `GRADERS`; underscores are read as hyphens.
      **options: the arguments of that grader.

    Raises:
      InvalidValueError: there is no such grader (the nearest name is suggested), it has no such option, or an option
        that it needs is missing.

    >>> get_grader("token-f1", threshold=0.5)
    TokenF1(threshold=0.5)
    """
    key = name.replace("_", "-")
    if key not in GRADERS:
        near = difflib.get_close_matches(key, GRADERS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidValueError(f"there is no grader {name!r}{hint} (the graders are {', '.join(GRADERS)})")
    signature = inspect.signature(GRADERS[key])
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise InvalidValueError(f"grader {key!r}: {error}; it takes {takes}") from None
    return GRADERS[key](**options)
