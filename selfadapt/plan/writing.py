"""How `generate` writes texts of some lengths: what its programs do, without running them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from selfadapt.engine.generate import programs
from selfadapt.engine.generate.batch import Batch
from selfadapt.engine.generate.choose import sampling_mode
from selfadapt.engine.generate.live import NOWHERE
from selfadapt.plan.workload import Workload


@dataclasses.dataclass(frozen=True)
class Texts:
    """What `generate` writes: samples a prompt, tokens of a typical and of the longest text and allowed, the mode."""

    samples: int
    typical: int
    longest: int
    most: int
    mode: str

    @classmethod
    def edits(cls, config: Any, samples: int, work: Workload) -> Texts:
        """Returns the edits of a run, sampled as `config.sampling` describes."""
        sampled = config.sampling.temperature > 0
        mode = sampling_mode(top_k=False, top_p=config.sampling.top_p < 1) if sampled else "greedy"
        return cls(samples, work.edit, work.longest, config.sampling.max_new_tokens, mode)

    @classmethod
    def answers(cls, config: Any) -> Texts:
        """Returns answers as long as `config.answer` allows."""
        most = config.answer.max_new_tokens
        return cls(1, most, most, most, "greedy")

    def lengths(self, count: int) -> np.ndarray:
        """Returns the tokens of `count` texts, in random order.

        They are those of an exponential distribution with the typical length as its mean, cut at the longest, which one
        text has. Where the two are equal all texts are as long.
        """
        if self.typical == self.longest:
            return np.full(count, self.longest)
        quantiles = (np.arange(count) + 0.5) / count
        found = np.clip(np.rint(-self.typical * np.log1p(-quantiles)), 1, self.longest).astype(int)
        found = np.random.default_rng(0).permutation(found)
        found[0] = self.longest
        return found


@dataclasses.dataclass
class Stage:
    """The tokens that are written while the cache has one size.

    Attributes:
      slots: slots of the cache.
      shape: the most rows of the stage, `[K, R]`.
      steps: tokens of each text.
      tokens: tokens of all texts, without those of rows that have ended.
      padded: with those.
    """

    slots: int
    shape: tuple[int, int]
    steps: int = 0
    tokens: int = 0
    padded: int = 0


@dataclasses.dataclass
class Written:
    """How `generate` writes the texts of a chunk.

    Attributes:
      stages: the stages after the first tokens.
      fills: how often places are filled with waiting prompts.
      fill: prompts of one such time, with padding.
      slots: slots of the cache at the last one.
      left: tokens of the texts that were preempted.
    """

    stages: list[Stage]
    fills: int
    fill: int
    slots: int
    left: np.ndarray


def write(
    lengths: np.ndarray,
    width: int,
    most: int,
    shards: int,
    *,
    samples: int = 1,
    waiting: np.ndarray | None = None,
    rows: Callable[[Batch, int], int] | None = None,
) -> Written:
    """Goes through a chunk's texts as `generate` does.

    Args:
      lengths: tokens of each text, `[K, R]`, those of the chunk's shape.
      width: slots of the prompts.
      most: tokens that a text may have.
      shards: shards of the mesh.
      samples: samples of each prompt.
      waiting: tokens of the texts of the waiting prompts, `[texts]`.
      rows: as for `Batch`.
    """
    waiting = np.zeros(0, int) if waiting is None else waiting
    batch = Batch(lengths.shape, samples, len(waiting) // samples, width, most, shards, rows)
    ends = np.append(lengths.ravel(), waiting)
    counts, preempted = np.minimum(ends, np.arange(len(ends)) < lengths.size), np.zeros(len(ends), bool)
    stages: list[Stage] = []
    fills, fill, slots = 0, 0, batch.slots
    while True:
        while (filling := batch.filled(done := (counts >= ends) | preempted)) is not None:
            rows_of = batch.rows_of(filling.prompts)
            counts[rows_of[rows_of != NOWHERE]] = 1
            fills, fill, slots = fills + 1, max(fill, filling.prompts.size), batch.slots
        if batch.live.here(done).all():
            return Written(stages, fills, fill, slots, ends[preempted | (counts == 0)])
        preempted |= batch.room(done, counts).preempted
        done |= preempted
        if batch.live.here(done).all():
            continue
        if not stages or batch.slots != stages[-1].slots:
            stages.append(Stage(batch.slots, batch.live.places.shape))
        steps = batch.steps(done, counts, programs.DECODE_STEPS)
        here = batch.live.places[batch.live.places != NOWHERE]
        here = here[~done[here]]
        taken = np.minimum(ends[here] - counts[here], steps)
        steps = int(taken.max())
        counts[here] += taken
        stages[-1].steps += steps
        stages[-1].tokens += int(taken.sum())
        stages[-1].padded += steps * batch.live.places.size
        batch.advance(steps)
