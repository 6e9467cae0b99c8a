"""Continued pretraining: the edits of n passages learned in one update, and all n passages asked about.

SEAL's table 2 (arXiv 2506.10943, section 4.1): a single passage, and 200 or 2067 together. All sizes are nested and all
variants have the same passages and questions, so that they are compared passage by passage.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt import loop
from selfadapt.domains import Applied, Domain, make_domain
from selfadapt.errors import InvalidValueError
from selfadapt.evaluate import references
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.protocols.asking import ask
from selfadapt.protocols.base import Measured, Run
from selfadapt.protocols.pretraining import output
from selfadapt.protocols.pretraining.learning import LEARNING, Work
from selfadapt.protocols.pretraining.output import Learned
from selfadapt.protocols.pretraining.subsets import Subset, subsets
from selfadapt.protocols.pretraining.updates import combined, update_seed, warmed_up
from selfadapt.protocols.variants import (
    NONE,
    ORACLE,
    PASSAGE,
    POLICY,
    UNTRAINED,
    VARIANTS,
    check_domain,
    check_fields,
    load_models,
)
from selfadapt.types import Edit, Rejected, Task, TokenSequence, Update

Pairs = list[tuple[Edit, Applied]]


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The protocol; `make` builds it from a config.

    Attributes:
      config: the resolved config.
      domain: supplies prompts, updates and verdicts.
      subsets: the passages of each size.
      models: the model before its training, and the policy: the same model if there is no other.
      given: the edits of variants that come from files, for each passage.
    """

    config: Any
    domain: Domain
    subsets: list[Subset]
    models: tuple[Model, Model]
    given: Mapping[str, Pairs]

    def run(self, run: Run) -> Measured:
        """Measures every variant of the config, one after the other."""
        started = run.stored.within("run").once("started", lambda: time.strftime("%m%d_%H%M%S"))
        names = (*self.config.protocol.variants, *self.given)
        learned = {name: _Variant(self, name, run).learned() for name in names}
        return output.measured(self.config, learned, started)

    @property
    def tasks(self) -> list[Task]:
        """All passages, each once."""
        return list({task.id: task for each in self.subsets for own in each.learned for task in own}.values())


@dataclasses.dataclass
class _Variant:
    """One variant: what it learns, and what models of every size answer."""

    protocol: Pretraining
    name: str
    run: Run

    def __post_init__(self) -> None:
        untrained, policy = self.protocol.models
        self._config, self._domain = self.protocol.config, self.protocol.domain
        self._model = policy if self.name == POLICY else untrained
        self._start = POLICY if self._model is policy else UNTRAINED  # variants of one model share its first answers
        self._units = self.run.stored.within(self.name)

    def learned(self) -> list[Learned]:
        """Returns what was learned at each size, computed or read."""
        pairs = {} if self.name == NONE else self._pairs()
        for task in self.protocol.tasks:
            for edit, what in pairs.get(task.id, ()):
                line = output.edit_line(self.name, task, edit, what)
                self.run.writer.edit(line | {"kinds": self._domain.describe(task, edit.text)})
        return [self._learned(subset, pairs) for subset in self.protocol.subsets]

    def _pairs(self) -> dict[str, Pairs]:
        """Returns the edits of each passage, by its id, with what the domain makes of them."""
        tasks, domain = self.protocol.tasks, self._domain
        if self.name in self.protocol.given:
            flat = self.protocol.given[self.name]
        elif self.name == PASSAGE:
            flat = [(Edit(task.id, 0, "", ""), domain.apply(task, None)) for task in tasks]
        elif self.name == ORACLE:
            flat = loop.applied(domain, tasks, [Edit(task.id, 0, "", domain.oracle(task) or "") for task in tasks])
        else:
            flat = loop.applied(domain, tasks, self._written(tasks))
        by_task: dict[str, Pairs] = {task.id: [] for task in tasks}
        for edit, what in flat:
            by_task[edit.task_id].append((edit, what))
        return by_task

    def _written(self, tasks: Sequence[Task]) -> list[Edit]:
        """Returns the edits that the variant's model writes, sampled or read."""
        config = self._config
        settings = loop.Settings(
            seed=config.seed,
            edits=config.evaluation.edits,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            edit_tokens=config.sampling.max_new_tokens,
            answer_tokens=config.answer.max_new_tokens,
            answer_stop=tuple(config.answer.stop),
            inner_runs=1,
            at_once=1,  # these settings sample edits and apply none
        )
        phase = self.run.phase("sample", len(tasks), "passage", self.name, 0)
        with phase as advance, self._units.within("edits").active():
            return loop.sample(Policy(self._model), self._domain, tasks, settings, advance)

    def _learned(self, subset: Subset, pairs: Mapping[str, Pairs]) -> Learned:
        """Returns what the models of a subset answer before and after their updates."""
        before = self._before(subset)
        updates = [] if self.name == NONE else [self._update(subset, own, pairs) for own in subset.learned]
        after = before
        if updates:
            place = self._units.within(subset.label)
            work = Work(
                base=self._model,
                domain=self._domain,
                updates=updates,
                asked=subset.asked,
                answer=self._config.answer,
                stored=place,
                phase=functools.partial(self._phase, subset),
            )
            after = place.once("answers", functools.partial(LEARNING[self._config.protocol.train], work))
        chosen = [what for own in subset.learned for task in own for _, what in pairs.get(task.id, ())]
        rejected = collections.Counter(what.reason for what in chosen if isinstance(what, Rejected))
        found = Learned(subset, before, after, [len(update.sequences) for update in updates], dict(rejected))
        output.event(self.run.writer, self.name, found)
        return found

    def _before(self, subset: Subset) -> dict[str, Any]:
        """Returns what the variant's model answers before any update."""

        def compute() -> dict[str, Any]:
            with self._phase(subset, "evaluate", len(subset.asked)) as advance:
                found = ask(self._model, self._domain, subset.asked, self._config.answer)
                advance(len(subset.asked))
            return found

        return self.run.stored.within(f"{self._start} base").once(subset.label, compute)

    def _update(self, subset: Subset, tasks: Sequence[Task], pairs: Mapping[str, Pairs]) -> Update:
        fields = self._config.protocol
        learned = [(task, [what for _, what in pairs[task.id]]) for task in tasks]
        seed = update_seed(self._config.seed, subset.label, tasks)
        update = combined(self._domain, learned, repeat_passage=fields.repeat_passage, seed=seed)
        return warmed_up(update, fields.warmup_ratio)

    def _phase(self, subset: Subset, name: str, total: int) -> Any:
        return self.run.phase(name, total, "model", f"{self.name}, n = {subset.size}", subset.size)


def make(config: Any, domain: Domain | None = None) -> Pretraining:
    """Makes the protocol from a resolved config.

    Args:
      config: starts from `selfadapt.protocols.defaults.protocol("pretraining")`.
      domain: a domain to use in place of the one that `config.domain` names.

    Raises:
      UserError: a field, the data or a model cannot be used.
    """
    fields, evaluation = config.protocol, config.evaluation
    if fields.train not in LEARNING:
        raise InvalidValueError(f"config.protocol.train is {fields.train!r}; it must be one of {', '.join(LEARNING)}")
    if not 0 <= fields.warmup_ratio < 1:
        raise InvalidValueError(f"config.protocol.warmup_ratio is {fields.warmup_ratio}; it must be from 0 to below 1")
    if evaluation.edits < 1:
        raise InvalidValueError(f"config.evaluation.edits is {evaluation.edits}; it must be at least 1")
    check_fields(config)
    models = load_models(config)
    if domain is None:
        domain = make_domain(config, models[1])
    pool = domain.tasks("heldout", evaluation.contexts)
    chosen = subsets(pool, fields.sizes, fields.singles, fields.questions, fields.seed)
    protocol = Pretraining(config, domain, chosen, models, {})
    check_domain(config, domain, protocol.tasks)
    alone = domain.apply(protocol.tasks[0], None)
    hidden = isinstance(alone, Update) and any(isinstance(s, TokenSequence) and s.attention for s in alone.sequences)
    if fields.train == "all" and hidden:
        raise InvalidValueError(
            "config.domain.padding hides tokens from attention, which only the training of adapters can do; set it to "
            "'none', or config.protocol.train to 'lora'"
        )
    names = [given.partition("=")[0] for given in evaluation.edits_from]
    if taken := [name for name in names if name in VARIANTS]:
        raise InvalidValueError(f"config.evaluation.edits_from: {taken[0]!r} is a variant's name; choose another")
    rows = references(domain, protocol.tasks, evaluation.edits_from, evaluation.edits)
    return dataclasses.replace(protocol, given={row.name: row.pairs for row in rows if row.name in names})
