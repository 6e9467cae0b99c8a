"""What a run measures: written to `metrics.jsonl` and `edits.jsonl`, and kept for the summary and for a resume."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.domains import Applied, Domain, Recorded
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.statistics import mean_and_stderr, rank_correlation
from selfadapt.types import ContextEdit, ContextUpdate, Edit, Outcome, Rejected, Task, TokenSequence

MOST_CHARACTERS = 50_000  # of an edit's training sequences in `edits.jsonl`


@dataclasses.dataclass
class Record:
    """What a run has measured so far; stored as JSON with each checkpoint.

    Attributes:
      scores: for each row of the evaluation, the reward of each held-out task.
      rounds: numbers about each round.
      details: what else is reported about a row, by its name, where there is anything.
      outputs: the domain's files about the last policy, by name (`selfadapt.domains.Recorded`).
      invalid: how many edits could not be applied, by reason.
      seconds: seconds spent by earlier processes of the run, by phase.
      files: how many bytes of each file of lines belong to the checkpoint.
    """

    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    rounds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    details: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    invalid: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    files: dict[str, int] = dataclasses.field(default_factory=dict)


class Recorder:
    """Writes edits and events, and adds them to a record."""

    def __init__(self, record: Record, writer: MetricsWriter, domain: Domain):
        """Writes to `writer`; `domain` describes the edits."""
        self._record, self._writer, self._domain = record, writer, domain

    def row(
        self,
        name: str,
        kind: str,
        round: int,
        tasks: Sequence[Task],
        pairs: Sequence[tuple[Edit, Applied]],
        outcomes: Sequence[Outcome],
        details: Mapping[str, Any],
    ) -> None:
        """Records one row of the evaluation; see `selfadapt.evaluate.Row`."""
        self._edits(pairs, outcomes, tasks, round, kind, name, frozenset())
        rewards = collections.defaultdict(list)
        for outcome in outcomes:
            rewards[outcome.edit.task_id].append(outcome.reward)
        self._record.scores[name] = [float(np.mean(rewards[task.id])) for task in tasks]
        mean, stderr = mean_and_stderr(self._record.scores[name])
        more = (self._domain.numbers(outcomes) if isinstance(self._domain, Recorded) else {}) | dict(details)
        if more:
            self._record.details[name] = more
        self._writer.event("evaluated", round=round, phase=kind, name=name, mean=mean, stderr=stderr, **more)

    def copy(self, name: str, same_as: str) -> None:
        """Records a row that has the scores of another."""
        self._record.scores[name] = self._record.scores[same_as]
        if same_as in self._record.details:
            self._record.details[name] = self._record.details[same_as]

    def round(self, number: int, policy: str, tasks: Sequence[Task], done: Any, version: int) -> None:
        """Records one round.

        Args:
          number: the round, counted from 1.
          policy: the name of the policy that wrote the edits.
          tasks: the round's tasks.
          done: what happened, a `selfadapt.loop.Round`.
          version: the version of the policy after it.
        """
        self._edits(done.pairs, done.outcomes, tasks, number, "train", policy, done.report.learned)
        best: dict[str, float] = {}
        for outcome in done.outcomes:
            best[outcome.edit.task_id] = max(best.get(outcome.edit.task_id, -math.inf), outcome.reward)
        numbers: dict[str, Any] = {
            "reward_mean": float(np.mean([outcome.reward for outcome in done.outcomes])),
            "reward_best": float(np.mean(list(best.values()))),
            "baseline": float(np.mean(list(done.baselines.values()))),
            "selected": len(done.report.learned),
            "metrics": dict(done.report.metrics),
            "policy_version": version,
            "inner_updates": done.inner_updates,
            **_proxies(done.outcomes),
        }
        self._record.rounds.append({"round": number, **numbers})
        self._writer.event("round", round=number, **numbers)

    def _edits(
        self,
        pairs: Sequence[tuple[Edit, Applied]],
        outcomes: Sequence[Outcome],
        tasks: Sequence[Task],
        round: int,
        phase: str,
        policy: str,
        learned: frozenset[tuple[str, int]],
    ) -> None:
        by_id = {task.id: task for task in tasks}
        for (edit, what), outcome in zip(pairs, outcomes, strict=True):
            task = by_id[edit.task_id]
            if outcome.status != "ok":
                self._record.invalid[outcome.status] = self._record.invalid.get(outcome.status, 0) + 1
            self._writer.edit(
                {
                    "task": task.id,
                    "title": task.title,
                    "context": task.context,
                    "round": round,
                    "phase": phase,
                    "policy": policy,
                    "sample": edit.sample,
                    "text": edit.text,
                    "sequences": training_texts(what),
                    "reward": outcome.reward,
                    "selected": (task.id, edit.sample) in learned,
                    "questions": [question.question for question in task.questions],
                    "golds": [list(question.answers) for question in task.questions],
                    "answers": list(outcome.answers),
                    "verdicts": list(outcome.verdicts),
                    "runs": list(outcome.runs),
                    "eliminated": outcome.eliminated,
                    "status": outcome.status,
                    "policy_version": outcome.policy_version,
                    "kinds": self._domain.describe(task, edit.text),
                }
                | ({} if outcome.proxy is None else {"ratings": list(outcome.ratings), "proxy": outcome.proxy})
                | (self._domain.record(task, outcome) if isinstance(self._domain, Recorded) else {})
            )


def _proxies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Returns numbers about the proxy rewards of a round, where edits were rated; see docs/knowledge.md.

    The rank correlation within tasks is the mean of those of each task where both rewards differ between edits.
    """
    rated = [(outcome, outcome.proxy) for outcome in outcomes if outcome.proxy is not None]
    if not rated:
        return {}
    numbers = {"proxy_mean": float(np.mean([proxy for _, proxy in rated]))}
    both: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for outcome, proxy in rated:
        if outcome.verdicts:
            both[outcome.edit.task_id].append((proxy, float(np.mean(outcome.verdicts))))
    pairs = [pair for each in both.values() for pair in each]
    if not pairs:
        return numbers
    within = [rank_correlation(*zip(*each, strict=True)) for each in both.values()]
    known = [value for value in within if not math.isnan(value)]
    return numbers | {
        "inner_mean": float(np.mean([inner for _, inner in pairs])),
        "rank_correlation": rank_correlation(*zip(*pairs, strict=True)),
        "rank_correlation_within": float(np.mean(known)) if known else math.nan,
    }


def training_texts(what: Applied, most: int = MOST_CHARACTERS) -> list[str]:
    """Returns the new context and the training sequences as texts; token ids as their number.

    Args:
      what: what an edit was turned into.
      most: characters after which the sequences that are left are only counted.
    """
    if isinstance(what, Rejected):
        return []
    if isinstance(what, ContextEdit):
        return [what.context]
    texts = [what.context] if isinstance(what, ContextUpdate) else []
    for number, each in enumerate(what.sequences):
        if sum(map(len, texts)) > most:
            return [*texts, f"({len(what.sequences) - number} more)"]
        if isinstance(each, TokenSequence):
            texts.append(f"{len(each.ids)} tokens")
        else:
            parts = [each] if isinstance(each, str) else [part for part in each if isinstance(part, str)]
            texts.append("".join(parts) if parts else f"{len(each[0])} tokens")
    return texts
