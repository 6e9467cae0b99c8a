"""The continual protocol: streams of passages, each learned on top of what was learned before (SEAL, section 5).

Variants are what streams learn from, remedies how they learn it; `steps` runs each combination on the same streams.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from selfadapt.domains import Domain, make_domain
from selfadapt.errors import InvalidValueError
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model
from selfadapt.protocols.base import Measured, Run
from selfadapt.protocols.continual import output, remedies
from selfadapt.protocols.continual.anchors import read_anchors
from selfadapt.protocols.continual.remedies import ANCHORED, SUM, Condition
from selfadapt.protocols.continual.steps import Steps
from selfadapt.protocols.continual.streams import Stream, draw
from selfadapt.protocols.variants import NONE, UNTRAINED, check_domain, check_fields, load_models
from selfadapt.types import TrainingSequence


@dataclasses.dataclass(frozen=True)
class Continual:
    """The protocol; `make` builds it from a config.

    Attributes:
      config: the resolved config.
      domain: supplies prompts, updates and verdicts.
      streams: the passages of each stream.
      models: the model that the streams of each variant start from.
      anchors: texts for the remedy that holds models near what they were; none without it.
    """

    config: Any
    domain: Domain
    streams: list[Stream]
    models: Mapping[str, Model]
    anchors: tuple[TrainingSequence, ...] = ()

    @property
    def conditions(self) -> list[Condition]:
        """Every variant with every remedy, in the order in which they run; there is no remedy for learning nothing."""
        fields = self.config.protocol
        return [
            Condition(variant, remedy)
            for variant in fields.variants
            for remedy in ((SUM,) if variant == NONE else fields.remedies)
        ]

    def run(self, run: Run) -> Measured:
        """Measures every condition, one after the other."""
        results: dict[Condition, output.Result] = {}
        shared: dict[Condition, dict[int, Adapters]] = collections.defaultdict(dict)
        for number, condition in enumerate(self.conditions):
            source, model = condition.trained_by, self.models[condition.variant]
            steps = Steps(self.config, self.domain, self.streams, model, condition, run, shared[source], self.anchors)
            rows = steps.rows()
            results[condition] = output.Result(output.matrices(rows), output.failures(rows), steps.cost())
            if all(other.trained_by != source for other in self.conditions[number + 1 :]):
                # The trained adapters are no longer needed, and are removed.
                del shared[source]
                run.stored.within(source.name).once("finished", lambda: True)
        return output.measured(self.config, self.streams, results)


def make(config: Any, domain: Domain | None = None) -> Continual:
    """Makes the protocol from a resolved config.

    Args:
      config: starts from `selfadapt.protocols.defaults.protocol`.
      domain: a domain to use in place of the one that `config.domain` names.

    Raises:
      UserError: a field, the data or a model cannot be used.
    """
    fields = config.protocol
    for name in ("runs", "streams", "passages"):
        if fields[name] < 1:
            raise InvalidValueError(f"config.protocol.{name} is {fields[name]}; it must be at least 1")
    check_fields(config)
    remedies.check(fields)
    untrained, policy = load_models(config)
    if domain is None:
        domain = make_domain(config, policy)
    pool = domain.tasks("heldout", config.evaluation.contexts)
    streams = draw(pool, fields.runs, fields.streams, fields.passages, fields.seed, fields.disjoint)
    tasks = {task.id: task for stream in streams for task in stream.tasks}.values()
    check_domain(config, domain, list(tasks))
    models = {name: untrained if name == UNTRAINED else policy for name in fields.variants}
    anchors = read_anchors(config, policy) if ANCHORED in fields.remedies else ()
    return Continual(config, domain, streams, models, anchors)
