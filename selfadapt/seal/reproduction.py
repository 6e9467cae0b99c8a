"""`selfadapt analyze --reproduction DIRECTORY`: SEAL's published tables beside what its result files give."""

from __future__ import annotations

import fnmatch
import functools
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from selfadapt.data.sources import load_tasks
from selfadapt.errors import UserError
from selfadapt.files import read_jsonl
from selfadapt.seal import checks, published
from selfadapt.seal.analyze import Comparison, Estimate, compare, estimate, units
from selfadapt.seal.continual import mean_deviation
from selfadapt.seal.noise import noise
from selfadapt.seal.results import Results, pool_continual, read_results, recompute
from selfadapt.telemetry.statistics import paired_difference
from selfadapt.types import Task

_NONE = "-"
_POSITIONS = 2048  # tokens that SEAL pads a training sequence to
_CHARACTERS = 4  # of English in a token


class Files:
    """The JSON files in a directory: SEAL's repository, or some of its files.

    Args:
      directory: the directory.

    Raises:
      UserError: there is no such directory, or no JSON is in it.
    """

    def __init__(self, directory: str | os.PathLike):
        self._root = pathlib.Path(directory)
        if not self._root.is_dir():
            raise UserError(f"{self._root} is no directory; name the folder of SEAL's repository with its result files")
        found = (path for path in self._root.rglob("*") if path.suffix in (".json", ".jsonl"))
        self._paths = {"/" + path.relative_to(self._root).as_posix(): path for path in sorted(found)}
        if not self._paths:
            raise UserError(f"{self._root} has no .json files; name the folder of SEAL's repository with them")
        self.read = functools.cache(read_results)
        self.tasks = functools.cache(load_tasks)

    def all(self, pattern: str) -> list[pathlib.Path]:
        """Returns the files whose paths end in a pattern, or which have the name that `published.FLAT` has for it."""
        found = [path for name, path in self._paths.items() if fnmatch.fnmatchcase(name, f"*/{pattern}")]
        flat = "/" + published.FLAT.get(pattern, pattern)
        return found or [path for name, path in self._paths.items() if fnmatch.fnmatchcase(name, flat)]

    def one(self, pattern: str) -> pathlib.Path | None:
        """Returns the file of a pattern; `None` if there is none.

        Raises:
          UserError: there are several.
        """
        found = self.all(pattern)
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both {pattern}; name the folder of one version")
        return found[0] if found else None

    def results(self, pattern: str) -> Results | None:
        """Returns the result file of a pattern; `None` if there is none."""
        path = self.one(pattern)
        return None if path is None else self.read(path)


def tables(directory: str | os.PathLike) -> dict[str, str]:
    """Computes the tables of docs/reproduction.md from the files in a directory.

    Args:
      directory: SEAL's repository, its folder of knowledge incorporation, or a folder with some of its files. What
        follows from a file that is not there is a dash.

    Returns:
      Markdown tables by title. Accuracies are in percent, intervals have 95%.

    Raises:
      UserError: the directory has no JSON, or several versions of a file.
      ResultsError: a file is not in SEAL's schema.
    """
    files = Files(directory)
    found: dict[str, str] = {}
    for table in published.TABLES:
        sides = {row.label: _side(files, row) for row in table.rows}
        found[table.title] = _accuracies(table, sides)
        if compared := _compared(table, sides):
            found[f"{table.title}: paired differences"] = compared
    found["Rounds of training: the edits that are learned from"] = _rounds(files)
    found["Finetuning data with passages of the evaluation in it"] = _leaks(files)
    found["Continued pretraining: verdicts kept by title"] = _titles(files)
    found["Edits and their training sequences"] = _edits(files)
    found["Continual self-edits: mean accuracy after each edit"] = _matrix(files)
    found["Continual self-edits: summary"] = _continual(files)
    found["Continual self-edits: standard deviations before any edit"] = _deviations(files)
    return {title: text for title, text in found.items() if text}


def reproduction(directory: str | os.PathLike) -> str:
    """Returns what the command prints; see `tables`."""
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in tables(directory).items())


class _Side(NamedTuple):
    """What a file gives for a row: accuracies by passage or question, and those of its model without adaptation."""

    unit: str
    values: dict[str, float]
    baseline: dict[str, float]


def _side(files: Files, row: published.Row) -> _Side | None:
    results = files.results(row.file)
    if results is None:
        return None
    baseline, adapter = units(results)
    unit = "passage" if results.kind == "inner" else "question"
    return _Side(unit, baseline if row.side == "baseline" else adapter, baseline)


def _accuracies(table: published.Table, sides: dict[str, _Side | None]) -> str:
    body = []
    for row in table.rows:
        printed = "not published" if row.published is None else f"{row.published:.1f}"
        side, computed = sides[row.label], (_NONE,) * 3
        if side is not None:
            found = estimate(list(side.values.values()))
            gain = _NONE
            if row.side == "adapter":
                gain = _interval(compare("", "", side.unit, side.baseline, side.values).difference, "+")
            computed = (_interval(found, digits=2), gain, f"{found.n} {side.unit}s")
        body.append((row.label, printed, f"{row.noted:.2f}", *computed, f"`{row.file}`"))
    header = ("", "published", "in the repository", "recomputed", "gain over the file's baseline", "over", "file")
    return _markdown(header, body)


def _compared(table: published.Table, sides: dict[str, _Side | None]) -> str:
    """Returns the comparisons whose files are both there."""
    body = []
    for pair in table.pairs:
        before, after = sides[pair.a], sides[pair.b]
        if before is not None and after is not None:
            found = compare(pair.a, pair.b, before.unit, before.values, after.values)
            body.append((f"{pair.b} - {pair.a}", *_difference(found)))
    return _markdown(("", "difference", "p", "better / worse", "over"), body) if body else ""


def _difference(found: Comparison) -> tuple[str, ...]:
    over = f"{found.difference.n} {found.unit}s"
    return _interval(found.difference, "+"), f"{found.p:.2g}", f"{found.better} / {found.worse}", over


def _rounds(files: Files) -> str:
    body = []
    for name, ranked, learned in published.ROUNDS:
        results = files.results(ranked)
        if results is None:
            continue
        found, rewards = checks.selected(results), noise(results)
        path, same = files.one(learned), _NONE
        if path is not None:
            rows = [(row.get("prompt", ""), row.get("completion")) for row in read_jsonl(path)]
            same = f"{len(set(rows) & set(found.winners))} of {len(rows)}"
        means: tuple[str, ...] = (_NONE,) * 3
        counts: tuple[str, ...] = (_NONE,) * 2
        reliability = _NONE
        if rewards is not None:
            means = tuple(f"{100 * value:.1f}" for value in (rewards.mean, rewards.best, rewards.expected))
            counts = tuple(f"{number} of {rewards.passages}" for number in (rewards.level, rewards.hurt))
            reliability = "{:.2f} [{:.2f}, {:.2f}]".format(*rewards.reliability)
        ties, improve = f"{found.ties} of {len(found.winners)}", f"{found.improve} of {found.edits}"
        baseline = f"{100 * recompute(results)['baseline_mean_accuracy']:.1f}"
        body.append((name, baseline, *means, reliability, improve, ties, *counts, same))
    header = (
        *("", "no edit", "all edits", "best edits, as measured", "best edits, expected of new runs"),
        *("reliability of a reward", "edits that improve", "passages with several best edits"),
        *("best edits that change nothing", "best edits that hurt", "finetuning rows that are a best edit"),
    )
    return _markdown(header, body) if body else ""


def _leaks(files: Files) -> str:
    passages = files.one(published.PASSAGES)
    if passages is None:
        return ""
    contexts = {task.context for task in files.tasks(passages)}
    body = []
    for path in files.all(published.FINETUNING):
        prompts = [str(row.get("prompt", "")) for row in read_jsonl(path)]
        body.append((f"`{path.name}`", str(len(prompts)), str(checks.leaked(prompts, contexts))))
    return _markdown(("file", "rows", "with a passage of the evaluation"), body) if body else ""


def _titles(files: Files) -> str:
    body = []
    for path in files.all("cpt_*.json"):
        results = files.read(path)
        if results.kind == "cpt" and results.content.get("per_article"):
            _, adapter = units(results)
            kept, accuracy = checks.kept_by_title(results)
            share = 100 * statistics.fmean(adapter.values())
            body.append((f"`{path.name}`", str(len(adapter)), f"{share:.2f}", str(kept), f"{100 * accuracy:.2f}"))
    header = ("file", "verdicts", "accuracy", "verdicts kept by title", "their accuracy")
    return _markdown(header, body) if body else ""


def _edits(files: Files) -> str:
    tasks: dict[str, list[Task]] = {}
    for label, pattern in published.EDITS:
        path = files.one(pattern)
        if path is not None:
            tasks[label] = files.tasks(path)
    body = []
    for label, each in tasks.items():
        found = checks.lengths(each)
        share = 1 - found.characters / _CHARACTERS / _POSITIONS
        body.append(
            (
                label,
                _interval(estimate(found.words), scale=1),
                str(sum(found.sequences)),
                f"{statistics.fmean(found.sequences):.2f}",
                f"{found.characters:.0f}",
                f"{100 * share:.0f}%",
            )
        )
    header = (
        *("", "words per edit", "training sequences", "per passage", "characters of one"),
        f"padding of {_POSITIONS} positions, at {_CHARACTERS} characters per token",
    )
    return _markdown(header, body) if body else ""


def _matrix(files: Files) -> str:
    results = files.results(published.CONTINUAL)
    if results is None:
        return ""
    rows, deviations = results.content["mean_over_sequences"], results.content["std_over_sequences"]
    root = math.sqrt(results.content["n_sequences"])
    body = []
    for edits, (means, spread) in enumerate(zip(rows, deviations, strict=True)):
        asked = edits or len(means)
        cells = [f"{100 * mean:.1f} ± {100 * std / root:.1f}" for mean, std in zip(means, spread, strict=True)]
        body.append((str(edits), *cells[:asked], *[""] * (len(means) - asked)))
    return _markdown(("edits", *(f"passage {c + 1}" for c in range(len(rows[0])))), body)


_SUMMARY = {
    "before": "before any edit",
    "just_learnt": "just after its edit",
    "at_the_end": "after all edits",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
}


def _continual(files: Files) -> str:
    """Returns the summary of the file over all runs, and means over those runs whose files are there."""
    overall = files.results(published.CONTINUAL)
    runs = [recompute(files.read(path)) for path in files.all(published.CONTINUAL_RUNS)]
    if overall is None:
        return ""
    whole = recompute(overall)
    body = []
    for name, label in _SUMMARY.items():
        mean = _NONE
        if runs:
            middle, low, high = paired_difference([run[name] for run in runs], [0.0] * len(runs))
            mean = _interval(Estimate(middle, low, high, len(runs)))
        body.append((label, f"{100 * whole[name]:.2f}", mean))
    return _markdown(("", f"all {overall.content['n_sequences']} sequences", f"{len(runs)} runs"), body)


def _deviations(files: Files) -> str:
    runs = [files.read(path) for path in files.all(published.CONTINUAL_RUNS)]
    if len(runs) < 2:
        return ""
    averaged, pooled = mean_deviation(runs)[0], pool_continual(runs)["std"][0]
    lines = ((f"mean of {len(runs)} runs', as published", averaged), ("over all their sequences", pooled))
    body = [(name, *(f"{100 * value:.1f}" for value in values)) for name, values in lines]
    return _markdown(("", *(f"passage {c + 1}" for c in range(len(pooled)))), body)


def _interval(found: Estimate, sign: str = "", scale: float = 100, digits: int = 1) -> str:
    mean, low, high = (scale * value for value in (found.mean, found.low, found.high))
    return f"{mean:{sign}.{digits}f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))
