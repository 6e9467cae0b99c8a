"""The arrays of training steps, taken by index from tables that are made once for all training steps.

All slots of a training step share a few numpy operations, without a Python loop over slots. An accelerator takes
milliseconds for a training step of many adapters, and the host has to be faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfadapt.engine.adapt.schedule import Encoded, MicroBatch, Shape


class RowTable:
    """Where the sequences of blocks of packed rows are, and their tokens.

    Args:
      blocks: for each block, for each of its rows, the sequences in it.

    Attributes:
      tokens: the tokens of each block, padding excluded, `[blocks]`.
    """

    def __init__(self, blocks: Sequence[Sequence[Sequence[Encoded]]]):
        sequences: dict[int, Encoded] = {}
        numbers: dict[int, int] = {}
        spans: list[tuple[int, int, int, int]] = []  # row, first token in the row, number in the row, sequence
        counts = []
        for block in blocks:
            before = len(spans)
            for row, own in enumerate(block):
                start = 0
                for number, sequence in enumerate(own, 1):
                    index = numbers.setdefault(id(sequence), len(numbers))
                    sequences[index] = sequence
                    spans.append((row, start, number, index))
                    start += len(sequence.ids)
            counts.append(len(spans) - before)
        every = list(sequences.values())
        self._counts = np.asarray(counts, np.int64)
        self._first = np.cumsum(self._counts) - self._counts
        self._row, self._start, self._number, self._sequence = np.asarray(spans, np.int64).reshape(-1, 4).T
        self._lengths = np.asarray([len(one.ids) for one in every], np.int64)
        self._begin = np.cumsum(self._lengths) - self._lengths
        empty = np.zeros(0, np.int32)
        self._ids = np.concatenate([empty, *(one.ids for one in every)])
        self._mask = np.concatenate([empty.astype(bool), *(one.mask for one in every)])
        seen = [np.ones(len(one.ids), bool) if one.attention is None else one.attention for one in every]
        self._visible = np.concatenate([empty.astype(bool), *seen])
        total = np.cumsum([0, *self._lengths[self._sequence]])
        self.tokens = total[self._first + self._counts] - total[self._first]

    def lengths(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the length of each sequence of some blocks, one block after the other, and how many each has."""
        count = self._counts[blocks]
        return self._lengths[self._sequence[_ranges(self._first[blocks], count)]], count

    def arrays(
        self, blocks: np.ndarray, slots: np.ndarray, weights: np.ndarray, shape: tuple[int, int, int], packed: bool
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of some blocks, each `[slots, rows, time]`; empty slots and rows hold padding.

        Args:
          blocks: the blocks' indices, `[blocks]`.
          slots: the slot of each, `[blocks]`.
          weights: the weight of each block's targets, `[blocks]`; other tokens have weight 0.
          shape: slots, rows and time.
          packed: whether to return segments, key segments and positions too.
        """
        count = self._counts[blocks]
        span = _ranges(self._first[blocks], count)
        sequence = self._sequence[span]
        length = self._lengths[sequence]
        _, rows, time = shape
        to = _ranges((np.repeat(slots, count) * rows + self._row[span]) * time + self._start[span], length)
        source = _ranges(self._begin[sequence], length)

        def spread(dtype, values):
            full = np.zeros(shape, dtype)
            full.reshape(-1)[to] = values
            return full

        share = np.repeat(np.repeat(weights, count), length)
        result = {
            "tokens": spread(np.int32, self._ids[source]),
            "weights": spread(np.float32, self._mask[source] * share),
        }
        if packed:
            number = np.repeat(self._number[span], length)
            result["segments"] = spread(np.int32, number)
            result["key_segments"] = spread(np.int32, number * self._visible[source])
            result["positions"] = spread(np.int32, _ranges(np.zeros_like(length), length))
        return result


class Table:
    """What training steps need of the micro-batches of some adapters.

    Args:
      micro_batches: the micro-batches of each adapter. They are numbered one adapter after the other.

    Attributes:
      first: the number of each adapter's first micro-batch, and of all, `[adapters + 1]`.
      place: the place of each micro-batch's adapter, `[micro-batches]`.
      step: its optimizer step among those of its adapter, `[micro-batches]`.
      last: whether that step is taken after it, `[micro-batches]`.
      tokens: its tokens, anchors included and padding excluded, `[micro-batches]`.
    """

    def __init__(self, micro_batches: Sequence[Sequence[MicroBatch]]):
        every = [each for own in micro_batches for each in own]
        counts = [len(own) for own in micro_batches]
        self.first = np.cumsum([0, *counts])
        self.place = np.repeat(np.arange(len(counts)), counts)
        self.step = np.asarray([each.step for each in every], np.int64)
        self.last = np.asarray([each.last for each in every], bool)
        known: dict[int, int] = {}  # the epochs of an update share rows
        blocks: list[list[list[Encoded]]] = []
        for each in every:
            if known.setdefault(id(each.rows), len(blocks)) == len(blocks):
                blocks.append(each.rows)
        self._block = np.asarray([known[id(each.rows)] for each in every], np.int64)
        self._rows = RowTable(blocks)
        self._anchors = RowTable([[[anchor] for anchor in each.anchors] for each in every])
        self._share = (1 / np.asarray([each.targets for each in every], np.float64)).astype(np.float32)
        targets = [sum(int(anchor.mask.sum()) for anchor in each.anchors) or 1 for each in every]
        self._anchor_share = (1 / np.asarray(targets, np.float64)).astype(np.float32)
        self.tokens = self._rows.tokens[self._block] + self._anchors.tokens

    def lengths(self, numbers: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
        """Returns, for each adapter, the lengths of the sequences in some micro-batches, and those of their anchors."""
        numbers = np.sort(numbers)

        def by_adapter(lengths: np.ndarray, counts: np.ndarray) -> list[list[int]]:
            owned = np.bincount(np.repeat(self.place[numbers], counts), minlength=len(self.first) - 1)
            return [own.tolist() for own in np.split(lengths, np.cumsum(owned)[:-1])]

        return by_adapter(*self._rows.lengths(self._block[numbers])), by_adapter(*self._anchors.lengths(numbers))

    def token_arrays(
        self, shape: Shape, numbers: np.ndarray, at: np.ndarray, slots: int, rows: int
    ) -> dict[str, np.ndarray]:
        """Returns the token arrays of a training step, each `[slots, rows, time]`; empty slots and rows hold padding.

        `weights` are 1 / (target tokens of the optimizer step) on targets and 0 elsewhere, so that the loss of an
        optimizer step is the sum over its micro-batches.

        Args:
          shape: the shape of all micro-batches.
          numbers: the micro-batches.
          at: the slot of each.
          slots: slots of all shards.
          rows: rows per slot, at least those of the shape.
        """
        full = slots, rows, shape.time
        return self._rows.arrays(self._block[numbers], at, self._share[numbers], full, shape.packed)

    def anchor_arrays(
        self, shape: Shape, numbers: np.ndarray, at: np.ndarray, slots: int, rows: int, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a training step's anchors, each `[slots, rows, time]`; none if its shape has none.

        `anchor_weights` are the update's weight / (target tokens of the optimizer step's anchors) on targets and 0
        elsewhere. The arguments are those of `token_arrays`, with rows of anchors and the weight of each micro-batch.
        """
        if not shape.anchor_rows:
            return {}
        found = self._anchors.arrays(
            numbers, at, weights * self._anchor_share[numbers], (slots, rows, shape.anchor_time), False
        )
        return {"anchors": found["tokens"], "anchor_weights": found["weights"]}


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the numbers from each start, as many as its length, one range after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
