"""How noisy the rewards of a result file are: variance between the edits of a passage and between an edit's runs."""

from __future__ import annotations

import dataclasses

import numpy as np

from selfadapt.seal.results import Results, edit_stats
from selfadapt.telemetry.statistics import bootstrap_interval

Interval = tuple[float, float, float]  # a value, and its 95% interval by bootstrap over passages


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of rewards, on the questions that they were measured with.

    Attributes:
      passages: the passages.
      edits: edits of each.
      runs: inner runs of each edit.
      between_edits: variance of true rewards between the edits of a passage, by analysis of variance: unbiased, and so
        possibly negative.
      between_runs: variance between the runs of an edit.
      reliability: share of true differences in the variance of an edit's mean reward within a passage.
      mean: mean reward of all edits.
      best: mean reward of the best edit of each passage; of equal ones, the first.
      expected: the mean that new runs of these best edits would give: each is regressed to its passage's mean by the
        reliability (Kelley 1927).
      hurt: best edits that were measured below the baseline.
      level: best edits that were measured at the baseline.
      expected_hurt: best edits whose regressed reward is below the baseline.
    """

    passages: int
    edits: int
    runs: int
    between_edits: Interval
    between_runs: Interval
    reliability: Interval
    mean: float
    best: float
    expected: float
    hurt: int
    level: int
    expected_hurt: int


def noise(results: Results) -> Noise | None:
    """Returns the noise of a file's rewards, from its logs or, where these are empty, from its saved statistics.

    Only passages that have all `k_completions` edits with known statistics count.

    Args:
      results: the file.

    Returns:
      `None` for a file of another kind, with a single edit per passage or run per edit, or with no such passage.
    """
    content = results.content
    edits, runs = content.get("k_completions", 1), content.get("eval_times", 1)
    if results.kind != "inner" or min(edits, runs) < 2:
        return None
    names = ("adapter_mean", "adapter_std", "baseline_mean", "gain_mean")
    stats = [edit_stats(article, digits=None) for article in content["articles"]]
    known = [
        [[each[name] for name in names] for each in own]
        for own in stats
        if len(own) == edits and all(each[name] is not None for each in own for name in names)
    ]
    if not known:
        return None
    means, deviations, baselines, gains = np.moveaxis(np.array(known, float), -1, 0)
    squares = np.stack([runs * means.var(1, ddof=1), np.square(deviations).mean(1)], 1)  # between edits, within them

    def estimates(average: np.ndarray) -> np.ndarray:
        between, within = average.T
        signal = (between - within) / runs
        total = np.where(between > 0, between, np.nan)
        return np.stack([signal, within, 1 - within / total], 1)

    point = estimates(squares.mean(0, keepdims=True))[0]
    low, high = bootstrap_interval(squares, estimates)
    intervals = [(float(at), float(a), float(b)) for at, a, b in zip(point, low, high, strict=True)]
    shrink = float(np.clip(np.nan_to_num(point[2]), 0, 1))
    best = means.argmax(1)
    rows = np.arange(len(best))
    regressed = means.mean(1) + shrink * (means[rows, best] - means.mean(1))
    return Noise(
        passages=len(means),
        edits=edits,
        runs=runs,
        between_edits=intervals[0],
        between_runs=intervals[1],
        reliability=intervals[2],
        mean=float(means.mean()),
        best=float(means[rows, best].mean()),
        expected=float(regressed.mean()),
        hurt=int((gains[rows, best] < -1e-9).sum()),
        level=int((np.abs(gains[rows, best]) <= 1e-9).sum()),
        expected_hurt=int((regressed < baselines.mean(1) - 1e-9).sum()),
    )
