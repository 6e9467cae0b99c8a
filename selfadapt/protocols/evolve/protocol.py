"""The evolution protocol: how good instructions become when an editor may write a number of edits.

The variants that grow trees write the same number of edits for each environment, `tree_rounds` x `tree_edits`, and
every valid edit is evaluated once; GEPA takes as many answers. The environments of a variant are worked on together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.domains import Domain, make_domain
from selfadapt.domains.instructions import Candidate, Environment, Explained, Instructions, Writer, evaluate_nodes
from selfadapt.errors import InvalidValueError
from selfadapt.models.endpoint import Endpoint
from selfadapt.models.policy import Policy
from selfadapt.protocols.base import Measured, Run
from selfadapt.protocols.evolve import gepa, output, textgrad
from selfadapt.protocols.evolve.editors import Editor, make_editors, make_student
from selfadapt.protocols.evolve.output import Evolved
from selfadapt.protocols.evolve.variants import EVOLVED, GEPA, ORACLE, TEXTGRAD, TRAINED, VARIANTS
from selfadapt.protocols.variants import check_fields, load_models
from selfadapt.telemetry.progress import Advance


@dataclasses.dataclass(frozen=True)
class Evolve:
    """The protocol; `make` builds it from a config.

    Attributes:
      config: the resolved config.
      domain: supplies prompts, verdicts and the growth of trees.
      environments: the held-out environments.
      editors: the editors by name.
      student: the model that answers.
    """

    config: Any
    domain: Instructions
    environments: Sequence[Environment]
    editors: Mapping[str, Editor]
    student: Writer

    def run(self, run: Run) -> Measured:
        """Measures every variant of the config, one after the other."""
        growth = self.domain.growth
        variants: dict[str, list[Evolved]] = {}
        edits: dict[str, int] = {}  # of a round
        for name in self.config.protocol.variants:
            with run.stored.within(name).active() as place:
                if name in EVOLVED:
                    changes = EVOLVED[name].changes(growth.rounds, growth.edits)
                    variants[name] = self._evolved(run, name, changes)
                    edits[name] = changes.get("edits", growth.edits)
                else:
                    instructions = self._instructions(name)
                    given = place.once("scores", functools.partial(self._scores, instructions))
                    variants[name] = [
                        Evolved([scores], [0], [], instruction, len(scores))
                        for scores, instruction in zip(given, instructions, strict=True)
                    ]
            found = [one.measures(self.config.protocol.folds, self.config.seed) for one in variants[name]]
            honest, best = (float(np.mean([each[key] for each in found])) for key in (output.HONEST, output.BEST))
            run.writer.event("evolved", variant=name, honest=honest, best=best)
        return output.measured(self.config, [each.id for each in self.environments], variants, edits)

    def _evolved(self, run: Run, name: str, changes: Mapping[str, Any]) -> list[Evolved]:
        editor, shape = self.editors[EVOLVED[name].editor], EVOLVED[name].shape

        def phase(what: str, total: int) -> contextlib.AbstractContextManager[Advance]:
            return run.phase(what, total, "answer" if shape == GEPA else "round", name, 0)

        if shape == GEPA:
            trees = gepa.optimize(editor.writer, editor.domain, self.student, self.environments, phase)
        elif shape == TEXTGRAD:
            growth = dataclasses.replace(editor.domain.growth, **changes)
            domain = dataclasses.replace(editor.domain, growth=growth)
            options = textgrad.Options(**self.config.protocol.textgrad)
            trees = textgrad.descend(editor.writer, domain, self.student, self.environments, options, phase)
        else:
            trees = editor.domain.grow(editor.writer, self.student, self.environments, phase, **changes)
        for environment, tree in zip(self.environments, trees, strict=True):
            for line in output.edit_lines(name, environment.id, tree):
                run.writer.edit(line)
        return [Evolved.of(tree) for tree in trees]

    def _instructions(self, name: str) -> list[str]:
        source = self.domain.source
        if name == ORACLE and isinstance(source, Explained):
            return [source.oracle(environment) for environment in self.environments]
        return [environment.seed_instruction for environment in self.environments]

    def _scores(self, instructions: Sequence[str]) -> list[list[float]]:
        candidates = [Candidate(*each) for each in zip(self.environments, instructions, strict=True)]
        options: dict[str, Any] = dict(max_new_tokens=self.domain.room.answer_tokens, stop=self.domain.growth.stop)
        return [list(found.scores) for found in evaluate_nodes(self.student, candidates, **options)]


def make(config: Any, domain: Domain | None = None) -> Evolve:
    """Makes the protocol from a resolved config.

    Args:
      config: starts from `selfadapt.protocols.defaults.protocol("evolve")`.
      domain: a domain to use in place of the one that `config.domain` names.

    Raises:
      UserError: a field, the data or a model cannot be used.
    """
    fields = config.protocol
    check_fields(config, VARIANTS)
    for name in fields.variants:
        if name in EVOLVED and EVOLVED[name].editor == TRAINED and not fields.policy:
            raise InvalidValueError(
                f"config.protocol.variants has {name!r}, and config.protocol.policy names no trained editor; give the "
                "workdir of a finished run of `selfadapt train`"
            )
        if name in EVOLVED and EVOLVED[name].shape == GEPA:
            gepa.package()
    textgrad.Options(**fields.textgrad)
    untrained, trained = load_models(config)
    student = make_student(config, untrained)
    domain = make_domain(config, untrained, student) if domain is None else domain
    if not isinstance(domain, Instructions):
        raise InvalidValueError(
            f"config.domain.name is {config.domain.name!r}; the protocol 'evolve' needs the domain 'instructions'"
        )
    if domain.growth.rounds < 1:
        raise InvalidValueError("config.domain.tree_rounds is 0; it must be at least 1")
    if ORACLE in fields.variants and not isinstance(domain.source, Explained):
        raise InvalidValueError(f"config.protocol.variants has {ORACLE!r}, which {domain.source.name} does not know")
    environments = [task.data.environment for task in domain.tasks("heldout", config.evaluation.contexts)]
    for environment in environments:
        size = len(environment.holdout)
        if not 2 <= fields.folds <= size or size % fields.folds:
            raise InvalidValueError(
                f"config.protocol.folds is {fields.folds}, and the holdout of {environment.id!r} has {size} problems; "
                "it must be at least 2 and divide their number"
            )
    editors = make_editors(config, domain, untrained, trained)
    return Evolve(config, domain, environments, editors, student if isinstance(student, Endpoint) else Policy(student))
