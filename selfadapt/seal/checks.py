"""What SEAL's files show of its method: which edits are learned from, what a split leaks, what a file loses."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from selfadapt.data.records import DataError
from selfadapt.domains.knowledge.sequences import training_sequences
from selfadapt.seal.results import Results, ResultsError, edit_stats
from selfadapt.types import Task


@dataclasses.dataclass(frozen=True)
class Round:
    """The edits of a round of training, ranked by accuracy, of which the best of each passage is learned from.

    The code of SEAL takes the best edit by its absolute accuracy, the first one of several, whether or not it improves
    on the model without it; its paper (equation 2) has a reward for edits that improve.

    Attributes:
      baseline: mean accuracy without an edit.
      mean: mean accuracy over all edits.
      best: mean over passages of the accuracy of the best edit.
      edits: the number of edits with known accuracy.
      improve: how many of them have a higher accuracy than the model without an edit.
      winners: for each passage (its edits' prompt, the text of the best edit).
      ties: passages with several best edits.
      hurt: passages whose best edit lowers the accuracy.
      unchanged: passages whose best edit leaves it as it is.
      between: mean over passages of the standard deviation between edits.
      within: mean over edits of the standard deviation between trainings on one edit; `None` where it is not saved.
    """

    baseline: float
    mean: float
    best: float
    edits: int
    improve: int
    winners: tuple[tuple[str, str], ...]
    ties: int
    hurt: int
    unchanged: int
    between: float
    within: float | None


def training_round(results: Results) -> Round:
    """Selects from the edits of an "inner" file as SEAL's code does, and counts what is selected.

    Passages whose edits have no known accuracy are left out.

    Raises:
      ResultsError: no edit of the file has a known accuracy.
    """
    scored: list[tuple[Mapping[str, Any], list[tuple[Mapping[str, Any], str]]]] = []
    for article in results.content["articles"]:
        texts = (completion["text"] for completion in article["completions"])
        edits = [
            (stats, text)
            for stats, text in zip(edit_stats(article), texts, strict=True)
            if stats["adapter_mean"] is not None
        ]
        if edits:
            scored.append((article, edits))
    if not scored:
        raise ResultsError(f"{results.name}: no edit has a known accuracy, so none can be the best of its passage")
    every = [stats for _, edits in scored for stats, _ in edits]
    best = [max(edits, key=lambda edit: edit[0]["adapter_mean"]) for _, edits in scored]  # the first of equal ones
    gains = [stats["gain_mean"] for stats, _ in best]
    accuracies = [[stats["adapter_mean"] for stats, _ in edits] for _, edits in scored]
    within = [stats["adapter_std"] for stats in every if stats["adapter_std"] is not None]
    return Round(
        baseline=statistics.fmean(stats["baseline_mean"] for stats in every),
        mean=statistics.fmean(stats["adapter_mean"] for stats in every),
        best=statistics.fmean(stats["adapter_mean"] for stats, _ in best),
        edits=len(every),
        improve=sum(stats["gain_mean"] > 0 for stats in every),
        winners=tuple((article.get("prompt", ""), text) for (article, _), (_, text) in zip(scored, best, strict=True)),
        ties=sum(each.count(max(each)) > 1 for each in accuracies),
        hurt=sum(gain < 0 for gain in gains),
        unchanged=sum(gain == 0 for gain in gains),
        between=statistics.fmean(statistics.stdev(each) if len(each) > 1 else 0.0 for each in accuracies),
        within=statistics.fmean(within) if within else None,
    )


def leaked(prompts: Sequence[str], passages: Collection[str]) -> int:
    """Counts the prompts of finetuning data that contain one of the passages."""
    return sum(any(passage in prompt for passage in passages) for prompt in prompts)


def kept_by_title(results: Results) -> tuple[int, float]:
    """Returns how many verdicts a "cpt" file keeps under its titles, and the adapted model's accuracy on these.

    The file has one list of verdicts per title, and each passage overwrites that of the passage of its title before it.
    """
    kept = [verdict for title in results.content["per_article"].values() for verdict in title["adapter_correct"]]
    return len(kept), statistics.fmean(kept)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long edits and their training sequences are.

    Attributes:
      words: mean words of each passage's edits.
      sequences: training sequences of each passage's first edit, by lines, the passage included.
      characters: mean length of these sequences.
    """

    words: tuple[float, ...]
    sequences: tuple[int, ...]
    characters: float


def lengths(tasks: Sequence[Task]) -> Lengths:
    """Measures the edits of passages, which are their tasks' `completions`.

    Raises:
      DataError: a passage has none.
    """
    for task in tasks:
        if not (task.data or {}).get("completions"):
            raise DataError(f"the passage {task.title!r} has no 'completions'; a file of edits has one or more of each")
    first = [training_sequences(t.data["completions"][0], title=t.title, context=t.context) for t in tasks]
    return Lengths(
        words=tuple(statistics.fmean(len(text.split()) for text in task.data["completions"]) for task in tasks),
        sequences=tuple(len(each) for each in first),
        characters=statistics.fmean(len(sequence) for each in first for sequence in each),
    )
