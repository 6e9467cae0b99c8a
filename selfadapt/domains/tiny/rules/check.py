"""Measures what the model of the world of rules can do: follow instructions, and write them after a summary."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence

import numpy as np

from selfadapt.domains.instructions.environment import Problem, evaluated
from selfadapt.domains.tiny.rules.families import read_pieces
from selfadapt.domains.tiny.rules.format import END, LineFormat
from selfadapt.domains.tiny.rules.source import RuleEnvironment, TinyRules, describe, oracle_instruction
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidEdit
from selfadapt.models.model import Model

FORMAT = LineFormat()
ANSWER_TOKENS, EDIT_TOKENS = 16, 96  # the longest edit has 12 lines of 8


def check(
    model: Model, *, environments: int = 32, problems: int = 5, edits: int = 4, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measures the abilities of the pretrained model on held-out environments.

    Edits are sampled at temperature 1, from the seed instruction and from every second line of the oracle's. Answers
    are the likeliest.

    Args:
      model: the model.
      environments: how many; the families take turns.
      problems: problems of the pool that a summary shows.
      edits: edits sampled for each instruction.
      seed: seeds environments and sampling.

    Returns:
      For each family, accuracies on the holdout: `seed`, `half` and `oracle` are those of the instructions,
      `seed_edited` and `half_edited` those after one edit (that of the instruction itself where the edit is invalid).
      And shares: of the lines of valid edits, `right`, `wrong` and `irrelevant`; `kept`, of the lines of the half that
      are in its valid edits; and `valid`, of all edits.
    """
    found = TinyRules(seed).environments("heldout", environments)
    rng = random.Random(f"tiny/rules/check/{seed}")
    batches = [rng.sample(environment.pool, problems) for environment in found]
    oracles = [oracle_instruction(environment) for environment in found]
    starts = {
        "seed": [environment.seed_instruction for environment in found],
        "half": ["\n".join(oracle.split("\n")[::2]) for oracle in oracles],
    }
    values: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for environment, accuracy in zip(found, _accuracies(model, found, oracles), strict=True):
        values[environment.rule.name]["oracle"].append(accuracy)
    for start, instructions in starts.items():
        written = _sample_edits(model, found, instructions, batches, edits, seed)
        groups = [[before, *after] for before, after in zip(instructions, written, strict=True)]
        accuracies = iter(
            _accuracies(
                model,
                [environment for environment, group in zip(found, groups, strict=True) for _ in group],
                [instruction for group in groups for instruction in group],
            )
        )
        for environment, (before, *after) in zip(found, groups, strict=True):
            entry = values[environment.rule.name]
            unedited = next(accuracies)
            entry[start].append(unedited)
            for instruction in after:
                scored = next(accuracies)  # of an invalid edit too, whose instruction is empty
                entry[f"{start}_edited"].append(scored if instruction else unedited)
                entry["valid"].append(bool(instruction))
                for kind in ("right", "wrong", "irrelevant"):
                    entry[kind] += [kind == which for which in _kinds(environment, instruction)]
                entry["kept"] += [line in read_pieces(instruction) for line in read_pieces(before) if instruction]
    return {
        name: {key: float(np.mean(some)) if some else 0.0 for key, some in sorted(entry.items())}
        for name, entry in values.items()
    }


def _kinds(environment: RuleEnvironment, instruction: str) -> list[str]:
    counts = describe(environment, instruction)
    return [kind for kind in ("right", "wrong", "irrelevant") for _ in range(counts[kind])]


def _sample_edits(
    model: Model,
    environments: Sequence[RuleEnvironment],
    instructions: Sequence[str],
    batches: Sequence[Sequence[Problem]],
    edits: int,
    seed: int,
) -> list[list[str]]:
    """Returns the new instructions for each environment, "" for an invalid one."""
    prompts = []
    answers = iter(_answers(model, environments, instructions, batches))
    for environment, instruction, batch in zip(environments, instructions, batches, strict=True):
        summary = evaluated(environment, batch, next(answers))
        prompts.append(FORMAT.edit_prompt(environment, instruction, summary))
    texts = generate(model, prompts, max_new_tokens=EDIT_TOKENS, temperature=1.0, num_samples=edits, seed=seed)
    return [list(map(_parse, samples)) for samples in texts]


def _parse(text: str) -> str:
    try:
        return FORMAT.parse_edit(text)
    except InvalidEdit:
        return ""


def _accuracies(model: Model, environments: Sequence[RuleEnvironment], instructions: Sequence[str]) -> list[float]:
    """Returns the accuracy on the holdout of each environment with its instruction."""
    holdouts = [environment.holdout for environment in environments]
    answers = _answers(model, environments, instructions, holdouts)
    return [
        float(np.mean([verdict.reward for verdict in environment.verdicts(environment.holdout, some)]))
        for environment, some in zip(environments, answers, strict=True)
    ]


def _answers(
    model: Model,
    environments: Sequence[RuleEnvironment],
    instructions: Sequence[str],
    problems: Sequence[Sequence[Problem]],
) -> list[list[str]]:
    prompts = [
        environment.prompt(problem, instruction)
        for environment, instruction, some in zip(environments, instructions, problems, strict=True)
        for problem in some
    ]
    texts = iter(generate(model, prompts, max_new_tokens=ANSWER_TOKENS, stop=END))
    return [[next(texts) for _ in some] for some in problems]
