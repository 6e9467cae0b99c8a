"""The steps of all streams under one condition.

At step k every stream's current model (the base and what the stream has learned) writes one edit of the stream's k-th
passage, trains an adapter on it, and answers the questions of the passages read so far. All streams take a step
together: one `generate`, one `adapt`, one `generate`. Merging each adapter into the weights, as SEAL does, would give
the same models, one for each stream; here a stream is the sum of its adapters, one of k times the rank. Remedies for
forgetting change the update, or combine the adapters otherwise (`remedies`).
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt import loop
from selfadapt.checkpoint.units import Units
from selfadapt.domains import Applied, Domain
from selfadapt.engine.adapt import adapt
from selfadapt.engine.adapt.work import training_cost
from selfadapt.engine.generate import generate
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model
from selfadapt.protocols.asking import ask
from selfadapt.protocols.base import Run
from selfadapt.protocols.continual import output, retrieval
from selfadapt.protocols.continual.learned import Learned
from selfadapt.protocols.continual.output import Row
from selfadapt.protocols.continual.remedies import OWN, REMEDIES, Condition, Material, sequences_learned
from selfadapt.protocols.continual.streams import Stream
from selfadapt.protocols.variants import NONE, ORACLE, PASSAGE, POLICY, UNTRAINED
from selfadapt.telemetry import meter
from selfadapt.types import Edit, TrainingSequence, Update

WRITTEN = (UNTRAINED, POLICY)  # by the stream's current model


class Steps:
    """The steps of all streams under one condition."""

    def __init__(
        self,
        config: Any,
        domain: Domain,
        streams: Sequence[Stream],
        model: Model,
        condition: Condition,
        run: Run,
        shared: dict[int, Adapters],
        anchors: Sequence[TrainingSequence] = (),
    ):
        """Starts before the first step.

        Args:
          config: the resolved config.
          domain: supplies prompts, updates and verdicts.
          streams: the passages of each stream.
          model: the model that they start from.
          condition: what they learn from, and how.
          run: completed units of work are read from it.
          shared: the adapters of each step, where the conditions that have the same ones keep them for each other.
          anchors: texts for the remedy that holds models near what they were.
        """
        self.name = condition.name
        self._variant, self._remedy = condition.variant, REMEDIES[condition.remedy]
        self._config, self._domain, self._streams, self._model = config, domain, streams, model
        self._run = run
        self._units = run.stored.within(self.name)
        self._training = run.stored.within(condition.trained_by.name)  # edits and adapters, also those of another
        self._shared, self._anchors = shared, anchors
        self._learned = Learned(self._remedy, len(streams), len(streams[0].tasks))
        self._rows: list[Row] = []
        self._known: dict[int, list[Edit]] = {}  # the edits of each step
        self._made: dict[int, list[Applied]] = {}  # what the domain makes of them

    def rows(self) -> list[Row]:
        """Returns what the streams answer before the first step and after each, computed or read."""
        length = len(self._streams[0].tasks)
        # Before any edit the variants of one model are the same.
        base = self._run.stored.within(f"{UNTRAINED if self._variant == UNTRAINED else POLICY} base")
        self._rows = [self._row(base, 0)]
        output.event(self._run.writer, self.name, 0, self._rows[0])
        for step in range(1, length + 1):
            if self._variant == NONE:
                self._rows.append(self._rows[0].first(step))
            else:
                self._edits(step)
                self._rows.append(self._row(self._units.within(f"row {step}"), step))
                self._write_edits(step, self._rows[-1])
            output.event(self._run.writer, self.name, step, self._rows[-1])
        return self._rows

    def cost(self) -> Mapping[str, int]:
        """Returns what the training of all steps costs, after `rows`: see `training_cost`."""
        total: collections.Counter[str] = collections.Counter(training_cost(self._model, []))
        if self._variant != NONE:
            for step in range(1, len(self._rows)):
                total.update(training_cost(self._model, self._updates(step)))
        return dict(total)

    def _edits(self, step: int) -> list[Edit]:
        """Returns each stream's edit of a step."""
        if step not in self._known:
            tasks = [stream.tasks[step - 1] for stream in self._streams]
            if self._variant in WRITTEN:
                written = functools.partial(self._written, tasks, step)
                with self._phase("sample", step) as advance:
                    self._known[step] = self._training.within(f"edits {step}").once("edits", written)
                    advance(len(tasks))
            else:
                texts = [self._domain.oracle(task) or "" if self._variant == ORACLE else "" for task in tasks]
                self._known[step] = [Edit(task.id, 0, "", text) for task, text in zip(tasks, texts, strict=True)]
        return self._known[step]

    def _written(self, tasks: Sequence[Any], step: int) -> list[Edit]:
        """Samples the edits of a step, each by its stream's current model."""
        sampling = self._config.sampling
        prompts = [self._domain.edit_prompt(task) for task in tasks]
        ids = [stream.edit_id(step) for stream in self._streams]
        adapters = self._after(step - 1).current()
        options: dict[str, Any] = dict(
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=self._config.seed,
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
        if step not in self._made:
            texts = [None if self._variant == PASSAGE else edit.text for edit in self._edits(step)]
            tasks = [stream.tasks[step - 1] for stream in self._streams]
            self._made[step] = [loop.apply(self._domain, task, text) for task, text in zip(tasks, texts, strict=True)]
        return self._made[step]

    def _updates(self, step: int) -> list[Update]:
        """Returns each stream's update of a step; one without sequences, which fails, for an edit that has none."""
        updates = []
        before = [self._applied(number) for number in range(1, step)]
        earlier = sequences_learned(before, [row.status for row in self._rows[1:step]], len(self._streams))
        for stream, what, old in zip(self._streams, self._applied(step), earlier, strict=True):
            if not isinstance(what, Update):
                what = _empty(self._domain, stream.tasks[step - 1])
            own = what.replace(seed=stream.update_seed(self._config.seed, step) + what.seed)
            updates.append(self._remedy.change(own, Material(old, self._anchors), self._config.protocol))
        return updates

    def _trained(self, step: int) -> Adapters:
        """Returns the adapters of a step alone, trained or read."""
        if step in self._shared:
            return self._shared[step]
        train = functools.partial(adapt, self._model, self._updates(step), on=self._learned.below())
        with self._phase("adapt", step) as advance:
            adapters = self._training.within(f"trained {step}").adapters(
                self._model, lambda snapshots: train(snapshots=snapshots)
            )
            advance(len(adapters))
        if self._remedy.retrieves:
            self._shared[step] = adapters
        return adapters

    def _after(self, step: int) -> Learned:
        """Returns what the streams have learned after a step, which is the last one that was asked for, or follows."""
        while self._learned.steps < step:
            self._learned.add(self._trained(self._learned.steps + 1))
        return self._learned

    def _row(self, place: Units, step: int) -> Row:
        """Returns what the streams answer after a step, computed or read."""
        with self._phase("evaluate", step) as advance:
            row = Row(**place.once("row", functools.partial(self._answered, step)))
            advance(len(self._streams))
        return row

    def _answered(self, step: int) -> dict[str, Any]:
        asked = [stream.tasks[: step or None] for stream in self._streams]
        write = functools.partial(self._retrieved, step) if step and self._remedy.retrieves else None
        current = self._after(step).current()
        found = ask(self._model, self._domain, asked, self._config.answer, current, write)
        return found | {"status": self._statuses(step)}

    def _retrieved(self, step: int, prompts: Sequence[Sequence[Sequence[str]]], **options: Any) -> list[str]:
        """Returns the answers of single adapters, each chosen for its prompt among those of its stream."""
        chosen: list[int] = []
        for k, (stream, lists) in enumerate(zip(self._streams, prompts, strict=True)):
            if self._remedy.answers == OWN:
                places = [place for place, each in enumerate(lists) for _ in each]
            else:
                index = retrieval.Index([f"{task.title}\n{task.context}" for task in stream.tasks[:step]])
                places = index.find([prompt for each in lists for prompt in each])
            chosen += [place * len(self._streams) + k for place in places]
        flat = [prompt for lists in prompts for each in lists for prompt in each]
        return retrieval.generate_with(self._model, self._after(step).all(), flat, chosen, **options)

    def _statuses(self, step: int) -> list[str]:
        """Returns for each stream what became of its edit of a step."""
        trained = self._learned.status
        if not step:
            return trained
        return [getattr(what, "reason", status) for what, status in zip(self._applied(step), trained, strict=True)]

    def _phase(self, name: str, step: int) -> Any:
        label = f"{self.name}, step {step}"
        return self._run.phase(name, len(self._streams), "stream", label, step)

    def _write_edits(self, step: int, row: Row) -> None:
        for k, (edit, what) in enumerate(zip(self._edits(step), self._applied(step), strict=True)):
            stream = self._streams[k]
            kinds = self._domain.describe(stream.tasks[step - 1], edit.text)
            self._run.writer.edit(output.edit_line(self.name, stream, step, edit, what, row, k) | {"kinds": kinds})


def _empty(domain: Domain, task: Any) -> Update:
    """Returns an update without sequences, with the hyper-parameters of the domain's."""
    alone = domain.apply(task, None)
    assert isinstance(alone, Update)  # `make` has checked it
    return alone.replace(sequences=())
