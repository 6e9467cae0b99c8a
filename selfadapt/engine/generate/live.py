"""Batch compaction: the live rows of a batch, and when and how they move into an array of a smaller shape.

Texts of one batch end at different times, and a row that has ended costs as much as a live one. Compaction copies the
cache of the live rows and compiles the program for another shape. It therefore happens where the cache grows, which
does both anyway, and in long texts when half of the rows have ended.

All shards of a mesh have one shape. Where they divide the rows of the base model or of a single adapter, rows move from
full shards to others, as few as the smaller shape needs. Where they divide adapters, rows stay with theirs.
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
      rows: for each shard the old places of its rows, counted within the shard, `[shards, rows]`; after the places of
        a shard follow those of the rows sent to it, by the shards that they come from.
      sent: the places of the rows that each shard sends to each other one, `[from, to, count]`; `None` if none moves.
      adapters: likewise the adapters, `[shards, adapters]`; `None` where all adapters stay.
    """

    live: LiveRows
    rows: np.ndarray
    sent: np.ndarray | None
    adapters: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class LiveRows:
    """The rows on the device.

    Attributes:
      places: the row of the batch that each one is, counted over all adapters, `[K, R]`; `NOWHERE` for padding.
      shards: shards of the mesh; they divide the adapters, or the rows where the stack of adapters has one.
    """

    places: np.ndarray
    shards: int

    @classmethod
    def all(cls, adapters: int, rows: int, shards: int) -> LiveRows:
        """Returns the rows of a padded shape."""
        return cls(np.arange(adapters * rows).reshape(adapters, rows), shards)

    def here(self, done: np.ndarray) -> np.ndarray:
        """Returns which rows on the device have ended, `[K, R]`, given those of the batch, `[rows]`."""
        return np.where(self.places == NOWHERE, True, done[self.places])

    def preempted(self, done: np.ndarray, most: int) -> np.ndarray:
        """Returns the rows to preempt, `[rows]`, so that the others take at most `most` places on each shard.

        They are the last ones of each shard, and one always stays.

        Args:
          done: which rows of the batch have ended, `[rows]`.
          most: places of a shard in the smaller shape.
        """
        places = self.places.reshape(self.shards, -1)
        left = (places != NOWHERE) & ~self.here(done).reshape(places.shape)
        by_shard = [np.sort(own[live]) for own, live in zip(places, left, strict=True)]
        # The same number of each shard: the first ones of all, then the second ones.
        rank = np.concatenate([np.arange(len(own)) for own in by_shard])
        rows = np.concatenate(by_shard)[np.argsort(rank, kind="stable")]
        kept = len(rows)
        while True:
            out = np.zeros(len(done), bool)
            out[rows[kept:]] = True
            smaller = self.compacted(done | out, grows=True, count=0)
            places = (self if smaller is None else smaller.live).places
            if kept == 1 or places.size <= most * self.shards:
                return out
            kept = -(-kept // 2)

    def compacted(self, done: np.ndarray, *, grows: bool, count: int) -> Compaction | None:
        """Returns the compaction of the live rows, or `None` if they should stay where they are.

        Args:
          done: which rows of the batch have ended, `[rows]`; some have not.
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
        most = -(-left.sum() // self.shards) if adapters == 1 else left.sum(axis=2).max()  # live rows of an adapter
        slots, width = padded_size(max(map(len, kept))), padded_size(int(most))
        if self.shards * slots * width >= (old.size if grows else old.size // 2 + 1):
            return None
        if slots == old.shape[1]:
            kept = [np.arange(slots)] * self.shards  # adapters stay where they are
        held, sent = old.reshape(self.shards, -1), None
        if adapters == 1:
            rows_of, sent = _spread(left[:, 0], width)
        else:
            rows_of = [
                [k * old.shape[2] + np.flatnonzero(own[k]) for k in at] for own, at in zip(left, kept, strict=True)
            ]
        if sent is not None:
            received = np.stack([own[places] for own, places in zip(held, sent, strict=True)], axis=1)
            held = np.concatenate([held, received.reshape(self.shards, -1)], axis=1)
        chosen = np.zeros((self.shards, slots), np.int32)
        moved = np.zeros((self.shards, slots, width), np.int32)
        places = np.full(moved.shape, NOWHERE)
        for shard, indices in enumerate(kept):
            chosen[shard, : len(indices)] = indices
            for slot, own in enumerate(rows_of[shard]):
                moved[shard, slot, : len(own)] = own
                places[shard, slot, : len(own)] = held[shard, own]
        live = LiveRows(places.reshape(divided * slots, parts * width), self.shards)
        return Compaction(live, moved.reshape(self.shards, -1), sent, chosen if slots < old.shape[1] else None)


def _spread(left: np.ndarray, width: int) -> tuple[list[list[np.ndarray]], np.ndarray | None]:
    """Distributes the live rows of one adapter over shards.

    Args:
      left: which rows are live, `[shards, rows]`.
      width: the most rows of a shard afterwards; a shard with fewer keeps all its rows.

    Returns:
      `Compaction.rows` without padding, as a list of one array for each shard, and `Compaction.sent`.
    """
    shards, size = left.shape
    live = [np.flatnonzero(own) for own in left]
    leaving = [(source, row) for source, own in enumerate(live) for row in own[width:]]
    if not leaving:
        return [[own] for own in live], None
    # The first free place of every shard, then the second ones, so that rows of one shard go to different ones.
    free = sorted((place - len(own), shard) for shard, own in enumerate(live) for place in range(len(own), width))
    pairs: dict[tuple[int, int], list[int]] = {}
    for (source, row), (_, target) in zip(leaving, free, strict=False):
        pairs.setdefault((source, target), []).append(row)
    count = padded_size(max(map(len, pairs.values())))
    sent = np.zeros((shards, shards, count), np.int32)
    rows = [own[:width] for own in live]
    for (source, target), own in pairs.items():
        sent[source, target, : len(own)] = own
        rows[target] = np.append(rows[target], size + source * count + np.arange(len(own)))
    return [[own] for own in rows], sent
