"""Outer updates compared at equal numbers of inner updates, on an embedded model's world.

The variants of a seed start from the same policy and learn in their first round from the same edits and rewards. Every
edit, of all rounds, is applied to the untrained weights, so that rewards of all rounds and variants are comparable.
Afterwards each policy writes one edit for each held-out task. Beside the variants stands the untrained policy, at the
sampling temperature of training and at `config.evaluation.low_temperature`.

    python -m benchmarks.outer_updates run runs/outer.jsonl --config=quickstart --seeds=1,2,3 rest_em grpo \
        dpo:learning_rate=3e-3,epochs=4
    python -m benchmarks.outer_updates table runs/outer.jsonl

A variant is the name of an outer update with fields of its group in the config; "shuffled-" before it permutes the
rewards among the edits of each task, as a control. Runs that the file has already are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from selfadapt import loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import Domain, Prepared, make_domain
from selfadapt.errors import InvalidValueError
from selfadapt.experiment import initial_state
from selfadapt.files import JsonlWriter, read_jsonl
from selfadapt.loop import Round, Settings
from selfadapt.models.policy import State
from selfadapt.outer import OuterUpdate, Report, make_outer
from selfadapt.outer.controls import ShuffledRewards
from selfadapt.telemetry.progress import silent
from selfadapt.telemetry.statistics import mean_and_stderr, paired_difference
from selfadapt.types import Task

UNTRAINED, LOW = "untrained", "untrained, low temperature"
SHUFFLED = "shuffled-"
COLUMNS = ("reward", "kl_start", "kl_sample_train", "entropy", "clip_share", "gradient_norm", "edit_tokens", "invalid")


class _Nothing:
    """An outer update that learns nothing, to get a round's outcomes."""

    def init(self, policy: Any) -> tuple[()]:
        del policy
        return ()

    def update(self, pytree: Any, state: State, baselines: Any, outcomes: Any) -> tuple[Any, State, Report]:
        del baselines, outcomes
        return pytree, state, Report()


def make_variant(path: str, overrides: Mapping[str, str], variant: str) -> OuterUpdate:
    """Returns the outer update that a variant describes.

    Args:
      path: the config file, as for `load_config`.
      overrides: fields of the config, for all variants.
      variant: such as "grpo", "shuffled-grpo" or "grpo:learning_rate=1e-3,epochs=2".

    Raises:
      UserError: there is no such update or field, or a value cannot be used.
    """
    name, _, given = variant.removeprefix(SHUFFLED).partition(":")
    # The student stays as it was with ReST-EM too, as with the other updates.
    fields = {"outer.name": name, "outer.rest_em.merge": "False"}
    fields |= {f"outer.{name}.{field}": value for field, _, value in (f.partition("=") for f in given.split(",") if f)}
    config = resolve(load_config(path, {**overrides, **fields}))
    outer = make_outer(config)
    return ShuffledRewards(outer, seed=config.seed) if variant.startswith(SHUFFLED) else outer


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The runs of one seed.

    Attributes:
      config: the resolved experiment.
      domain: supplies tasks, updates and verdicts.
      state: the state before the first round.
      heldout: the tasks that policies are compared on.
    """

    config: Any
    domain: Domain
    state: State
    heldout: Sequence[Task]

    @classmethod
    def of(cls, config: Any) -> Comparison:
        """Loads the models and the held-out tasks of a resolved experiment."""
        state = initial_state(config)
        domain = make_domain(config, state.policy.model, state.student.model)
        if isinstance(domain, Prepared):
            domain = domain.prepare(state, silent)
        return cls(config, domain, state, domain.tasks("heldout", config.evaluation.contexts))

    @property
    def settings(self) -> Settings:
        """How edits are sampled and scored in the rounds."""
        return Settings.of(self.config)

    def tasks(self, round: int) -> list[Task]:
        """Returns the tasks of a round."""
        return self.domain.tasks("train", self.config.contexts, round)

    def first_round(self) -> Round:
        """Returns what the untrained policy's edits of the first round came to."""
        return loop.run_round(self.state, self.domain, self.tasks(0), _Nothing(), self.settings)[1]

    def rewards(self, state: State, temperature: float) -> list[float]:
        """Returns the reward of a policy's edit of each held-out task, applied to the untrained weights."""
        seeds = self.config.evaluation.seed_offset
        settings = dataclasses.replace(self.settings, edits=1, seed_offset=seeds, temperature=temperature)
        edits = loop.sample(state.policy, self.domain, self.heldout, settings)
        pairs = loop.applied(self.domain, self.heldout, edits)
        outcomes = loop.score(self.state.student, self.domain, self.heldout, pairs, settings)
        return [outcome.reward for outcome in outcomes]

    def run(self, outer: OuterUpdate, first: Round) -> tuple[State, list[dict[str, float]]]:
        """Returns the state after all rounds, and the metrics of each.

        Raises:
          InvalidValueError: training diverged.
        """
        pytree, state, report = outer.update(outer.init(self.state.policy), self.state, first.baselines, first.outcomes)
        state = dataclasses.replace(state, round=1, outer=pytree)
        metrics = [_metrics(first, report)]
        for number in range(1, self.config.rounds):
            state, done = loop.run_round(state, self.domain, self.tasks(number), outer, self.settings)
            metrics.append(_metrics(done, done.report))
        return state, metrics

    def attempt(self, variant: str, outer: OuterUpdate, first: Round) -> dict[str, Any]:
        """Returns the record of a variant: its rounds and its policy's rewards, or how its training diverged."""
        began = time.monotonic()
        record: dict[str, Any] = {"variant": variant, "rounds": []}
        try:
            state, record["rounds"] = self.run(outer, first)
            record["heldout"] = self.rewards(state, self.config.sampling.temperature)
        except InvalidValueError as error:
            record["failed"] = str(error)
        return record | {"seconds": time.monotonic() - began}


def add_options(command: argparse.ArgumentParser, *, config: str, seeds: str) -> None:
    """Adds the options of a command that makes records, with its defaults."""
    command.add_argument("--config", default=config)
    command.add_argument("--seeds", default=seeds)
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the config")


def write_records(
    options: argparse.Namespace,
    known: Sequence[Mapping[str, Any]],
    make: Callable[[dict[str, str], Sequence[Mapping[str, Any]]], Iterable[Mapping[str, Any]]],
) -> None:
    """Adds records of all seeds to a file, each when it is made, and prints a line about it.

    Args:
      options: those of `add_options`, and the file.
      known: the records that the file has.
      make: returns a seed's further records, given the fields of its config and the records that the file has of it.
    """
    overrides = dict(field.partition("=")[::2] for field in options.set)
    with JsonlWriter(options.file) as writer:
        for seed in map(int, options.seeds.split(",")):
            own = [record for record in known if record["seed"] == seed]
            for record in make(overrides | {"seed": str(seed)}, own):
                writer.write({"seed": seed, "config": options.config, "set": overrides} | record)
                short = {name: record[name] for name in ("task", "variant", "failed", "seconds") if name in record}
                reward = {"heldout": round(statistics.fmean(record["heldout"]), 4)} if "heldout" in record else {}
                print(json.dumps({"seed": seed} | reward | short), flush=True)


def _metrics(done: Round, report: Report) -> dict[str, float]:
    rewards = [outcome.reward for outcome in done.outcomes]
    invalid = sum(outcome.status != "ok" for outcome in done.outcomes) / len(done.outcomes)
    tokens = statistics.fmean(len(outcome.edit.tokens) for outcome in done.outcomes)
    numbers = {"reward": statistics.fmean(rewards), "invalid": invalid, "edit_tokens": tokens}
    return numbers | {"inner_updates": done.inner_updates} | dict(report.metrics)


def compare(config: Any, outers: Mapping[str, OuterUpdate], known: set[str]) -> Iterator[dict[str, Any]]:
    """Yields a record of each variant of one seed that is not known yet; the untrained policy's first."""
    if not {UNTRAINED, LOW, *outers} - known:
        return
    comparison = Comparison.of(config)
    for name, temperature in ((UNTRAINED, config.sampling.temperature), (LOW, config.evaluation.low_temperature)):
        if name not in known:
            yield {"variant": name, "heldout": comparison.rewards(comparison.state, temperature), "rounds": []}
    first = None
    for variant, outer in outers.items():
        if variant in known:
            continue
        first = first or comparison.first_round()
        yield comparison.attempt(variant, outer, first)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns Markdown tables: the variants' rewards on held-out tasks, and the metrics of their last rounds."""
    seeds = sorted({record["seed"] for record in records})
    variants = list(dict.fromkeys(record["variant"] for record in records))
    found = {(record["variant"], record["seed"]): record for record in records}
    means = {key: statistics.fmean(record["heldout"]) for key, record in found.items() if "heldout" in record}
    lines = [
        "| variant | runs | held-out reward | - untrained, 95% over seeds | spread over seeds | worst | failed |",
        f"|{' --- |' * 7}",
    ]
    for variant in variants:
        own = [seed for seed in seeds if (variant, seed) in means]
        failed = sum("failed" in found.get((variant, seed), {}) for seed in seeds)
        if not own:
            lines.append(f"| {variant} | 0 | - | - | - | - | {failed} |")
            continue
        values = [means[variant, seed] for seed in own]
        middle, low, high = paired_difference(values, [means[UNTRAINED, seed] for seed in own])
        several = len(own) > 1
        interval = f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]" if several else f"{middle:+.3f}"
        spread = f"{statistics.stdev(values):.3f}" if several else "-"
        lines.append(
            f"| {variant} | {len(own)} | {statistics.fmean(values):.3f} | {interval} | {spread} | {min(values):.3f} | "
            f"{failed} |"
        )
    lines += ["", f"| variant | rewards by round | {' | '.join(COLUMNS[1:])} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
    for variant in variants:
        runs = [record["rounds"] for record in records if record["variant"] == variant and record["rounds"]]
        if not runs:
            continue
        rewards = [mean_and_stderr([rounds[at]["reward"] for rounds in runs])[0] for at in range(len(runs[0]))]
        last = [rounds[-1] for rounds in runs]
        cells = [
            f"{statistics.fmean(metrics[name] for metrics in last):.2g}"
            if all(name in metrics for metrics in last)
            else "-"
            for name in COLUMNS[1:]
        ]
        lines.append(f"| {variant} | {', '.join(f'{reward:.3f}' for reward in rewards)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs variants, or prints the tables of those that were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run variants and add their records to a file")
    shown = commands.add_parser("table", help="print the tables of a file")
    for command in (run, shown):
        command.add_argument("file", type=pathlib.Path, help="JSON lines")
    run.add_argument("variants", nargs="+")
    add_options(run, config="quickstart", seeds="1,2,3,4,5")
    options = parser.parse_args(argv)
    known = list(read_jsonl(options.file)) if options.file.exists() else []
    if options.command == "table":
        print(table(known))
        return

    def records(fields: dict[str, str], own: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        outers = {variant: make_variant(options.config, fields, variant) for variant in options.variants}
        return compare(resolve(load_config(options.config, fields)), outers, {record["variant"] for record in own})

    write_records(options, known, records)


if __name__ == "__main__":
    main()
