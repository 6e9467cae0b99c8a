"""The evaluation around the rounds: rows of scores on held-out tasks.

The main rows are called the *ladder*: the model as it is, adapted without an edit, adapted to the edits of the
untrained policy, to those of each round's policy, and to an oracle's. Where edits can be searched
(`selfadapt.domains.Searchable`), there are also random ones and the best constant one; a domain can add further
references (`selfadapt.domains.Referenced`). Beside it there are controls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt import data, loop
from selfadapt.checkpoint.units import Units
from selfadapt.domains import Applied, Domain, Narrowed, Referenced, Searchable
from selfadapt.engine.adapt.schedule import optimizer_steps
from selfadapt.errors import InvalidValueError, UserError
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.telemetry.progress import Advance
from selfadapt.types import Edit, Outcome, Rejected, Task, TokenSequence, Update, is_policy_row, policy_row

NONE, PASSAGE, ORACLE = "none", "passage", "oracle"
RANDOM, CONSTANT = "random", "constant"
EQUAL_STEPS, EQUAL_TOKENS = "passage, equal steps", "passage, equal tokens"
LOW_TEMPERATURE = "untrained, low temperature"
OTHERS = "edits of other tasks"
NOTES = {
    EQUAL_STEPS: "the passage alone, with as many optimizer steps as the last policy's edits get",
    EQUAL_TOKENS: "the passage alone, trained on as many tokens as the last policy's edits have",
    LOW_TEMPERATURE: "the untrained policy's edits, sampled at a low temperature",
    OTHERS: "the last policy's edits, each of which is applied to the next held-out task",
}
LACKING = "the file has fewer texts of this passage"  # the status of an edit
_MOVED = " edits on untrained weights"
NARROWED_NOTE = "the policy's edits where it has only this kind to choose from"
ON_UNTRAINED_NOTE = "the trained policy's edits, applied to the untrained weights"

RowPhase = Callable[[str, int, str, int], contextlib.AbstractContextManager[Advance]]


def narrowed(name: str, left: str) -> str:
    """Returns the name of the control in which the policy of a row has only some kinds of edit to choose from."""
    return f"{name}, {left}"


def on_untrained(name: str) -> str:
    """Returns the name of the control in which a row's edits are applied to the untrained weights."""
    return f"{name}{_MOVED}"


@dataclasses.dataclass(frozen=True)
class Row:
    """The outcomes of one row.

    Attributes:
      name: the row's name.
      kind: "eval" for rows of the ladder, "control" for others.
      round: the rounds that the policy had finished.
      pairs: each edit with what it was turned into.
      outcomes: the outcome of each, in the same order.
      same_as: a row that trains and scores the same, which is not repeated: there are no pairs and outcomes.
      details: what else is reported about the row.
    """

    name: str
    kind: str
    round: int
    pairs: list[tuple[Edit, Applied]]
    outcomes: list[Outcome]
    same_as: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference row that some runs have: fixed edits, applied to the untrained student.

    Attributes:
      name: the row's name.
      pairs: each edit with what it was turned into; as many for every held-out task.
      details: what else is reported about the row.
    """

    name: str
    pairs: list[tuple[Edit, Applied]]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def references(
    domain: Domain, tasks: Sequence[Task], edits_from: Sequence[str] = (), edits: int = 1
) -> list[Reference]:
    """Returns the reference rows that not every run has.

    Args:
      domain: its rows, if it is `selfadapt.domains.Referenced`.
      tasks: the held-out tasks.
      edits_from: files of edits, "NAME=FILE" each (see `selfadapt.data.read_edits`); NAME is the row's name.
      edits: edits of each file for each task, the first ones. One that an entity graph lacks is `Rejected`.

    Raises:
      UserError: a row cannot be computed, or its name is taken; the message names the file.
    """
    found = domain.references(tasks) if isinstance(domain, Referenced) else {}
    rows = [
        Reference(name, [(Edit(task.id, 0, "", ""), each) for task, each in zip(tasks, what, strict=True)])
        for name, what in found.items()
    ]
    for given in edits_from:
        name, path = _named(given, [row.name for row in rows])
        try:
            chosen = data.edits_of(data.read_edits(path), tasks, edits)
        except (UserError, OSError) as error:
            raise InvalidValueError(f"config.evaluation.edits_from, row {name!r}: {error}") from None
        pairs: list[tuple[Edit, Applied]] = []
        for task, texts in zip(tasks, chosen, strict=True):
            for sample, text in enumerate(texts):
                what = Rejected(LACKING) if text is None else loop.apply(domain, task, text)
                pairs.append((Edit(task.id, sample, "", text or ""), what))
        rows.append(Reference(name, pairs, {"note": f"adapted to the edits of {path}"}))
    return rows


def _named(given: str, taken: Sequence[str]) -> tuple[str, str]:
    """Returns the name and the file of "NAME=FILE"; raises InvalidValueError if it cannot be a further row."""
    name, equals, path = given.partition("=")
    if not (equals and path and re.fullmatch(r"\w[\w .()+-]*", name)):
        raise InvalidValueError(
            f"config.evaluation.edits_from has {given!r}; each is NAME=FILE, such as GPT-4.1=gpt4_1.json, and a name "
            "has letters, digits, spaces and any of _.()+-"
        )
    reserved = (NONE, PASSAGE, ORACLE, RANDOM, CONSTANT, *NOTES, *taken)
    if is_policy_row(name) or name in reserved or name.endswith(_MOVED):
        raise InvalidValueError(f"config.evaluation.edits_from: a row has the name {name!r} already; choose another")
    return name, path


class Evaluation:
    """Scores policies on held-out tasks.

    Attributes:
      tasks: the held-out tasks.
    """

    def __init__(
        self,
        domain: Domain,
        tasks: Sequence[Task],
        settings: Settings,
        start: State,
        stored: Units,
        phase: RowPhase,
        low_temperature: float,
        search: Sequence[Task] = (),
        given: Sequence[Reference] = (),
    ):
        """Prepares the evaluation.

        Args:
          domain: supplies prompts, updates and verdicts.
          tasks: the held-out tasks.
          settings: how edits are sampled and scored; its `edits` are per held-out task.
          start: the loop's state before the first round.
          stored: units that were completed before an interruption.
          phase: wraps each phase; called with the phase's name, its number of units, the row and the round.
          low_temperature: the sampling temperature of the control row of that name.
          search: the training tasks on which the best constant edit is searched; none for no such row.
          given: further reference rows.
        """
        self.tasks = tasks
        self._domain, self._settings, self._start = domain, settings, start
        self._stored, self._phase, self._low, self._search = stored, phase, low_temperature, search
        self._given = given
        self._edits: dict[str, list[Edit]] = {}  # of the policy that was evaluated last

    def references(self) -> Iterator[Row]:
        """Yields the rows that no policy writes.

        These are none, passage (if the domain trains on anything without an edit), oracle (if it has one), random and
        constant edits (if they can be searched), and the further ones that were given.
        """
        domain, tasks = self._domain, self.tasks
        rows = {
            NONE: [domain.unchanged(task) for task in tasks],
            PASSAGE: [domain.apply(task, None) for task in tasks],
            ORACLE: [loop.apply(domain, task, text) for task in tasks if (text := domain.oracle(task)) is not None],
        }
        for name, what in rows.items():
            if len(what) == len(tasks) and (name != PASSAGE or what != rows[NONE]):
                pairs = [(Edit(task.id, 0, "", ""), each) for task, each in zip(tasks, what, strict=True)]
                yield self._reference(name, pairs)
        if isinstance(domain, Searchable):
            yield self._reference(RANDOM, loop.applied(domain, tasks, self._random_edits(domain)))
            if self._search:
                text, details = self._best_constant(domain)
                pairs = loop.applied(domain, tasks, [Edit(task.id, 0, "", text) for task in tasks])
                yield dataclasses.replace(self._reference(CONSTANT, pairs), details=details)
        place = self._stored.round(0).within("given")
        for row in self._given:
            found = self._scored(row.name, self._start.student, row.pairs, place.within(row.name))
            yield dataclasses.replace(found, details=row.details)

    def _reference(self, name: str, pairs: list[tuple[Edit, Applied]]) -> Row:
        return self._scored(name, self._start.student, pairs, self._stored.round(0).within(name))

    def _random_edits(self, domain: Searchable) -> list[Edit]:
        """Returns as many random edits of each held-out task as a policy writes."""
        seed = self._settings.seed
        return [
            Edit(task.id, sample, "", domain.random_edit(random.Random(f"random edit {seed} {task.id} {sample}")))
            for task in self.tasks
            for sample in range(self._settings.edits)
        ]

    def _best_constant(self, domain: Searchable) -> tuple[str, dict[str, Any]]:
        """Returns the candidate with the highest mean reward on the training tasks, and what the search took."""
        texts = domain.candidates()
        edits = [Edit(task.id, number, "", text) for number, text in enumerate(texts) for task in self._search]
        pairs = loop.applied(self._domain, self._search, edits)
        place, name = self._stored.round(0).within("constant search"), "search for the best constant edit"
        with self._phase("evaluate", len(pairs), name, 0) as advance, place.active():
            outcomes = loop.score(self._start.student, self._domain, self._search, pairs, self._settings, advance)
        rewards = np.reshape([outcome.reward for outcome in outcomes], (len(texts), -1)).mean(1)
        best = int(rewards.argmax())  # of equal ones, the first
        details = {
            "edit": texts[best],
            "candidates": len(texts),
            "training_tasks": len(self._search),
            "training_reward": float(rewards[best]),
            "inner_updates": sum(isinstance(what, Update) for _, what in pairs) * self._settings.inner_runs,
        }
        return texts[best], details

    def policy(self, state: State) -> Row:
        """Returns the row of a policy: its edits of the held-out tasks, applied to the student."""
        name = policy_row(state.round)
        pairs = loop.applied(self._domain, self.tasks, self._policy_edits(state))
        place = self._stored.round(state.round).within("heldout")
        return self._scored(name, state.student, pairs, place, state.round)

    def controls(self, state: State) -> Iterator[Row]:
        """Yields the rows that the last policy's row is compared with, beside the ladder."""
        place, domain, student = self._stored.within("controls"), self._domain, self._start.student
        pairs = loop.applied(domain, self.tasks, self._policy_edits(state))
        updates = [(edit, what) for edit, what in pairs if isinstance(what, Update)]
        plain = {task.id: domain.apply(task, None) for task in self.tasks}
        alone = {name: what for name, what in plain.items() if isinstance(what, Update)}
        if len(updates) == len(pairs) and len(alone) == len(plain):
            for name, longer in ((EQUAL_STEPS, _equal_steps), (EQUAL_TOKENS, self._equal_tokens)):
                equal: list[tuple[Edit, Applied]] = [
                    (edit, longer(alone[edit.task_id], what)) for edit, what in updates
                ]
                if all(what == alone[edit.task_id] for edit, what in equal):
                    yield Row(name, "control", state.round, [], [], same_as=PASSAGE)
                else:
                    yield self._scored(name, student, equal, place.within(name), state.round, "control")
        if self._settings.temperature > self._low:
            cooler = dataclasses.replace(self._settings, temperature=self._low)
            where = place.within("low temperature sample")
            edits = self._sampled(LOW_TEMPERATURE, self._start, domain, cooler, where)
            low = loop.applied(domain, self.tasks, edits)
            yield self._scored(LOW_TEMPERATURE, student, low, place.within(LOW_TEMPERATURE), 0, "control")
        if len(self.tasks) > 1:
            others = loop.applied(domain, self.tasks, self._moved(self._policy_edits(state)))
            yield self._scored(OTHERS, student, others, place.within(OTHERS), state.round, "control")
        if state.round and state.student is not student:
            name = on_untrained(policy_row(state.round))
            yield self._scored(name, student, pairs, place.within("on untrained"), state.round, "control")
        if isinstance(domain, Narrowed):
            policies = [self._start, state] if state.round else [self._start]
            for left, narrow in domain.narrowed().items():
                for each in policies:
                    yield self._narrowed(each, left, narrow, place)

    def _narrowed(self, state: State, left: str, domain: Domain, place: Units) -> Row:
        name = narrowed(policy_row(state.round), left)
        edits = self._sampled(name, state, domain, self._settings, place.within(f"{name} sample"))
        pairs = loop.applied(domain, self.tasks, edits)
        return self._scored(name, state.student, pairs, place.within(name), state.round, "control")

    def _policy_edits(self, state: State) -> list[Edit]:
        name = policy_row(state.round)
        if name not in self._edits:
            place = self._stored.round(state.round).within("heldout").within("sample")
            self._edits = {name: self._sampled(name, state, self._domain, self._settings, place)}
        return self._edits[name]

    def _moved(self, edits: Sequence[Edit]) -> list[Edit]:
        """Returns each edit as one of the next held-out task, the last task's as those of the first."""
        following = {task.id: self.tasks[at + 1 - len(self.tasks)].id for at, task in enumerate(self.tasks)}
        return [dataclasses.replace(edit, task_id=following[edit.task_id]) for edit in edits]

    def _sampled(self, name: str, state: State, domain: Domain, settings: Settings, place: Units) -> list[Edit]:
        with self._phase("sample", len(self.tasks), name, state.round) as advance, place.active():
            return loop.sample(state.policy, domain, self.tasks, settings, advance)

    def _scored(
        self,
        name: str,
        student: Policy,
        pairs: list[tuple[Edit, Applied]],
        place: Units,
        round: int = 0,
        kind: str = "eval",
    ) -> Row:
        with self._phase("evaluate", len(pairs), name, round) as advance, place.active():
            outcomes = loop.score(student, self._domain, self.tasks, pairs, self._settings, advance)
        return Row(name, kind, round, pairs, outcomes)

    def _equal_tokens(self, alone: Update, other: Update) -> Update:
        """Returns an update with the epochs that train on at least as many tokens as another update does."""
        tokenizer = self._start.student.model.tokenizer
        wanted, each = _tokens(tokenizer, other) * other.epochs, max(1, _tokens(tokenizer, alone))
        return alone.replace(epochs=-(-wanted // each))


def _equal_steps(alone: Update, other: Update) -> Update:
    """Returns an update with the epochs that give it at least as many optimizer steps as another has."""
    wanted = len(optimizer_steps(other, len(other.sequences)))
    each = max(1, len(optimizer_steps(alone.replace(epochs=1), len(alone.sequences))))
    return alone.replace(epochs=-(-wanted // each))


def _tokens(tokenizer: Any, update: Update) -> int:
    """Returns the number of tokens of an update's sequences, in one epoch."""
    total = 0
    for sequence in update.sequences:
        if isinstance(sequence, TokenSequence):
            total += len(sequence.ids)
        else:  # a text, a pair of texts, or token ids with a mask
            texts = [sequence] if isinstance(sequence, str) else [part for part in sequence if isinstance(part, str)]
            total += sum(len(tokenizer(text)["input_ids"]) for text in texts) if texts else len(sequence[0])
    return total
