"""A batch of texts on the host: what changes between two runs of `programs.extend`.

Rows that have ended are filled with further prompts (continuous batching) or, when none are left, dropped by compaction
(`live.py`). `generate` and `selfadapt plan` go through the same decisions.

All rows write their next token to the same cache slot. The slots after the prompts are used in a cycle, so that a text
that began later than another needs no further slots: only the longest text has to fit.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from selfadapt.engine.generate import programs
from selfadapt.engine.generate.live import NOWHERE, Compaction, LiveRows

FILL_SHARE = 16  # places are filled when one in this many is free, that many of a shard's at a time


@dataclasses.dataclass(frozen=True)
class Filling:
    """Prompts that take the places of rows that have ended.

    Attributes:
      prompts: the prompts that each shard takes, `[shards, prompts]`; `NOWHERE` for padding.
      places: the places of their samples, counted within the shard, `[shards, prompts * samples]`; padding has one that
        the shard does not have.
    """

    prompts: np.ndarray
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Room:
    """How the next tokens get their slots.

    Attributes:
      preempted: rows to preempt, `[rows]`.
      compaction: how live rows move into a smaller shape, if they do.
      grows: whether the cache grows to the slots that the batch has now.
    """

    preempted: np.ndarray
    compaction: Compaction | None
    grows: bool


class Batch:
    """The rows of a batch and the slots of its cache.

    A prompt's samples are rows that follow each other; after the rows of the shape come those of the waiting prompts.

    Args:
      shape: adapters and rows of each.
      samples: samples of each prompt.
      waiting: prompts that wait for places, all of one adapter.
      width: slots of the prompts.
      max_new_tokens: the most tokens of a text.
      shards: shards of the mesh.
      most: returns the most rows of a shard that memory allows in a cache of this many slots, beside the present batch;
        `None` if memory is reserved for all.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        samples: int,
        waiting: int,
        width: int,
        max_new_tokens: int,
        shards: int,
        most: Callable[[Batch, int], int] | None = None,
    ):
        self.live, self.samples, self.width = LiveRows.all(*shape, shards), samples, width
        self._max_new_tokens, self._most = max_new_tokens, most
        first = shape[0] * shape[1] // samples
        self.waiting = collections.deque(range(first, first + waiting))
        self.rows = (first + waiting) * samples
        self._cycle = np.arange(width, programs.cache_slots(width, 1, max_new_tokens))
        self._next = 0

    @property
    def slots(self) -> int:
        """The slots of the cache."""
        return self.width + len(self._cycle)

    @property
    def slot(self) -> int:
        """The slot of the next token."""
        return int(self._cycle[self._next])

    def filled(self, done: np.ndarray) -> Filling | None:
        """Gives free places to waiting prompts, as evenly over the shards as they are free.

        Args:
          done: which rows have ended, `[rows]`.

        Returns:
          The prompts and places; `None` if no prompt waits or too few places are free.
        """
        free = self.live.here(done).reshape(self.live.shards, -1)
        if not self.waiting or (FILL_SHARE * free.sum() < free.size and not free.all()):
            return None
        shards, size = free.shape
        count = max(1, size // self.samples // FILL_SHARE)
        prompts = np.full((shards, count), NOWHERE)
        places = np.full((shards, count, self.samples), size)
        left = [list(np.flatnonzero(own)) for own in free]
        on_device = self.live.places.reshape(shards, -1).copy()
        for number in range(count):
            for shard in range(shards):
                if self.waiting and len(left[shard]) >= self.samples:
                    prompt = prompts[shard, number] = self.waiting.popleft()
                    taken, left[shard] = left[shard][: self.samples], left[shard][self.samples :]
                    places[shard, number] = taken
                    on_device[shard, taken] = self.rows_of([prompt])
        if (prompts == NOWHERE).all():
            return None
        self.live = dataclasses.replace(self.live, places=on_device.reshape(self.live.places.shape))
        return Filling(prompts, places.reshape(shards, -1))

    def rows_of(self, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the rows of prompts, one prompt after the other; those of padding are `NOWHERE`."""
        prompts = np.asarray(prompts).reshape(-1, 1)
        return np.where(prompts == NOWHERE, NOWHERE, prompts * self.samples + np.arange(self.samples)).ravel()

    def room(self, done: np.ndarray, counts: np.ndarray) -> Room:
        """Makes room for the next tokens: the cache grows where the longest text has filled it.

        Where a larger cache would not fit, rows are preempted: while prompts wait those that have filled the cache,
        since most texts are shorter; where most rows have filled it, or none waits, those that came last.

        Args:
          done: which rows have ended, `[rows]`; some on the device have not.
          counts: tokens of each row, `[rows]`.
        """
        left = self._left(done)
        longest = int(counts[left].max())
        preempted, grows, compaction = np.zeros(len(done), bool), longest >= len(self._cycle), None
        if grows:
            slots, fits = programs.cache_slots(self.width, longest + 1, self._max_new_tokens), True
            if self._most is not None:
                most = self._most(self, slots)
                fits = self.live.places.size <= most * self.live.shards
                preempted = self.live.preempted(done, most)
                full = left[counts[left] >= len(self._cycle)]
                if self.waiting and preempted.any() and 2 * len(full) < len(left):
                    preempted = np.zeros(len(done), bool)
                    preempted[full] = True
                    return Room(preempted, None, False)
            if not (self.waiting and fits):
                compaction = self.live.compacted(done | preempted, grows=True, count=longest)
            self._cycle = np.append(np.arange(self.slots, slots), np.roll(self._cycle, -self._next))
            self._next = 0
        elif not self.waiting:
            compaction = self.live.compacted(done, grows=False, count=longest)
        if compaction is not None:
            self.live = compaction.live
        return Room(preempted, compaction, grows)

    def steps(self, done: np.ndarray, counts: np.ndarray, most: int) -> int:
        """Returns how many tokens to write at once, at most `most`; arguments as for `room`, which comes before."""
        left = counts[self._left(done)]
        following = np.flatnonzero(np.diff(self._cycle[self._next :]) != 1)
        run = following[0] + 1 if len(following) else len(self._cycle) - self._next
        room = len(self._cycle) - (left.max() - 1)  # the last token is not in the cache yet
        return int(min(most, run, room, self._max_new_tokens - left.min()))

    def advance(self, steps: int) -> None:
        """Counts the slots of tokens that were written."""
        self._next = (self._next + steps) % len(self._cycle)

    def _left(self, done: np.ndarray) -> np.ndarray:
        """Returns the rows on the device that have not ended."""
        places = self.live.places.ravel()
        places = places[places != NOWHERE]
        return places[~done[places]]
