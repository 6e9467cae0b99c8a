"""SEAL's result files: read, recomputed from their per-question verdicts, and written in the same schema.

There are four kinds: "inner" (one passage at a time; also the files that rank edits for ReST-EM), "cpt" and
"cpt-full" (continued pretraining on many passages, by LoRA and by full fine-tuning) and "continual"
(how well earlier passages are retained).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.errors import InvalidValueError
from selfadapt.seal.stats import COMPLETION_STATS, DIGITS, article_stats, completion_stats, overall_stats, rounded

_KINDS = (
    ("inner", "articles"),
    ("cpt", "server_reply"),
    ("cpt-full", "per_question"),
    ("continual", "mean_over_sequences"),
)


class ResultsError(InvalidValueError):
    """A result file is not in SEAL's schema; the message names the file, the record and the field."""


@dataclasses.dataclass(frozen=True)
class Results:
    """A result file.

    Attributes:
      name: the experiment's name, or the file's.
      kind: "inner", "cpt", "cpt-full" or "continual".
      content: the file's JSON as it is.
    """

    name: str
    kind: str
    content: Mapping[str, Any]


def read_results(path: str | os.PathLike) -> Results:
    """Reads a result file and checks that its statistics can be recomputed.

    Null statistics and empty question logs, as in early files, are kept.

    Raises:
      ResultsError: it is not one of SEAL's result files, or a record is wrong.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such result file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: is not valid JSON ({error}); is it cut short?") from None
    kind = next((k for k, field in _KINDS if isinstance(content, dict) and field in content), None)
    if kind is None:
        fields = " or ".join(repr(field) for _, field in _KINDS)
        raise ResultsError(f"{path}: is none of SEAL's result files; they have the field {fields}")
    results = Results(path.stem, kind, content)
    try:
        _CHECKS[kind](content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ResultsError(f"{path}: {what}") from None
    return results


def write_results(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes a result file, complete or not at all.

    Args:
      path: the file.
      content: the result of `inner_results`, or `Results.content`.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def inner_results(
    articles: Sequence[Mapping[str, Any]],
    *,
    exp_name: str,
    dataset: str,
    split_newlines: bool,
    lora_params: Mapping[str, Any],
    timestamp: str,
) -> dict[str, Any]:
    """Builds a result file of kind "inner", with every statistic computed from the verdicts.

    Args:
      articles: `title`, `context`, `prompt` and `completions`, each of them with its `text` and its log
        `questions` (`rep`, `question`, `answer`, `baseline_answer`, `adapter_answer`, `baseline_correct`,
        `adapter_correct`). An edit whose log is empty must bring its `stats`.
      exp_name: the experiment's name.
      dataset: the file of passages and edits.
      split_newlines: whether edits were trained on line by line.
      lora_params: `rank`, `alpha`, `dropout`, `epochs`, `lr`, `batch_size`, `grad_accum_steps`.
      timestamp: when, as SEAL writes it (month, day, underscore, time).

    Returns:
      The file's content, for `write_results`; `read_results` reads it back.
    """
    built = []
    for article in articles:
        completions = []
        for completion in article["completions"]:
            log = list(completion["questions"])
            stats = completion_stats(log) if log else dict(completion["stats"])
            completions.append({"text": completion["text"], "stats": stats, "questions": log})
        stats = article_stats([completion["stats"] for completion in completions])
        described = {"title": article["title"], "context": article["context"]}
        built.append({"stats": stats, **described, "completions": completions, "prompt": article["prompt"]})
    logs = [completion["questions"] for article in built for completion in article["completions"]]
    return {
        "overall": overall_stats([article["stats"] for article in built]),
        "timestamp": timestamp,
        "exp_name": exp_name,
        "dataset": dataset,
        "split_newlines": split_newlines,
        "n_articles": len(built),
        "k_completions": max((len(article["completions"]) for article in built), default=0),
        "eval_times": max((len({question["rep"] for question in log}) for log in logs), default=0),
        "lora_params": dict(lora_params),
        "articles": built,
    }


def verdicts(results: Results) -> tuple[list[bool], list[bool]]:
    """Returns the (baseline, adapter) verdicts of a "cpt" or "cpt-full" file, one per question.

    The first kind also has verdicts by title, which are not used: passages of one title overwrite each other there, so
    most are lost.
    """
    source = results.content["server_reply" if results.kind == "cpt" else "per_question"]
    return [bool(v) for v in source["baseline_correct"]], [bool(v) for v in source["adapter_correct"]]


def recompute(results: Results, digits: int | None = DIGITS) -> dict[str, Any]:
    """Recomputes a file's summary: from the verdicts, or where a log is empty from the saved statistics of edits.

    Args:
      results: the file.
      digits: as for `completion_stats`.

    Returns:
      The `overall` of an "inner" or "cpt" file, the `metrics` of a "cpt-full" file; of a "continual" file,
      which has no verdicts, the mean accuracy before any edit, on the passage just learnt, and at the end, the mean
      drop of a passage between the last two (forgetting), and its negative over all passages but the last (backward
      transfer; NaN for a single passage).
    """
    if results.kind == "inner":
        articles = [article_stats(edit_stats(article, digits), digits) for article in results.content["articles"]]
        return overall_stats(articles, digits)
    if results.kind == "continual":
        rows = results.content["mean_over_sequences"]
        learnt = [row[k] for k, row in enumerate(rows[1:])]
        drops = [just - end for just, end in zip(learnt, rows[-1], strict=True)]
        return {
            "before": statistics.fmean(rows[0]),
            "just_learnt": statistics.fmean(learnt),
            "at_the_end": statistics.fmean(rows[-1]),
            "forgetting": statistics.fmean(drops),
            "backward_transfer": -statistics.fmean(drops[:-1]) if len(drops) > 1 else math.nan,
        }
    baseline, adapter = (statistics.fmean(side) for side in verdicts(results))
    gain = "gain" if results.kind == "cpt" else "adapter_gain"
    return {
        "baseline_accuracy": rounded(baseline, digits),
        "adapter_accuracy": rounded(adapter, digits),
        gain: rounded(adapter - baseline, digits),
    }


def edit_stats(article: Mapping[str, Any], digits: int | None = DIGITS) -> list[Mapping[str, float | None]]:
    """Returns the statistics of a passage's edits: from their logs, or as saved where a log is empty."""
    return [completion_stats(c["questions"], digits) if c["questions"] else c["stats"] for c in article["completions"]]


# How far rounding can move a saved statistic from its exact value, in half units of the last of `DIGITS` decimals.
# Rounding a value moves it by up to 1. A mean moves by at most as much as its values, a difference by twice and a
# standard deviation by sqrt(2) times as much. SEAL's files round at every stage, at some or at none. One changed
# verdict moves its edit's statistics by far more than any of these.
_ROOT = math.sqrt(2)
_SLACK = {
    "baseline_mean": 2,
    "baseline_std": _ROOT + 1,
    "adapter_mean": 2,
    "adapter_std": _ROOT + 1,
    "gain_mean": 3,
    "baseline_accuracy": 3,
    "adapter_mean_accuracy": 4,
    "adapter_std_over_completions": 2 * _ROOT + 1,
    "mean_adapter_std_within_completions": _ROOT + 3,
    "mean_gain": 5,
    "baseline_mean_accuracy": 4,
    "baseline_std_of_article_means": 3 * _ROOT + 1,
    "adapter_std_of_article_means": 3 * _ROOT + 1,
    "mean_adapter_std_over_completions": 2 * _ROOT + 2,
    "adapter_accuracy": 1,
    "gain": 3,
    "adapter_gain": 3,
}
_HALF_UNIT = 0.5 * 10**-DIGITS


def disagreements(results: Results) -> list[str]:
    """Compares every saved statistic with its value recomputed from the verdicts, within rounding.

    Saved statistics may be rounded (each run's accuracy before it is averaged, and each average) or not. A
    difference that no such rounding explains is a disagreement. Where a log is empty, the statistics of passages
    are recomputed from the saved ones of edits. A saved null is not a disagreement.

    Returns:
      One line for each statistic that differs; none where all agree.
    """
    found: list[str] = []

    def compare(where: str, saved: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
        for name, value in computed.items():
            kept = saved.get(name)
            if kept is not None and (value is None or not abs(kept - value) <= _SLACK[name] * _HALF_UNIT + 1e-9):
                exact = value if value is None else f"{value:.6g}"
                found.append(f"{where}: {name} is saved as {kept}, and recomputed as {exact}")

    if results.kind == "inner":
        for i, article in enumerate(results.content["articles"]):
            edits = edit_stats(article, digits=None)
            for j, (completion, edit) in enumerate(zip(article["completions"], edits, strict=True)):
                compare(f"passage {i}, edit {j}", completion["stats"], edit)
            compare(f"passage {i}", article["stats"], article_stats(edits, digits=None))
        compare("overall", results.content["overall"], recompute(results, digits=None))
    elif results.kind != "continual":
        saved = results.content["overall" if results.kind == "cpt" else "metrics"]
        compare("overall", saved, recompute(results, digits=None))
    return found


def pool_continual(files: Sequence[Results]) -> dict[str, list[list[float]]]:
    """Pools runs of the continual experiment.

    The standard deviation is over all sequences: between the runs' means as well as within runs. (SEAL's own
    summary averages the runs' deviations, which leaves the first part out.)

    Args:
      files: "continual" results of one shape; each row is the state after so many edits, each column a passage.

    Returns:
      `mean` and `std`, rows by columns. Cells of passages that are not learnt yet are 0, as in the files.

    Raises:
      ValueError: the shapes differ, or there is no file.
    """
    shapes = {tuple(len(row) for row in file.content["mean_over_sequences"]) for file in files}
    if len(shapes) != 1:
        raise InvalidValueError(f"continual results can be pooled if they have one shape; these have {len(shapes)}")
    counts = [file.content["n_sequences"] for file in files]
    total = sum(counts)
    cells = [[(r, c) for c in range(n)] for r, n in enumerate(next(iter(shapes)))]

    def mean(r: int, c: int) -> float:
        return sum(n * f.content["mean_over_sequences"][r][c] for n, f in zip(counts, files, strict=True)) / total

    def std(r: int, c: int) -> float:
        centre = mean(r, c)
        squares = sum(
            (n - 1) * f.content["std_over_sequences"][r][c] ** 2
            + n * (f.content["mean_over_sequences"][r][c] - centre) ** 2
            for n, f in zip(counts, files, strict=True)
        )
        return (squares / (total - 1)) ** 0.5 if total > 1 else 0.0

    return {
        "mean": [[mean(r, c) for r, c in row] for row in cells],
        "std": [[std(r, c) for r, c in row] for row in cells],
    }


def _check_inner(content: Mapping[str, Any]) -> None:
    if not content["articles"]:
        raise InvalidValueError("'articles' is empty; there is nothing to analyze")
    for i, article in enumerate(content["articles"]):
        _require(article, f"article {i}", "title", "context", "completions", "stats")
        for j, completion in enumerate(article["completions"]):
            where = f"article {i}, completion {j}"
            _require(completion, where, "text", "stats", "questions")
            if not completion["questions"]:
                _require(completion["stats"], f"{where}, stats (its question log is empty)", *COMPLETION_STATS)
            for k, question in enumerate(completion["questions"]):
                _require(question, f"{where}, question {k}", "rep", "baseline_correct", "adapter_correct")
    _require(content, "the file", "overall")


def _check_cpt(content: Mapping[str, Any]) -> None:
    source = "server_reply" if "server_reply" in content else "per_question"
    _require(content, "the file", "overall" if source == "server_reply" else "metrics")
    _require(content[source], source, "baseline_correct", "adapter_correct")
    for title, kept in content.get("per_article", {}).items():
        _require(kept, f"per_article, {title!r}", "adapter_correct")
    sizes = [len(content[source][name]) for name in ("baseline_correct", "adapter_correct")]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise InvalidValueError(
            f"{source} has {sizes[0]} baseline verdicts and {sizes[1]} adapter verdicts; give one per question"
        )


def _check_continual(content: Mapping[str, Any]) -> None:
    _require(content, "the file", "std_over_sequences", "n_sequences")
    rows = content["mean_over_sequences"]
    if len(rows) < 2 or any(len(row) != len(rows) - 1 for row in rows):
        raise InvalidValueError(
            "'mean_over_sequences' must have one row more than columns: before any edit, then after each"
        )
    if [len(row) for row in content["std_over_sequences"]] != [len(row) for row in rows]:
        raise InvalidValueError("'std_over_sequences' must have the shape of 'mean_over_sequences'")


def _require(record: Any, where: str, *fields: str) -> None:
    for field in fields:
        if not isinstance(record, Mapping) or field not in record:
            raise InvalidValueError(f"{where}: the field {field!r} is missing")


_CHECKS = {"inner": _check_inner, "cpt": _check_cpt, "cpt-full": _check_cpt, "continual": _check_continual}
