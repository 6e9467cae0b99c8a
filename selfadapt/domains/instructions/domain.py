"""LSE's domain (arXiv 2603.18620): an edit is a new instruction, and its reward is measured on a fixed holdout.

The policy is the editor; the student is the model that answers, and it stays as it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.checkpoint import units
from selfadapt.domains.base import Applied
from selfadapt.domains.instructions.environment import (
    EditStyle,
    Environment,
    EnvironmentSource,
    Evaluated,
    Explained,
)
from selfadapt.domains.instructions.growing import Growth, grow_trees, read_summary
from selfadapt.domains.instructions.nodes import Room, Writer
from selfadapt.domains.instructions.sources import chat_tokenizer, make_source
from selfadapt.domains.instructions.style import FIELDS, REWRITE, TaggedStyle
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.models.endpoint import Endpoint
from selfadapt.models.model import Model
from selfadapt.models.policy import State
from selfadapt.search import Tree
from selfadapt.telemetry.progress import Phase
from selfadapt.templates import SUFFIX, load_template
from selfadapt.types import ContextEdit, Question, Task

PROMPT = "rewrite"  # the key of the edit prompt that the package has


@dataclasses.dataclass(frozen=True)
class Situation:
    """What the editor rewrites; the data of a task.

    Attributes:
      environment: the environment.
      instruction: the current instruction.
      summary: how the model answered some problems of the pool with it.
    """

    environment: Environment
    instruction: str
    summary: tuple[Evaluated, ...] = ()


@dataclasses.dataclass(frozen=True)
class Instructions:
    """The domain; `make` builds it from a config.

    Held-out tasks are environments with their seed instructions. Training tasks are the nodes of trees that the
    untrained editor has grown on training environments, those of the largest potential first (`by_potential`).

    Attributes:
      source: supplies environments.
      style: how the editor reads summaries and writes instructions.
      room: checks the lengths of prompts.
      environments: the number of training environments.
      heldout: the number of held-out ones.
      growth: how the trees grow.
      situations: for each split its situations by task id, in order; empty before `prepare`.
      trees: those of the training environments, by id; empty before `prepare`.
    """

    source: EnvironmentSource
    style: EditStyle
    room: Room
    environments: int
    heldout: int
    growth: Growth
    situations: Mapping[str, Mapping[str, Situation]] = dataclasses.field(default_factory=dict)
    trees: Mapping[str, Tree] = dataclasses.field(default_factory=dict)

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns tasks: the next ones each round for "train", and again from the first after the last.

        Raises:
          UserError: there are too few environments, or a prompt is too long for a model.
        """
        situations = self.situations.get(split) or (self._train if split == "train" else self._held_out)
        if split != "train":
            if count > len(situations):
                raise InvalidValueError(f"there are {len(situations)} held-out environments, and {count} are needed")
            return [_task(*each) for each in list(situations.items())[:count]]
        turns = list(situations.items())
        tasks = []
        for place in range(count * round, count * (round + 1)):
            turn, index = divmod(place, len(turns))
            id, situation = turns[index]
            tasks.append(_task(f"{id}, turn {turn + 1}" if turn else id, situation))
        return tasks

    @functools.cached_property
    def _train(self) -> dict[str, Situation]:
        return self._seeds("train", self.environments)

    @functools.cached_property
    def _held_out(self) -> dict[str, Situation]:
        return self._seeds("heldout", self.heldout)

    def _seeds(self, split: str, count: int) -> dict[str, Situation]:
        """Returns the environments of a split with their seed instructions, and without summaries."""
        found = self.source.environments(split, count)
        for environment in found:
            try:
                self.room.check_answers(
                    environment, environment.seed_instruction, [*environment.holdout, *environment.pool]
                )
            except InvalidEdit as error:
                raise InvalidValueError(
                    f"{self.source.name}: environment {environment.id!r}: with its seed, {error}; lower "
                    "config.answer.max_new_tokens, or use a model with a longer context"
                ) from None
        return {each.id: Situation(each, each.seed_instruction) for each in found}

    def prepare(self, state: State, phase: Phase) -> Instructions:
        """Returns the domain with the situations that the state's policy and student make.

        Raises:
          InvalidValueError: the summary of a seed makes a prompt that is too long for the editor.
        """
        environments = [each.environment for each in self._held_out.values()]
        with units.current().within("heldout").active():
            roots = self.grow(state.policy, state.student, environments, phase, rounds=0)
        heldout = {
            id: dataclasses.replace(seed, summary=read_summary(seed.environment, tree.root))
            for (id, seed), tree in zip(self._held_out.items(), roots, strict=True)
        }
        environments = [each.environment for each in self._train.values()]
        with units.current().within("train").active():
            trees = self.grow(state.policy, state.student, environments, phase)
        situations = {"heldout": heldout, "train": by_potential(environments, trees)}
        named = {environment.id: tree for environment, tree in zip(environments, trees, strict=True)}
        return dataclasses.replace(self, situations=situations, trees=named)

    def grow(
        self, editor: Writer, student: Writer, environments: Sequence[Environment], phase: Phase, **changes: Any
    ) -> list[Tree]:
        """Returns trees that grow as the domain's do; `changes` are fields of its `Growth`."""
        growth = dataclasses.replace(self.growth, **changes)
        return grow_trees(editor, student, environments, self.style, self.room, growth, phase)

    def artifacts(self) -> Mapping[str, Any]:
        """Returns the trees of the training environments, as LSE's `tree.json`."""
        return {f"trees/{id}/tree.json": tree.to_json() for id, tree in self.trees.items()}

    def _prompt(self, situation: Situation) -> str:
        return self.style.edit_prompt(situation.environment, situation.instruction, situation.summary)

    def edit_prompt(self, task: Task) -> str:
        """Returns the text that the editor continues with a new instruction."""
        return self._prompt(task.data)

    def apply(self, task: Task, text: str | None) -> Applied:
        """Returns the new instruction as a context; without an edit, the current one.

        Raises:
          InvalidEdit: the text has no instruction that can be used, or one that makes prompts too long.
        """
        if text is None:
            return self.unchanged(task)
        instruction = self.style.parse_edit(text)
        environment = task.data.environment
        self.room.check_answers(environment, instruction, environment.holdout)
        return ContextEdit(instruction)

    def unchanged(self, task: Task) -> Applied:
        """Returns the current instruction."""
        return ContextEdit(task.data.instruction)

    def baseline(self, task: Task) -> Applied:
        """Returns the current instruction, which is asked the same holdout as the edits."""
        return self.unchanged(task)

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the prompts of the holdout; without a context, which no edit is, with the current instruction."""
        environment = task.data.environment
        return [environment.prompt(problem, context or task.data.instruction) for problem in environment.holdout]

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns the environment's verdict on each answer."""
        environments = [task.data.environment for task in tasks]
        return [
            [verdict.reward for verdict in environment.verdicts(environment.holdout, texts)]
            for environment, texts in zip(environments, answers, strict=True)
        ]

    def oracle(self, task: Task) -> str | None:
        """Returns the source's best instruction, if it knows one."""
        return self.source.oracle(task.data.environment) if isinstance(self.source, Explained) else None

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns the source's counts of an instruction's parts, if it has them; empty for an invalid edit."""
        if not isinstance(self.source, Explained):
            return {}
        try:
            return self.source.describe(task.data.environment, self.style.parse_edit(text))
        except InvalidEdit:
            return {}


def by_potential(environments: Sequence[Environment], trees: Sequence[Tree]) -> dict[str, Situation]:
    """Returns the nodes of trees as situations, by an id made of the environment's and the node's.

    The first has the largest potential: how much better the best node of its tree is. Of nodes with the same prompt
    only the first is there (LSE's code orders and filters its training examples so).

    Args:
      environments: the environment of each tree.
      trees: trees that `grow_trees` returned.
    """
    nodes = [
        (environment, node, tree.potential(node) or 0.0)
        for environment, tree in zip(environments, trees, strict=True)
        for node in tree.nodes
    ]
    found: dict[str, Situation] = {}
    prompts = set()
    for environment, node, _ in sorted(nodes, key=lambda each: -each[2]):
        if node.self_evolve_prompt not in prompts:
            prompts.add(node.self_evolve_prompt)
            situation = Situation(environment, node.instructions, read_summary(environment, node))
            found[f"{environment.id}/{node.id}"] = situation
    return found


def _task(id: str, situation: Situation) -> Task:
    holdout = situation.environment.holdout
    questions = tuple(Question(problem.question, (problem.truth,), problem.id) for problem in holdout)
    return Task(id, situation.instruction, questions, situation.environment.id, situation)


def make(
    config: Any, policy: Model, student: Model | Endpoint | None = None, *, source: EnvironmentSource | None = None
) -> Instructions:
    """Makes the domain from an experiment (`selfadapt.defaults.experiment("instructions")`).

    Args:
      config: the resolved experiment.
      policy: the model that writes instructions.
      student: the model that answers; the policy by default.
      source: environments of your own, in place of what `config.data` describes.

    Raises:
      UserError: a field's value cannot be used, or the data cannot be used with these models.
    """
    student = policy if student is None else student
    fields = config.domain
    environments = fields.get("environments", 1)  # an evaluation has none to train on
    if environments < 1:
        raise InvalidValueError(f"config.domain.environments is {environments}; it must be at least 1")
    source = make_source(config, student) if source is None else source
    return Instructions(
        source=source,
        style=source.style or make_style(config, policy),
        room=Room(policy, student, config.sampling.max_new_tokens, config.answer.max_new_tokens),
        environments=environments,
        heldout=config.evaluation.contexts,
        growth=Growth.of(config),
    )


def make_style(config: Any, policy: Model | Endpoint) -> TaggedStyle:
    """Returns the style that `config.domain.prompt` and `config.domain.chat` describe for a model that writes edits.

    Raises:
      UserError: the template cannot be used, or the policy's tokenizer has no chat template.
    """
    fields = config.domain
    template = REWRITE
    if fields.prompt.endswith(SUFFIX):
        template = load_template(fields.prompt, ("instruction", "summary"), FIELDS, field="config.domain.prompt")
    elif fields.prompt != PROMPT:
        raise InvalidValueError(
            f"config.domain.prompt is {fields.prompt!r}; it must be {PROMPT!r}, or a template file, {SUFFIX}, with "
            "{instruction} and {summary}"
        )
    return TaggedStyle(template, chat_tokenizer(config, policy))
