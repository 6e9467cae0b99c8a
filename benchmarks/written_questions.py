"""Written questions: do rewards from questions that the policy wrote itself rank edits as the given ones do?

The untrained policy's edits of the first round, each scored by both kinds of question: every adapter answers both, so
that the kinds differ in nothing else.

    python -m benchmarks.written_questions measure runs/written.jsonl --config=seal/self_written --seeds=1,2 --runs=4
    python -m benchmarks.written_questions compare runs/written.jsonl

Policies trained on either kind, compared on the given questions of held-out passages:

    python -m benchmarks.written_questions train runs/written_train.jsonl --config=seal/self_written --seeds=1,2,3
    python -m benchmarks.written_questions table runs/written_train.jsonl

What files have already is not measured again.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import outer_updates
from benchmarks.outer_updates import UNTRAINED, Comparison
from selfadapt import loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains.knowledge import Knowledge
from selfadapt.errors import UserError
from selfadapt.files import read_jsonl
from selfadapt.telemetry.statistics import bootstrap_interval, mean_interval, paired_difference, rank_correlation

KINDS = ("given", "written")  # values of `config.domain.questions`


def measure(config: Any, runs: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yields the rewards of each task of the first round that is not known yet, by both kinds of question.

    Args:
      config: the resolved experiment, whose questions are written.
      runs: inner runs of each edit, with seeds that all edits share.
      known: ids of tasks.

    Raises:
      UserError: its questions are given.
    """
    comparison = Comparison.of(config)
    domain, state = comparison.domain, comparison.state
    if not (isinstance(domain, Knowledge) and domain.written is not None):
        raise UserError("config.domain.questions must be 'written' for this comparison")
    about = domain.written.about
    tasks = [task for task in comparison.tasks(0) if task.id not in known]
    both = [
        dataclasses.replace(task, questions=(*about[task.id].task.questions, *about[task.id].questions))
        for task in tasks
    ]
    settings = dataclasses.replace(comparison.settings, inner_runs=runs, at_once=max(1, config.at_once // runs))
    group = max(1, config.at_once // config.edits)
    for start in range(0, len(tasks), group):
        chosen = both[start : start + group]
        edits = loop.sample(state.policy, domain, chosen, comparison.settings)
        outcomes = loop.score(state.student, domain, chosen, loop.applied(domain, chosen, edits), settings)
        for task in chosen:
            own = [outcome for outcome in outcomes if outcome.edit.task_id == task.id]
            verdicts = [np.reshape(outcome.verdicts, (-1, len(task.questions))) for outcome in own]
            given, written = about[task.id].task.questions, about[task.id].questions
            lines = "\n".join(f"Question: {each.question} Answer: {each.answers[0]}" for each in written)
            yield {
                "task": task.id,
                "ok": [outcome.status == "ok" for outcome in own],
                "given": [each[:, : len(given)].mean(1).tolist() for each in verdicts],
                "written": [each[:, len(given) :].mean(1).tolist() for each in verdicts],
                "questions": len(written),
                "kinds": domain.describe(task, lines),
            }


def comparison_tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns Markdown tables: rank correlations of the two rewards, and the rewards of the edits that each chooses.

    Rewards of different inner runs are compared too, and those of the given questions with themselves: no reward can
    be expected to agree with them better than they do. Edits that could not be applied are left out, and so are
    passages with fewer than two others.

    Raises:
      UserError: no passage has two edits with two inner runs.
    """
    own = [[at for at, ok in enumerate(record["ok"]) if ok] for record in records]
    rewards = [
        {kind: np.array(record[kind])[places] for kind in KINDS}
        for record, places in zip(records, own, strict=True)
        if len(places) > 1
    ]
    half = min((each["given"].shape[1] for each in rewards), default=0) // 2
    if not half:
        raise UserError("the file has no passage with two edits of two inner runs; measure with --runs of at least 2")

    def side(kind: str, runs: slice) -> list[np.ndarray]:
        return [each[kind][:, runs].mean(1) for each in rewards]

    every, first, second = slice(None), slice(half), slice(half, 2 * half)
    rows = {
        "written and given, same inner runs": (side("written", every), side("given", every)),
        "written and given, other inner runs": (side("written", first), side("given", second)),
        "given and given, other inner runs": (side("given", first), side("given", second)),
    }
    lines = ["| rewards | rank correlation of all edits | within passages |", "| --- | --- | --- |"]
    for name, (a, b) in rows.items():
        lines.append(f"| {name} | {_overall(a, b)} | {_within(a, b)} |")
    measured = side("given", second)
    chosen = {
        "any edit": [each.mean() for each in measured],
        "the best by written questions": _best(side("written", first), measured),
        "the best by given questions": _best(side("given", first), measured),
    }
    lines += ["", "| edit of a passage | given questions, other inner runs | - any edit |", "| --- | --- | --- |"]
    for name, values in chosen.items():
        middle, low, high = paired_difference(values, chosen["any edit"])
        difference = "" if name == "any edit" else _interval(middle, low, high)
        lines.append(f"| {name} | {statistics.fmean(values):.3f} | {difference} |")
    kinds: collections.Counter[str] = collections.Counter()
    for record in records:
        kinds.update(record["kinds"])
    total = sum(record["questions"] for record in records)
    lines += ["", f"{len(records)} passages, {total / len(records):.1f} written questions of each."]
    if kinds:
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in kinds.most_common())
        lines[-1] += f" As lines of edits they are: {shares}."
    return "\n".join(lines)


def _best(by: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> list[float]:
    return [float(rewards[chosen.argmax()]) for chosen, rewards in zip(by, measured, strict=True)]


def _within(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> str:
    """Returns the mean of the rank correlations of passages where both rewards vary, with its interval."""
    found = [rank_correlation(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return "-"
    each = mean_interval(known)
    return f"{_interval(each['mean'], each['low'], each['high'])}, n = {len(known)}"


def _overall(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> str:
    """Returns the rank correlation of all edits; its interval is by bootstrap over passages, with fixed ranks."""
    from scipy import stats

    ranks = [stats.rankdata(np.concatenate(values)) for values in (a, b)]
    x, y = (values - values.mean() for values in ranks)
    numbers = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
    ends = np.cumsum([len(each) for each in a])[:-1]
    units = np.stack([part.sum(0) for part in np.split(numbers, ends)])

    def pearson(means: np.ndarray) -> np.ndarray:
        _, x, y, xx, yy, xy = np.moveaxis(means / means[:, :1], -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))

    low, high = bootstrap_interval(units, pearson)
    return _interval(float(pearson(units.mean(0)[None])[0]), float(low), float(high))


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def train(path: str, overrides: Mapping[str, str], outer: str, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yields a record of each policy of one seed that is not known yet, as `outer_updates.compare`.

    Edits are applied to the untrained weights; see `outer_updates`.

    Args:
      path: the config file, as for `load_config`.
      overrides: fields of the config, for both kinds.
      outer: the outer update, such as "rest_em" or "rloo:learning_rate=1e-3".
      known: variants.
    """
    for kind in KINDS:
        variant = f"{outer}, {kind} questions"
        if variant in known and (kind != KINDS[0] or UNTRAINED in known):
            continue
        fields = {**overrides, "domain.questions": kind}
        comparison = Comparison.of(resolve(load_config(path, fields)))
        temperature = comparison.config.sampling.temperature
        if kind == KINDS[0] and UNTRAINED not in known:
            yield {"variant": UNTRAINED, "heldout": comparison.rewards(comparison.state, temperature), "rounds": []}
        if variant in known:
            continue
        update = outer_updates.make_variant(path, fields, outer)
        yield comparison.attempt(variant, update, comparison.first_round())


def differences(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns lines with the difference on held-out passages, written less given, of each outer update."""
    means = {
        (record["variant"], record["seed"]): statistics.fmean(record["heldout"])
        for record in records
        if "heldout" in record
    }
    lines = []
    for given in dict.fromkeys(name for name, _ in means if name.endswith("given questions")):
        written = given.replace("given questions", "written questions")
        seeds = [seed for name, seed in means if name == given and (written, seed) in means]
        if seeds:
            each = [[means[name, seed] for seed in seeds] for name in (written, given)]
            lines.append(f"{written} - {given}: {_interval(*paired_difference(*each))} over {len(seeds)} seeds")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures or trains, or prints the tables of what was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = {
        "measure": "score the untrained policy's edits by both kinds of question and add the rewards to a file",
        "compare": "print the tables of a file of `measure`",
        "train": "train policies on either kind and add their records to a file",
        "table": "print the tables of a file of `train`",
    }
    for name, text in made.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=pathlib.Path, help="JSON lines")
        if name in ("measure", "train"):
            outer_updates.add_options(command, config="seal/self_written", seeds="1")
        if name == "measure":
            command.add_argument("--runs", type=int, default=4)
        if name == "train":
            command.add_argument("--outer", default="rest_em")
    options = parser.parse_args(argv)
    known = list(read_jsonl(options.file)) if options.file.exists() else []
    if options.command == "compare":
        print(comparison_tables(known))
        return
    if options.command == "table":
        print(f"{outer_updates.table(known)}\n\n{differences(known)}")
        return

    def records(fields: dict[str, str], own: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        if options.command == "measure":
            config = resolve(load_config(options.config, fields))
            return measure(config, options.runs, {record["task"] for record in own})
        return train(options.config, fields, options.outer, {record["variant"] for record in own})

    outer_updates.write_records(options, known, records)


if __name__ == "__main__":
    main()
