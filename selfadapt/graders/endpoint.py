"""A judge behind any OpenAI-compatible chat endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.graders.model import JUDGE_FIELDS, judge_prompt, parse_verdict
from selfadapt.graders.text import GradeItem
from selfadapt.models.endpoint import Endpoint
from selfadapt.templates import check_template


class EndpointJudge(Endpoint):
    """Grades by asking a chat model for yes or no; empty answers are wrong without a request."""

    _called = "the judge"

    def __init__(self, model: str, *, parameters: Mapping[str, Any] | None = None, prompt: str = "", **options: Any):
        """Describes the judge; nothing is sent before `grade`.

        Args:
          model: the model's name at the endpoint.
          parameters: further fields of the request's body; by default `{"temperature": 0}`.
          prompt: the template of the judge's prompt, see `judge_prompt`; "" for the built-in one.
          **options: the other arguments of `selfadapt.models.endpoint.Endpoint`, such as `url` and `cache`.

        Raises:
          ValueError: an argument is out of range, or the key's environment variable is not set.
        """
        super().__init__(model, parameters={"temperature": 0} if parameters is None else parameters, **options)
        self._prompt = check_template(prompt, "the judge's prompt", JUDGE_FIELDS) if prompt else ""

    def grade(self, items: Sequence[GradeItem]) -> list[float]:
        """Returns 0 or 1 per item.

        Raises:
          BudgetExceeded: `max_requests` are spent and answers are left.
          EndpointError: the endpoint refused, or failed `attempts` times.
        """
        asked = [i for i, item in enumerate(items) if item.answer.strip()]
        verdicts = [0.0] * len(items)
        for i, reply in zip(asked, self.replies([judge_prompt(items[i], self._prompt) for i in asked]), strict=True):
            verdicts[i] = float(parse_verdict(reply))
        return verdicts
