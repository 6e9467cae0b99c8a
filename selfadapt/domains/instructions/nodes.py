"""Evaluates many instructions of many environments in one batch: on holdouts, and on the problems of summaries."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from selfadapt.domains.common import count_tokens, fits
from selfadapt.domains.instructions.environment import Environment, Evaluated, Problem, Verdict, evaluated
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidEdit
from selfadapt.models.endpoint import Endpoint
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy

Writer = Policy | Endpoint  # what writes answers, or edits


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An instruction to evaluate.

    Attributes:
      environment: its environment.
      instruction: the instruction.
      batch: the problems of the pool that its summary is made of.
    """

    environment: Environment
    instruction: str
    batch: tuple[Problem, ...] = ()


class Asked(NamedTuple):
    """Problems that a model answers with an instruction.

    Attributes:
      environment: their environment.
      instruction: the instruction.
      problems: the problems.
    """

    environment: Environment
    instruction: str
    problems: Sequence[Problem]


@dataclasses.dataclass(frozen=True)
class NodeResult:
    """How a model answers with an instruction.

    Attributes:
      scores: the reward of each problem of the holdout, in [0, 1].
      summary: the answers to the problems of the batch.
    """

    scores: tuple[float, ...]
    summary: tuple[Evaluated, ...]


def evaluate_nodes(
    model: Writer,
    candidates: Sequence[Candidate],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
) -> list[NodeResult]:
    """Evaluates instructions, all in one `generate`; answers are greedy, and equal prompts are answered once.

    Args:
      model: the model that answers.
      candidates: the instructions.
      max_new_tokens: the most tokens of an answer.
      stop: strings that end an answer.
    """
    asked = [Asked(each.environment, each.instruction, (*each.environment.holdout, *each.batch)) for each in candidates]
    results = []
    for each, lines in zip(candidates, answered(model, asked, max_new_tokens=max_new_tokens, stop=stop), strict=True):
        first = len(lines) - len(each.batch)
        results.append(NodeResult(tuple(line.verdict.reward for line in lines[:first]), tuple(lines[first:])))
    return results


def answered(
    model: Writer, asked: Sequence[Asked], *, max_new_tokens: int, stop: Sequence[str] = ()
) -> list[list[Evaluated]]:
    """Answers problems, all in one `generate`, and returns them with their verdicts; arguments as `evaluate_nodes`."""
    prompts = [[each.environment.prompt(problem, each.instruction) for problem in each.problems] for each in asked]
    different = list(dict.fromkeys(itertools.chain.from_iterable(prompts)))
    texts = continued(model, different, max_new_tokens=max_new_tokens, stop=tuple(stop)) if different else []
    answer = dict(zip(different, texts, strict=True))
    return [
        evaluated(each.environment, each.problems, [answer[prompt] for prompt in own])
        for each, own in zip(asked, prompts, strict=True)
    ]


def continued(writer: Writer, prompts: Sequence[str], **options: Any) -> list[Any]:
    """Returns what `generate` returns for a policy, whose adapter is used if it has one, or an endpoint's replies."""
    if isinstance(writer, Endpoint):
        return writer.generate(prompts, **options)
    if writer.adapter is None:
        return generate(writer.model, prompts, **options)
    return generate(writer.model, [prompts], adapters=writer.adapter, **options)[0]


def draw_batch(environment: Environment, count: int, seed: int, round: int) -> tuple[Problem, ...]:
    """Returns the problems that the summaries of a round are made of; they do not depend on the instruction.

    They are drawn without replacement where the pool has enough.
    """
    draw = random.Random(f"summary {seed} {environment.id} {round}")
    pool = list(environment.pool)
    return tuple(draw.sample(pool, count) if count <= len(pool) else draw.choices(pool, k=count))


def summary_to_json(summary: Iterable[Evaluated]) -> list[dict[str, Any]]:
    """Returns a summary as JSON values."""
    return [
        {
            "problem": line.problem.id,
            "question": line.problem.question,
            "answer": line.answer,
            "truth": line.problem.truth,
            "reward": line.verdict.reward,
            "error": line.verdict.error,
        }
        for line in summary
    ]


def summary_from_json(environment: Environment, lines: Iterable[Mapping[str, Any]]) -> tuple[Evaluated, ...]:
    """Returns the summary that `summary_to_json` wrote; its problems are those of the environment."""
    problems = {problem.id: problem for problem in (*environment.holdout, *environment.pool)}
    return tuple(
        Evaluated(problems[line["problem"]], line["answer"], Verdict(line["reward"], line["error"])) for line in lines
    )


@dataclasses.dataclass(frozen=True)
class Room:
    """How many tokens prompts may have; an endpoint's are not counted.

    Attributes:
      editor: the model that writes instructions.
      model: the model that answers.
      edit_tokens: the most tokens of an edit.
      answer_tokens: the most tokens of an answer.
    """

    editor: Model | Endpoint
    model: Model | Endpoint
    edit_tokens: int
    answer_tokens: int

    def check_answers(self, environment: Environment, instruction: str, problems: Iterable[Problem]) -> None:
        """Raises InvalidEdit if an instruction makes a prompt of a problem too long for the model."""
        for problem in problems:
            _check(self.model, environment.prompt(problem, instruction), self.answer_tokens, "the instruction")

    def check_edit(self, prompt: str) -> None:
        """Raises InvalidEdit if a prompt for an edit is too long for the editor."""
        _check(self.editor, prompt, self.edit_tokens, "the summary")


def _check(model: Model | Endpoint, prompt: str, new: int, what: str) -> None:
    if isinstance(model, Endpoint):
        return
    limit = model.config.max_position_embeddings - new
    if not fits(model.tokenizer, prompt, limit):
        tokens = count_tokens(model.tokenizer, prompt)
        raise InvalidEdit(f"{what} makes a prompt of {tokens} tokens, and the model's context leaves {limit}")
