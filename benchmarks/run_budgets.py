"""Strategies that spend a budget of inner runs on the edits of a task, judged on recorded verdicts of many runs."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.errors import UserError
from selfadapt.outer.halving import check, halve
from selfadapt.outer.select import Selection
from selfadapt.telemetry.statistics import bootstrap_interval
from selfadapt.types import Edit, Outcome

RANDOM = "a random edit"


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A way to spend inner runs.

    Attributes:
      name: as on the command line.
      runs: runs of every edit.
      stages: further runs by stage of successive halving.
      z: standard errors below the mean that edits are chosen by.
    """

    name: str
    runs: int
    stages: tuple[int, ...] = ()
    z: float = 0.0

    @classmethod
    def read(cls, text: str) -> Strategy:
        """Reads a strategy.

        Raises:
          UserError: it is none.
        """
        kind, _, rest = text.partition(":")
        try:
            if kind == "halving":
                first, *stages = map(int, rest.split(","))
                strategy = cls(text, first, tuple(stages))
            elif kind == "lcb":
                runs, _, z = rest.partition(":")
                strategy = cls(text, int(runs), z=float(z or 1))
            elif kind == "mean":
                strategy = cls(text, int(rest))
            else:
                raise ValueError
            if min(strategy.runs, *strategy.stages, 9) < (2 if strategy.z else 1):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{text!r} is no strategy; write mean:R, lcb:R, lcb:R:Z with R of at least 2, or halving:R,S,..."
            ) from None
        return strategy

    @property
    def most_runs(self) -> int:
        """The runs of an edit that takes part in every stage."""
        return self.runs + sum(self.stages)

    def fields(self) -> dict[str, str]:
        """Returns the fields of a config that trains with the strategy."""
        stages = f"({''.join(f'{runs},' for runs in self.stages)})"
        return {"inner_runs": str(self.runs), "halving": stages, "outer.rest_em.z": str(self.z)}

    def choose(self, verdicts: np.ndarray, able: Sequence[bool]) -> tuple[Outcome, int]:
        """Chooses one edit of a task.

        Args:
          verdicts: shape `[edits, runs, questions]`; the first runs of each edit are used.
          able: which edits can be selected.

        Returns:
          The edit's outcome, whose `edit.sample` is its index, and the number of inner updates spent.
        """

        def outcome(edit: int, runs: slice) -> Outcome:
            own = verdicts[edit, runs]
            status = "ok" if able[edit] else "not able"
            each = tuple(map(float, own.ravel()))
            runs_of = tuple(map(float, own.mean(1)))
            return Outcome(Edit("", edit, "", "edit"), float(own.mean()), verdicts=each, status=status, runs=runs_of)

        def further(stage: int, left: Sequence[Outcome]) -> list[Outcome]:
            first = self.runs + sum(self.stages[:stage])
            return [outcome(each.edit.sample, slice(first, first + self.stages[stage])) for each in left]

        check(self.stages, len(verdicts))
        measured = halve(
            [outcome(edit, slice(0, self.runs)) for edit in range(len(verdicts))], len(self.stages), further
        )
        (chosen,) = Selection("best", z=self.z)(measured, {})
        return chosen, sum(len(each.runs) for each in measured)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The verdicts of many inner runs.

    Attributes:
      edits: shape `[tasks, edits, runs, questions]`.
      able: whether each edit can be selected, `[tasks, edits]`.
      baselines: verdicts without an edit, `[tasks, runs, questions]`.
      left_out: tasks without a value in some cell, or with other numbers of questions.
    """

    edits: np.ndarray
    able: np.ndarray
    baselines: np.ndarray
    left_out: int

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Measured:
        """Collects the records of `measure`; those of most frequent shape count, and able edits in each task.

        Raises:
          UserError: there is no record.
        """
        shapes = collections.Counter(shape for record in records if (shape := _shape(record)))
        if not shapes:
            raise UserError("the file has no task with verdicts of several runs; run `measure` first")
        ((common, count),) = shapes.most_common(1)
        chosen = [record for record in records if _shape(record) == common and any(record["able"])]
        edits = np.array([record["edits"] for record in chosen], float)
        baselines = np.array(
            [np.broadcast_to(np.array(record["baseline"], float), common[1:]) for record in chosen], float
        )
        return cls(edits, np.array([record["able"] for record in chosen]), baselines, len(records) - len(chosen))


def _shape(record: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Returns the numbers of edits, runs and questions of a task; `None` if they differ between its edits."""
    runs = {len(edit) for edit in record["edits"]}
    questions = {len(run) for edit in (*record["edits"], record["baseline"]) for run in edit}
    if len(runs) != 1 or len(questions) != 1 or len(record["baseline"]) not in (1, *runs):
        return None
    return len(record["edits"]), runs.pop(), questions.pop()


def choices_table(measured: Measured, strategies: Sequence[Strategy], draws: int = 100) -> str:
    """Returns a Markdown table of the edits that strategies choose from some of the runs.

    Runs are drawn in `draws` random orders, the same for every strategy; the strategy sees the first, and the mean over
    those that it did not see is the true reward of its choice. Intervals are by bootstrap over tasks.

    Raises:
      UserError: a strategy needs all runs, so that none is left.
    """
    edits, runs = measured.edits.shape[1:3]
    for strategy in strategies:
        check(strategy.stages, edits)
        if strategy.most_runs >= runs:
            raise UserError(f"{strategy.name} can use {strategy.most_runs} of the {runs} runs; some must be left")
    source = np.random.default_rng(0)
    orders = [source.permutation(runs) for _ in range(draws)]
    # By task and strategy: the reward that the choice was made by, the true one, its gain over a random edit, whether
    # it is below the baseline, and the updates.
    found = np.zeros((len(measured.edits), len(strategies) + 1, 5))
    for task, (verdicts, able, baseline) in enumerate(
        zip(measured.edits, measured.able, measured.baselines, strict=True)
    ):
        rewards, without = verdicts.mean(2), baseline.mean(1)
        mean = rewards[able].mean()
        found[task, 0] = mean, mean, 0.0, (rewards[able].mean(1) < without.mean()).mean(), 0
        for place, strategy in enumerate(strategies, 1):
            for order in orders:
                seen, new = order[: strategy.most_runs], order[strategy.most_runs :]
                chosen, updates = strategy.choose(verdicts[:, seen], able)
                true = rewards[chosen.edit.sample, new].mean()
                gain = true - rewards[able][:, new].mean()
                worse = true < without[new].mean()
                found[task, place] += np.array([chosen.reward, true, gain, worse, updates]) / draws
    point = found.mean(0)
    flat = found.reshape(len(found), -1)

    def values(means: np.ndarray) -> np.ndarray:
        each = means.reshape(len(means), *point.shape)
        return np.stack([each[..., 1], each[..., 2], each[..., 2] - each[:, 1:2, 2]], -1)

    low, high = bootstrap_interval(flat, values)
    header = (
        "| strategy | updates per task | measured reward | true reward | - a random edit | - first | below baseline |"
    )
    lines = [header, f"|{' --- |' * 7}"]
    for place, name in enumerate([RANDOM, *(strategy.name for strategy in strategies)]):
        reward, true, gain, worse, updates = point[place]
        cells = [
            f"{value:{sign}.3f} [{a:{sign}.3f}, {b:{sign}.3f}]"
            for value, sign, a, b in zip(
                (true, gain, gain - point[1, 2]), ("", "+", "+"), low[place], high[place], strict=True
            )
        ]
        if not place:
            cells[1:] = ["-", "-"]
        lines.append(f"| {name} | {updates:.1f} | {reward:.3f} | {' | '.join(cells)} | {worse:.1%} |")
    return "\n".join(lines)
