"""What SEAL's files show of its method: which edits are learned from, what a split leaks, what a file loses."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Sequence

from selfadapt.data.records import DataError
from selfadapt.domains.knowledge.sequences import training_sequences
from selfadapt.seal.results import Results, edit_stats
from selfadapt.types import Task


@dataclasses.dataclass(frozen=True)
class Selected:
    """The edits of a round of training that SEAL's code learns from: the best one of each passage.

    It takes the best by absolute accuracy, the first one of several, whether or not it improves on the model without an
    edit; the paper (equation 2) has a reward for edits that improve.

    Attributes:
      winners: for each passage (its edits' prompt, the text of the best edit).
      ties: passages with several best edits.
      edits: edits with known accuracy.
      improve: how many of them have a higher accuracy than the model without an edit.
    """

    winners: tuple[tuple[str, str], ...]
    ties: int
    edits: int
    improve: int


def selected(results: Results) -> Selected:
    """Selects from the edits of an "inner" file as SEAL's code does.

    Passages whose edits have no known accuracy are left out.
    """
    winners: list[tuple[str, str]] = []
    ties, gains = 0, []
    for article in results.content["articles"]:
        texts = (completion["text"] for completion in article["completions"])
        known = [
            (stats["adapter_mean"], stats["gain_mean"], text)
            for stats, text in zip(edit_stats(article), texts, strict=True)
            if stats["adapter_mean"] is not None and stats["gain_mean"] is not None
        ]
        if known:
            best = max(accuracy for accuracy, _, _ in known)
            of_best = [text for accuracy, _, text in known if accuracy == best]
            winners.append((article.get("prompt", ""), of_best[0]))
            ties += len(of_best) > 1
        gains += [gain for _, gain, _ in known]
    return Selected(tuple(winners), ties, len(gains), sum(gain > 0 for gain in gains))


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
