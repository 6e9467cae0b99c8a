"""Batch compaction: the live rows of a chunk, and when and how they move into an array of a smaller shape.

Texts of one chunk end at different times, and a row that has ended costs as much as a live one. Compaction copies the
cache of the live rows and compiles the program for another shape. It therefore happens where the cache grows, which
does both anyway, and in long texts when half of the rows have ended. No row moves from shard to shard.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from selfadapt.engine.generate.batching import padded_size

NOWHERE = -1
LONG = 128  # tokens of a text, after which rows are compacted when half of them have ended


@dataclasses.dataclass(frozen=True)
class Compaction:
    """How live rows move into a smaller shape.

    Attributes:
      live: the rows afterwards.
      rows: for each shard the old places of its rows, counted within the shard, `[shards, rows]`.
      adapters: likewise the adapters, `[shards, adapters]`; `None` where all adapters stay.
    """

    live: LiveRows
    rows: np.ndarray
    adapters: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class LiveRows:
    """The rows on the device.

    Attributes:
      places: the row of the chunk that each one is, counted over all adapters, `[K, R]`; `NOWHERE` for padding.
      shards: shards of the mesh; they divide the adapters, or the rows where the stack of adapters has one.
    """

    places: np.ndarray
    shards: int

    @classmethod
    def all(cls, adapters: int, rows: int, shards: int) -> LiveRows:
        """Returns all rows of a chunk of a padded shape."""
        return cls(np.arange(adapters * rows).reshape(adapters, rows), shards)

    def whole(self, values: np.ndarray, rows: int, fill: float) -> np.ndarray:
        """Returns values of the rows on the device, `[steps, K, R]`, as those of all of a chunk, `[steps, rows]`."""
        found = np.full((len(values), rows), fill, values.dtype)
        here = self.places != NOWHERE
        found[:, self.places[here]] = values[:, here]
        return found

    def here(self, done: np.ndarray) -> np.ndarray:
        """Returns which rows on the device have ended, `[K, R]`, given those of the chunk, `[rows]`."""
        return np.where(self.places == NOWHERE, True, done[self.places])

    def preempted(self, done: np.ndarray, most: int, samples: int) -> np.ndarray:
        """Returns the rows to preempt, `[rows]`, so that the others take at most `most` places on each shard.

        All samples of a prompt are preempted together, and one prompt always stays.

        Args:
          done: which rows of the chunk have ended, `[rows]`.
          most: places of a shard in the smaller shape.
          samples: samples of each prompt, which follow each other.
        """
        prompts = np.flatnonzero(~done.reshape(-1, samples).all(axis=1))
        shards = prompts * self.shards * samples // len(done)
        # The same number of each shard: the first ones of all, then the second ones.
        rank = np.concatenate([np.arange((shards == shard).sum()) for shard in range(self.shards)])
        prompts = prompts[np.argsort(rank, kind="stable")]
        kept = len(prompts)
        while True:
            out = np.zeros((len(done) // samples, samples), bool)
            out[prompts[kept:]] = True
            smaller = self.compacted(done | out.ravel(), grows=True, count=0)
            places = (self if smaller is None else smaller.live).places
            if kept == 1 or places.size <= most * self.shards:
                return out.ravel()
            kept = -(-kept // 2)

    def compacted(self, done: np.ndarray, *, grows: bool, count: int) -> Compaction | None:
        """Returns the compaction of the live rows, or `None` if they should stay where they are.

        Args:
          done: which rows of the chunk have ended, `[rows]`; some have not.
          grows: whether the cache grows anyway; then any smaller shape will do.
          count: tokens of each text so far.
        """
        if not (grows or count > LONG):
            return None
        adapters, rows = self.places.shape
        divided = self.shards if adapters > 1 else 1  # parts of the adapters
        parts = self.shards // divided  # of the rows
        old = self.places.reshape(self.shards, adapters // divided, rows // parts)
        left = ~self.here(done).reshape(old.shape)
        kept = [np.flatnonzero(own.any(axis=1)) for own in left]  # adapters of each shard
        slots, width = padded_size(max(map(len, kept))), padded_size(int(left.sum(axis=2).max()))
        if self.shards * slots * width >= (old.size if grows else old.size // 2 + 1):
            return None
        if slots == old.shape[1]:
            kept = [np.arange(slots)] * self.shards  # adapters stay where they are
        chosen = np.zeros((self.shards, slots), np.int32)
        moved = np.zeros((self.shards, slots, width), np.int32)
        places = np.full(moved.shape, NOWHERE)
        for shard, indices in enumerate(kept):
            chosen[shard, : len(indices)] = indices
            for slot, k in enumerate(indices):
                columns = np.flatnonzero(left[shard, k])
                moved[shard, slot, : len(columns)] = k * old.shape[2] + columns
                places[shard, slot, : len(columns)] = old[shard, k, columns]
        live = LiveRows(places.reshape(divided * slots, parts * width), self.shards)
        return Compaction(live, moved.reshape(self.shards, -1), chosen if slots < old.shape[1] else None)
