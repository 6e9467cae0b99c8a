"""Trees of instructions: an editor writes the edits, a model answers with them (LSE, arXiv 2603.18620, algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.checkpoint import units
from selfadapt.domains.instructions.environment import EditStyle, Environment, Evaluated
from selfadapt.domains.instructions.nodes import (
    Candidate,
    Room,
    Writer,
    continued,
    draw_batch,
    evaluate_nodes,
    summary_from_json,
    summary_to_json,
)
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.search import RULES, Child, Found, Node, Tree, grow
from selfadapt.telemetry.progress import Advance, Phase, silent

INVALID, SCORES = "invalid_edits", "scores"  # fields of nodes beside those of LSE's files


@dataclasses.dataclass(frozen=True)
class Growth:
    """How trees grow.

    Attributes:
      rounds: how often a node of each tree is edited.
      edits: edits of a selected node.
      selection: the rule that selects, see `selfadapt.search.Tree`.
      ucb_c: likewise.
      batch: problems of a summary.
      seed: draws the problems of summaries, and samples edits.
      temperature: of edits.
      top_p: of edits.
      stop: strings that end an answer.
    """

    rounds: int
    edits: int
    selection: str
    ucb_c: float
    batch: int
    seed: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> Growth:
        """Returns the growth that a resolved config describes.

        Raises:
          InvalidValueError: a field of `config.domain` is out of range.
        """
        fields = config.domain
        for name, least in (("tree_rounds", 0), ("tree_edits", 1), ("batch", 1), ("ucb_c", 0)):
            if not fields[name] >= least:
                raise InvalidValueError(f"config.domain.{name} is {fields[name]}; it must be at least {least}")
        if fields.selection not in RULES:
            raise InvalidValueError(
                f"config.domain.selection is {fields.selection!r}; it must be one of {', '.join(RULES)}"
            )
        return cls(
            rounds=fields.tree_rounds,
            edits=fields.tree_edits,
            selection=fields.selection,
            ucb_c=fields.ucb_c,
            batch=fields.batch,
            seed=config.seed,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            stop=tuple(config.answer.stop),
        )


def grow_trees(
    editor: Writer,
    student: Writer,
    environments: Sequence[Environment],
    style: EditStyle,
    room: Room,
    growth: Growth,
    phase: Phase = silent,
) -> list[Tree]:
    """Returns a tree of each environment, from its seed instruction; all grow together.

    Each round the selected node of every tree is edited. A new instruction is scored on the holdout, which is the same
    for all nodes of a tree, and gets its own summary. Random keys are made from the seed, the environment's id,
    the round and the sample, so a tree does not depend on the others. Work that takes long is looked up in
    `selfadapt.checkpoint.units.current()`.

    An edit without an instruction makes no node; its reason is recorded with the node that was edited.

    Args:
      editor: writes instructions.
      student: answers with them.
      environments: the environments, with different ids.
      style: how the editor reads and writes.
      room: checks the lengths of prompts.
      growth: how the trees grow.
      phase: wraps the growth, for a progress display.

    Raises:
      InvalidValueError: the summary of a seed makes a prompt that is too long for the editor.
    """
    with phase("grow trees", growth.rounds + 1) as advance:
        grower = _Grower(editor, student, environments, style, room, growth, advance)
        seeds = [environment.seed_instruction for environment in environments]
        how: dict[str, Any] = dict(selection=growth.selection, ucb_c=growth.ucb_c)
        return grow(seeds, growth.rounds, grower.write, grower.evaluate, **how)


@dataclasses.dataclass(frozen=True)
class _Grower:
    editor: Writer
    student: Writer
    environments: Sequence[Environment]
    style: EditStyle
    room: Room
    growth: Growth
    advance: Advance

    def write(self, round: int, nodes: Sequence[Node]) -> list[Child]:
        growth = self.growth

        def written() -> list[list[str]]:
            return continued(
                self.editor,
                [node.self_evolve_prompt for node in nodes],
                max_new_tokens=self.room.edit_tokens,
                temperature=growth.temperature,
                top_p=growth.top_p,
                seed=growth.seed,
                num_samples=growth.edits,
                ids=[f"tree {environment.id} {round}" for environment in self.environments],
            )

        children = []
        for place, texts in enumerate(units.current().once(f"edits {round}", written)):
            environment, node = self.environments[place], nodes[place]
            asked = [*environment.holdout, *self._batch(environment, round)]
            for text in texts:
                try:
                    instruction = self.style.parse_edit(text)
                    self.room.check_answers(environment, instruction, asked)
                except InvalidEdit as error:
                    _invalid(node, round, text, error)
                else:
                    children.append(Child(place, node, instruction, text))
        return children

    def evaluate(self, round: int, children: Sequence[Child]) -> list[Found | None]:
        def evaluated() -> list[dict[str, Any]]:
            candidates = [
                Candidate(environment, child.instructions, self._batch(environment, round))
                for child in children
                for environment in [self.environments[child.tree]]
            ]
            options: dict[str, Any] = dict(max_new_tokens=self.room.answer_tokens, stop=self.growth.stop)
            return [
                {"scores": result.scores, "summary": summary_to_json(result.summary)}
                for result in evaluate_nodes(self.student, candidates, **options)
            ]

        results = units.current().once(f"nodes {round}", evaluated)
        found = [self._found(child, round, **result) for child, result in zip(children, results, strict=True)]
        self.advance(1)
        return found

    def _found(
        self, child: Child, round: int, scores: Sequence[float], summary: Sequence[Mapping[str, Any]]
    ) -> Found | None:
        environment = self.environments[child.tree]
        prompt = self.style.edit_prompt(environment, child.instructions, summary_from_json(environment, summary))
        try:
            self.room.check_edit(prompt)
        except InvalidEdit as error:
            if child.parent is None:
                raise InvalidValueError(
                    f"environment {environment.id!r}: {error}; lower config.domain.batch or "
                    "config.sampling.max_new_tokens"
                ) from None
            _invalid(child.parent, round, child.conversation, error)
            return None
        kept = {"summary": list(summary), "self_evolve_prompt": prompt, "extra": {SCORES: list(scores)}}
        return Found(sum(scores) / len(scores), kept)

    def _batch(self, environment: Environment, round: int) -> tuple[Any, ...]:
        return draw_batch(environment, self.growth.batch, self.growth.seed, round)


def _invalid(node: Node, round: int, text: str, error: InvalidEdit) -> None:
    node.extra.setdefault(INVALID, []).append({"round_idx": round, "text": text, "reason": str(error)})


def read_summary(environment: Environment, node: Node) -> tuple[Evaluated, ...]:
    """Returns the summary of a node of a tree of this environment."""
    return summary_from_json(environment, node.summary)
