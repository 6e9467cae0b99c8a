"""Reward noise: how much of a reward is the edit and how much the inner run, and what to do with a budget of runs.

Many inner runs of the untrained policy's edits of the first round, the variance of their verdicts, and the true reward
of the edits that strategies choose from few of these runs, measured on the others:

    python -m benchmarks.reward_noise measure runs/noise.jsonl --config=quickstart --seeds=1 --runs=16
    python -m benchmarks.reward_noise choose runs/noise.jsonl mean:1 mean:3 lcb:3 halving:1,2,2 \
        mean:5 lcb:5 halving:2,3,3

Policies trained with such strategies, compared on held-out tasks:

    python -m benchmarks.reward_noise train runs/noise_train.jsonl --config=quickstart --seeds=1,2,3 \
        mean:1 mean:4 lcb:4 halving:1,3,2
    python -m benchmarks.reward_noise table runs/noise_train.jsonl

A strategy is "mean:R" (the best mean of R runs), "lcb:R" or "lcb:R:Z" (the best mean less Z standard errors, 1 by
default), or "halving:R,S,..." (R runs of all edits, S more of the better half, and so on). With 5 edits, the updates
per task are 15 for mean:3, lcb:3 and halving:1,2,2, and 25 for mean:5, lcb:5 and halving:2,3,3. Training also measures
the baseline, once for each run; 24 updates per task are mean:4, lcb:4 and halving:1,3,2. What files have already is not
measured again.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import outer_updates
from benchmarks.outer_updates import UNTRAINED, Comparison
from benchmarks.run_budgets import Measured, Strategy, choices_table
from selfadapt import loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.errors import InvalidValueError
from selfadapt.files import read_jsonl
from selfadapt.outer.halving import check
from selfadapt.telemetry.statistics import bootstrap_interval
from selfadapt.telemetry.variance import components, mean_squares
from selfadapt.types import Edit, Outcome

EFFECTS = ("edit", "run", "question", "edit x run", "edit x question", "run x question", "rest")
RUNS = (1, 2, 3, 4, 8, 16)  # of which the reliability is printed


def measure(config: Any, runs: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yields the verdicts of each task of the first round that is not known yet; see the module's docstring.

    Args:
      config: the resolved experiment.
      runs: inner runs of each edit and of each baseline, with seeds that all share.
      known: ids of tasks.
    """
    comparison = Comparison.of(config)
    domain, state = comparison.domain, comparison.state
    tasks = [task for task in comparison.tasks(0) if task.id not in known]
    settings = dataclasses.replace(comparison.settings, inner_runs=runs, at_once=max(1, config.at_once // runs))
    edits: dict[str, list[Edit]] = collections.defaultdict(list)
    for edit in loop.sample(state.policy, domain, tasks, comparison.settings):
        edits[edit.task_id].append(edit)
    group = max(1, config.at_once // (config.edits + 1))
    for start in range(0, len(tasks), group):
        chosen = tasks[start : start + group]
        pairs = loop.applied(domain, chosen, [edit for task in chosen for edit in edits[task.id]])
        pairs += [(Edit(task.id, -1, "", ""), domain.baseline(task)) for task in chosen]
        outcomes = loop.score(state.student, domain, chosen, pairs, settings)
        for task in chosen:
            *own, baseline = (outcome for outcome in outcomes if outcome.edit.task_id == task.id)
            yield {
                "task": task.id,
                "able": [outcome.status == "ok" and bool(outcome.edit.text.strip()) for outcome in own],
                "edits": [_by_run(outcome) for outcome in own],
                "baseline": _by_run(baseline),
            }


def _by_run(outcome: Outcome) -> list[list[float]]:
    size = len(outcome.verdicts) // len(outcome.runs)
    return [list(outcome.verdicts[start : start + size]) for start in range(0, len(outcome.verdicts), size)]


def variance_tables(verdicts: np.ndarray) -> str:
    """Returns Markdown tables: the variance components within tasks, and the reliability of rewards.

    The factors edit, run (seeds are shared by the edits of a task) and question are crossed and random within a task;
    the components are estimated by analysis of variance and averaged over tasks, the intervals by bootstrap over
    tasks. The part in a reward is that in the mean over a task's questions of one run. What edits of a task share
    cancels when they are compared.

    Args:
      verdicts: shape `[tasks, edits, runs, questions]`.
    """
    sizes, questions = verdicts.shape[1:], verdicts.shape[-1]
    squares = mean_squares(verdicts)
    divisors = np.array([questions if "question" in effect or effect == "rest" else 1 for effect in EFFECTS])

    def estimates(means: np.ndarray) -> np.ndarray:
        found = components(means, sizes)
        in_reward = found / divisors
        edit, run, _, edit_run, edit_question, run_question, rest = np.moveaxis(in_reward, -1, 0)
        columns = [found, in_reward]
        for runs in RUNS:
            noise, shared = (edit_run + rest) / runs, (run + run_question) / runs
            signal = edit + edit_question
            with np.errstate(invalid="ignore"):  # not a number where no reward varies
                each = [signal / (signal + noise), signal / (signal + noise + shared), edit / (signal + noise)]
            columns.append(np.stack(each, -1))
        return np.concatenate(columns, -1)

    point = estimates(squares.mean(0, keepdims=True))[0]
    low, high = bootstrap_interval(squares, estimates)
    cells = [f"{value:.4f} [{a:.4f}, {b:.4f}]" for value, a, b in zip(point, low, high, strict=True)]
    count = len(EFFECTS)
    lines = ["| effect | variance of a verdict | part in a reward of one run | compared within a task |"]
    lines.append(f"|{' --- |' * 4}")
    for place, effect in enumerate(EFFECTS):
        role = "true, on these questions" if effect in ("edit", "edit x question") else "noise"
        role = "cancels" if effect in ("run", "question", "run x question") else role
        lines.append(f"| {effect} | {cells[place]} | {cells[count + place]} | {role} |")
    lines += ["", "| reliability of a mean over | shared seeds | seeds of each edit | shared, for other questions |"]
    lines.append(f"|{' --- |' * 4}")
    for place, runs in enumerate(RUNS):
        start = 2 * count + 3 * place
        own = [f"{point[i]:.2f} [{low[i]:.2f}, {high[i]:.2f}]" for i in range(start, start + 3)]
        lines.append(f"| {runs} runs | {' | '.join(own)} |")
    return "\n".join(lines)


def train(
    path: str, overrides: Mapping[str, str], strategies: Sequence[Strategy], known: set[str]
) -> Iterator[dict[str, Any]]:
    """Yields a record of each strategy that is not known yet, as `outer_updates.compare`; the untrained policy's first.

    Policies learn by ReST-EM, and edits are applied to the untrained weights; see `outer_updates`.
    """
    missing = [strategy for strategy in strategies if strategy.name not in known]
    if not missing and UNTRAINED in known:
        return
    comparison = Comparison.of(resolve(load_config(path, dict(overrides))))
    temperature = comparison.config.sampling.temperature
    if UNTRAINED not in known:
        yield {"variant": UNTRAINED, "heldout": comparison.rewards(comparison.state, temperature), "rounds": []}
    for strategy in missing:
        fields = {**overrides, **strategy.fields()}
        outer = outer_updates.make_variant(path, fields, "rest_em")
        own = dataclasses.replace(comparison, config=resolve(load_config(path, fields)))
        check(strategy.stages, own.config.edits)
        began = time.monotonic()
        record: dict[str, Any] = {"variant": strategy.name, "rounds": []}
        try:
            state, record["rounds"] = own.run(outer, own.first_round())
            record["heldout"] = comparison.rewards(state, temperature)
        except InvalidValueError as error:
            record["failed"] = str(error)
        yield record | {"seconds": time.monotonic() - began}


def updates_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table of the inner updates of training with each strategy, baselines included."""
    spent: dict[str, list[float]] = {}
    for record in records:
        if record["rounds"]:
            spent.setdefault(record["variant"], []).append(sum(round["inner_updates"] for round in record["rounds"]))
    lines = ["| strategy | inner updates of a run |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {statistics.fmean(each):.0f} |" for name, each in spent.items())])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, chooses, trains, or prints the tables of what was trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = {
        "measure": "run many inner runs of the untrained policy's edits and add their verdicts to a file",
        "choose": "print the variance of a file's verdicts, and the true rewards of what strategies choose",
        "train": "train policies with strategies and add their records to a file",
        "table": "print the tables of a file of `train`",
    }
    for name, text in made.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=pathlib.Path, help="JSON lines")
        if name in ("choose", "train"):
            command.add_argument("strategies", nargs="+")
        if name in ("measure", "train"):
            outer_updates.add_options(command, config="quickstart", seeds="1")
        if name == "measure":
            command.add_argument("--runs", type=int, default=16)
    options = parser.parse_args(argv)
    known = list(read_jsonl(options.file)) if options.file.exists() else []
    strategies = [Strategy.read(text) for text in getattr(options, "strategies", ())]
    if options.command == "choose":
        measured = Measured.of(known)
        print(f"{len(measured.edits)} tasks, {measured.left_out} left out\n\n{variance_tables(measured.edits)}\n")
        print(choices_table(measured, strategies))
        return
    if options.command == "table":
        print(f"{outer_updates.table(known)}\n\n{updates_table(known)}")
        return

    def records(fields: dict[str, str], own: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        if options.command == "measure":
            config = resolve(load_config(options.config, fields))
            return measure(config, options.runs, {record["task"] for record in own})
        return train(options.config, fields, strategies, {record["variant"] for record in own})

    outer_updates.write_records(options, known, records)


if __name__ == "__main__":
    main()
