"""The continual protocol: streams of passages, each learned on top of what was learned before (SEAL, section 5).

At step k every stream's current model (the base and the stream's accumulated adapter) writes one edit of the stream's
k-th passage, trains an adapter on it on top of the accumulated one, and answers the questions of the passages read so
far. All streams take a step together: one `generate`, one `adapt`, one `generate`. Merging each adapter into the
weights, as SEAL does, would give the same models, one for each stream; here a stream is the sum of its adapters, one of
k times the rank.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt import loop
from selfadapt.checkpoint.units import Units
from selfadapt.domains import Applied, Domain, make_domain
from selfadapt.engine.adapt import adapt
from selfadapt.engine.adapt.schedule import power_of_two
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidValueError
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model
from selfadapt.protocols.asking import ask
from selfadapt.protocols.base import Measured, Run
from selfadapt.protocols.continual import output
from selfadapt.protocols.continual.measures import Matrix
from selfadapt.protocols.continual.output import Row
from selfadapt.protocols.continual.streams import Stream, draw
from selfadapt.protocols.variants import (
    NONE,
    ORACLE,
    PASSAGE,
    POLICY,
    UNTRAINED,
    check_domain,
    check_fields,
    load_models,
)
from selfadapt.telemetry import meter
from selfadapt.types import Edit, Update

FEW_STEPS = 8  # have adapters of one padded rank, so that they share their programs; further ones double it
WRITTEN = (UNTRAINED, POLICY)  # by the stream's current model


@dataclasses.dataclass(frozen=True)
class Continual:
    """The protocol; `make` builds it from a config.

    Attributes:
      config: the resolved config.
      domain: supplies prompts, updates and verdicts.
      streams: the passages of each stream.
      models: the model that the streams of each variant start from.
    """

    config: Any
    domain: Domain
    streams: list[Stream]
    models: Mapping[str, Model]

    def run(self, run: Run) -> Measured:
        """Measures every variant of the config, one after the other."""
        accuracies: dict[str, list[Matrix]] = {}
        failed: dict[str, dict[str, int]] = {}
        for name in self.config.protocol.variants:
            rows = _Variant(self, name, run).rows()
            accuracies[name] = output.matrices(rows)
            failed[name] = output.failures(rows)
        return output.measured(self.config, self.streams, accuracies, failed)


@dataclasses.dataclass
class _Variant:
    """One variant: the steps of all streams."""

    protocol: Continual
    name: str
    run: Run

    def __post_init__(self) -> None:
        self._model = self.protocol.models[self.name]
        self._domain, self._streams = self.protocol.domain, self.protocol.streams
        self._sampling, self._answer = self.protocol.config.sampling, self.protocol.config.answer
        self._units = self.run.stored.within(self.name)
        self._steps = 0  # in the accumulated adapters, which grow as they are needed
        self._accumulated: Adapters | None = None
        self._room = power_of_two(min(FEW_STEPS, len(self._streams[0].tasks)))
        self._known: dict[int, list[Edit]] = {}  # the edits of each step

    def rows(self) -> list[Row]:
        """Returns what the streams answer before the first step and after each, computed or read."""
        length = len(self._streams[0].tasks)
        # Before any edit the variants of one model are the same.
        base = self.run.stored.within(f"{UNTRAINED if self.name == UNTRAINED else POLICY} base")
        rows = [self._row(base, 0)]
        output.event(self.run.writer, self.name, 0, rows[0])
        for step in range(1, length + 1):
            if self.name == NONE:
                rows.append(rows[0].first(step))
            else:
                self._edits(step)
                rows.append(self._row(self._units.within(f"row {step}"), step))
                self._write_edits(step, rows[-1])
            output.event(self.run.writer, self.name, step, rows[-1])
        self._units.once("finished", lambda: True)  # the trained adapters are no longer needed, and are removed
        return rows

    def _edits(self, step: int) -> list[Edit]:
        """Returns each stream's edit of a step."""
        if step not in self._known:
            tasks = [stream.tasks[step - 1] for stream in self._streams]
            if self.name in WRITTEN:
                written = functools.partial(self._written, tasks, step)
                with self._phase("sample", step) as advance:
                    self._known[step] = self._units.within(f"edits {step}").once("edits", written)
                    advance(len(tasks))
            else:
                texts = [self._domain.oracle(task) or "" if self.name == ORACLE else "" for task in tasks]
                self._known[step] = [Edit(task.id, 0, "", text) for task, text in zip(tasks, texts, strict=True)]
        return self._known[step]

    def _written(self, tasks: Sequence[Any], step: int) -> list[Edit]:
        """Samples the edits of a step, each by its stream's current model."""
        prompts = [self._domain.edit_prompt(task) for task in tasks]
        ids = [stream.edit_id(step) for stream in self._streams]
        adapters = self._current(step - 1)
        options: dict[str, Any] = dict(
            max_new_tokens=self._sampling.max_new_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=self.protocol.config.seed,
            return_details=True,
        )
        if adapters is None:
            found = generate(self._model, prompts, ids=ids, **options)
        else:
            lists = generate(
                self._model, [[prompt] for prompt in prompts], adapters=adapters, ids=[[one] for one in ids], **options
            )
            found = [texts[0] for texts in lists]
        meter.add("edits", sampled=len(tasks))
        return [
            Edit(task.id, 0, prompt, written.text, written.tokens, step - 1, tuple(written.logprobs.tolist()))
            for task, prompt, written in zip(tasks, prompts, found, strict=True)
        ]

    def _applied(self, step: int) -> list[Applied]:
        """Returns what the domain makes of each stream's edit."""
        edits = self._edits(step)
        tasks = [stream.tasks[step - 1] for stream in self._streams]
        texts = [None if self.name == PASSAGE else edit.text for edit in edits]
        return [loop.apply(self._domain, task, text) for task, text in zip(tasks, texts, strict=True)]

    def _updates(self, step: int) -> list[Update]:
        """Returns each stream's update of a step; one without sequences, which fails, for an edit that has none."""
        updates = []
        for stream, what in zip(self._streams, self._applied(step), strict=True):
            if not isinstance(what, Update):
                what = _empty(self._domain, stream.tasks[step - 1])
            updates.append(what.replace(seed=stream.update_seed(self.protocol.config.seed, step) + what.seed))
        return updates

    def _trained(self, step: int) -> Adapters:
        """Returns the adapters of a step alone, trained or read."""
        train = functools.partial(adapt, self._model, self._updates(step), on=self._current(step - 1))
        with self._phase("adapt", step) as advance:
            adapters = self._units.within(f"trained {step}").adapters(
                self._model, lambda snapshots: train(snapshots=snapshots)
            )
            advance(len(adapters))
        return adapters

    def _current(self, step: int) -> Adapters | None:
        """Returns each stream's accumulated adapter after a step; `None` before the first.

        A step that failed adds zeros: the stream stays as it was.
        """
        while self._steps < step:
            new, before = self._trained(self._steps + 1), self._accumulated
            self._steps += 1
            after = new if before is None else before.join(new)
            widest = max(spec.rank for spec in new.specs)
            self._accumulated = after.padded(widest * max(power_of_two(self._steps), self._room))
        return self._accumulated

    def _row(self, place: Units, step: int) -> Row:
        """Returns what the streams answer after a step, computed or read."""
        with self._phase("evaluate", step) as advance:
            row = Row(**place.once("row", functools.partial(self._answered, step)))
            advance(len(self._streams))
        return row

    def _answered(self, step: int) -> dict[str, Any]:
        asked = [stream.tasks[: step or None] for stream in self._streams]
        found = ask(self._model, self._domain, asked, self._answer, self._current(step))
        return found | {"status": self._statuses(step)}

    def _statuses(self, step: int) -> list[str]:
        """Returns for each stream what became of its edit of a step."""
        if self._accumulated is None:
            return ["ok"] * len(self._streams)
        trained = self._accumulated.status
        return [getattr(what, "reason", status) for what, status in zip(self._applied(step), trained, strict=True)]

    def _phase(self, name: str, step: int) -> Any:
        label = f"{self.name}, step {step}"
        return self.run.phase(name, len(self._streams), "stream", label, step)

    def _write_edits(self, step: int, row: Row) -> None:
        for k, (edit, what) in enumerate(zip(self._edits(step), self._applied(step), strict=True)):
            stream = self._streams[k]
            kinds = self._domain.describe(stream.tasks[step - 1], edit.text)
            self.run.writer.edit(output.edit_line(self.name, stream, step, edit, what, row, k) | {"kinds": kinds})


def _empty(domain: Domain, task: Any) -> Update:
    """Returns an update without sequences, with the hyper-parameters of the domain's."""
    alone = domain.apply(task, None)
    assert isinstance(alone, Update)  # `make` has checked it
    return alone.replace(sequences=())


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
    untrained, policy = load_models(config)
    if domain is None:
        domain = make_domain(config, policy)
    pool = domain.tasks("heldout", config.evaluation.contexts)
    streams = draw(pool, fields.runs, fields.streams, fields.passages, fields.seed, fields.disjoint)
    tasks = {task.id: task for stream in streams for task in stream.tasks}.values()
    check_domain(config, domain, list(tasks))
    models = {name: untrained if name == UNTRAINED else policy for name in fields.variants}
    return Continual(config, domain, streams, models)
