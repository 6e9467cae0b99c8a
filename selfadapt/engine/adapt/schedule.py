"""Cuts updates into micro-batches, and groups micro-batches of equal shape into training steps. Host code only.

An update is a sequence of *micro-batches*: blocks of packed rows that add up to its optimizer steps. A *training
step* runs one micro-batch of each of several adapters whose next micro-batches have the same shape. Adapters do not
wait for each other: one whose next sequence is short joins a training step of short rows, so a batch size of one with
lengths from 6 to 60 tokens is not padded to 60. The shape of a micro-batch depends on its own update alone, never on
the other adapters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from selfadapt.data import in_turn
from selfadapt.errors import InvalidTypeError
from selfadapt.types import TokenSequence, Update

SHORTEST_ROW = 16
MAX_MICRO_BATCH_TOKENS = 8192  # an optimizer step with more tokens is cut into several micro-batches


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One tokenized training sequence.

    Attributes:
      ids: `[time]`, token ids.
      mask: `[time]`, whether each token is a target; never the first.
      attention: `[time]`, whether each token can be attended to; `None` if all can.
    """

    ids: np.ndarray
    mask: np.ndarray
    attention: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a micro-batch, which determines the program that runs it.

    Attributes:
      time: tokens per row, padding included.
      rows: rows per micro-batch.
      packed: whether rows hold several sequences, or hide some tokens, and so need segments.
      whole: whether the micro-batch is a whole optimizer step; parts of a step accumulate their gradient.
      anchor_time: tokens per row of anchors.
      anchor_rows: rows of anchors; 0 for none.
    """

    time: int
    rows: int
    packed: bool
    whole: bool
    anchor_time: int = 0
    anchor_rows: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding and anchors included."""
        return self.rows * self.time + self.anchor_rows * self.anchor_time


@dataclasses.dataclass
class MicroBatch:
    """A block of rows of one adapter.

    Attributes:
      adapter: the index of the adapter that it trains.
      step: the index of the optimizer step that it belongs to.
      shape: its shape.
      rows: for each row, the sequences in it.
      last: whether the optimizer step is taken after it.
      targets: the number of target tokens of the whole optimizer step.
      anchors: the anchors of the optimizer step, if it is taken after it: one in each row of anchors.
    """

    adapter: int
    step: int
    shape: Shape
    rows: list[list[Encoded]]
    last: bool
    targets: int
    anchors: list[Encoded] = dataclasses.field(default_factory=list)


def encode(update: Update, tokenizer: Callable[[str, bool], list[int]], field: str = "sequences") -> list[Encoded]:
    """Tokenizes an update's sequences, or its anchors; those with no target token are left out.

    Args:
      update: the update.
      tokenizer: maps a text, and whether it starts a sequence, to token ids. A pair's prompt starts the
        sequence and its target does not, so that a target's ids do not depend on its prompt.
      field: "sequences" or "anchors".

    Raises:
      TypeError: a sequence is none of the three forms that `Update` takes.
    """
    encoded = []
    for number, sequence in enumerate(getattr(update, field)):
        ids: Any
        mask: Any
        attention = None
        if isinstance(sequence, str):
            ids = tokenizer(sequence, True)
            mask = [update.loss == "all"] * len(ids)
        elif isinstance(sequence, TokenSequence):
            ids, mask, attention = sequence.ids, sequence.mask, sequence.attention
        elif isinstance(sequence, tuple | list) and len(sequence) == 2:
            first, second = sequence
            if isinstance(first, str) and isinstance(second, str):
                prompt, target = tokenizer(first, True), tokenizer(second, False)
                ids = [*prompt, *target]
                mask = [update.loss == "all"] * len(prompt) + [True] * len(target)
            else:
                ids, mask = first, second
        else:
            raise InvalidTypeError(
                f"Update.{field}[{number}] is {type(sequence).__name__}; give a string, a (prompt, target) pair, "
                "or token ids with a mask"
            )
        ids = np.asarray(ids, np.int32)
        mask = np.ones(len(ids), bool) if mask is None else np.array(mask, bool)
        if ids.ndim != 1 or mask.shape != ids.shape:
            raise InvalidTypeError(
                f"Update.{field}[{number}] has ids of shape {ids.shape} and a mask of shape {mask.shape}; "
                "both must be flat and of one length"
            )
        mask[:1] = False
        if mask.any():
            encoded.append(Encoded(ids, mask, None if attention is None else np.asarray(attention, bool)))
    return encoded


def optimizer_steps(update: Update, count: int) -> list[list[int]]:
    """Returns for each optimizer step the indices of its sequences, over all epochs.

    The order of each epoch depends on the update's seed and the epoch alone. As in Hugging Face's
    Trainer the last batch of an epoch may be smaller.

    Args:
      update: the update.
      count: how many sequences it has.
    """
    steps = []
    size = update.batch_size * update.gradient_accumulation
    for epoch in range(update.epochs if count else 0):
        order = np.arange(count)
        if update.shuffle:
            digest = hashlib.sha256(f"order {update.seed} {epoch}".encode()).digest()
            np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little"))).shuffle(order)
        steps += [order[start : start + size].tolist() for start in range(0, count, size)]
    return steps


def draw_anchors(update: Update, anchors: Sequence[Encoded], steps: int) -> list[Encoded]:
    """Returns the anchors of an update's optimizer steps one after the other, `anchor_rows` of each, if it has any.

    They come in random orders that depend on the update's seed alone, and none comes again before all came once.
    """
    if not (anchors and steps):
        return []
    return in_turn(anchors, steps * update.anchor_rows, 0, f"anchors {update.seed}")


def learning_rate(update: Update, step: int, total: int) -> float:
    """Returns the learning rate of optimizer step `step` (from 0) of `total`, as in Hugging Face's schedules."""
    if step < update.warmup_steps:
        return update.learning_rate * step / max(1, update.warmup_steps)
    if update.schedule == "constant":
        return update.learning_rate
    done = (step - update.warmup_steps) / max(1, total - update.warmup_steps)
    if update.schedule == "linear":
        return update.learning_rate * max(0.0, 1.0 - done)
    return update.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def row_length(length: int) -> int:
    """Rounds the length of a row up to 2^n or 1.5 * 2^n tokens, at least `SHORTEST_ROW`.

    >>> [row_length(n) for n in (3, 17, 25, 60, 65, 100)]
    [16, 24, 32, 64, 96, 128]
    """
    power = SHORTEST_ROW
    while power < length:
        power *= 2
    return power * 3 // 4 if power > SHORTEST_ROW and length <= power * 3 // 4 else power


def power_of_two(number: float) -> int:
    """Rounds up to a power of two, at least 1."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()


def pack(sequences: Sequence[Encoded], hidden_size: int) -> tuple[int, list[list[Encoded]]]:
    """Packs the sequences of an optimizer step into rows of equal length.

    The length is the one that costs least: longer rows waste fewer tokens on padding but more on
    attention, whose share of the cost per token grows as length / (6 * hidden size).

    Returns:
      The rows' length, and the sequences in each row.
    """
    best: tuple[float, int, list[list[Encoded]]] | None = None
    total = sum(len(s.ids) for s in sequences)
    time = row_length(max(len(s.ids) for s in sequences))
    while True:
        rows: list[list[Encoded]] = []
        free: list[int] = []
        for sequence in sorted(sequences, key=lambda s: -len(s.ids)):
            size = len(sequence.ids)
            place = next((row for row, left in enumerate(free) if left >= size), None)
            if place is None:
                rows.append([])
                free.append(time)
                place = len(rows) - 1
            rows[place].append(sequence)
            free[place] -= size
        cost = power_of_two(len(rows)) * time * (1 + time / (6 * hidden_size))
        if best is None or cost < best[0]:
            best = (cost, time, rows)
        if len(rows) == 1 or time >= total:
            return best[1], best[2]
        time = row_length(time + 1)


def micro_batches(
    adapter: int, update: Update, sequences: Sequence[Encoded], hidden_size: int, anchors: Sequence[Encoded] = ()
) -> list[MicroBatch]:
    """Returns the micro-batches of one adapter, in the order in which they must run.

    The last one of each optimizer step has the step's anchors, in rows as long as the longest of all needs, so that
    the steps of an update have as few shapes with anchors as without.
    """
    result: list[MicroBatch] = []
    steps = optimizer_steps(update, len(sequences))
    size = update.anchor_rows if anchors else 0
    drawn = draw_anchors(update, anchors, len(steps))
    anchor_time = row_length(max(len(each.ids) for each in anchors)) if size else 0
    found: dict[tuple[int, ...], tuple[Shape, list[list[list[Encoded]]], int]] = {}  # steps may come again, by epoch
    for number, step in enumerate(steps):
        if (key := tuple(step)) not in found:
            found[key] = _blocks([sequences[index] for index in step], hidden_size)
        shape, blocks, targets = found[key]
        result += [MicroBatch(adapter, number, shape, rows, rows is blocks[-1], targets) for rows in blocks]
        if size:
            last = result[-1]
            last.anchors = drawn[number * size : (number + 1) * size]
            last.shape = dataclasses.replace(shape, anchor_time=anchor_time, anchor_rows=size)
    return result


def _blocks(sequences: Sequence[Encoded], hidden_size: int) -> tuple[Shape, list[list[list[Encoded]]], int]:
    """Returns the micro-batches of an optimizer step's sequences: their shape, the rows of each, and all targets."""
    time, rows = pack(sequences, hidden_size)
    size = max(1, min(power_of_two(len(rows)), MAX_MICRO_BATCH_TOKENS // time))
    packed = len(rows) < len(sequences) or any(sequence.attention is not None for sequence in sequences)
    shape = Shape(time=time, rows=size, packed=packed, whole=len(rows) <= size)
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return shape, blocks, int(sum(sequence.mask.sum() for sequence in sequences))


def training_steps(
    pending: Sequence[Sequence[MicroBatch]], slots: Callable[[Shape], int], shard_size: int | None = None
) -> Iterator[tuple[Shape, list[int], list[int]]]:
    """Yields training steps: a shape, slots, and for each slot the adapter whose next micro-batch has that shape.

    Greedy: the shape whose training step would be fullest runs next, with the adapters that have the most
    micro-batches left. The micro-batches of one adapter keep their order; nothing else about the order can change a
    result. Where a shard has a slot for each of its adapters, adapter k of the shard takes slot k.

    Args:
      pending: the micro-batches of each adapter.
      slots: how many adapters of a shard a training step of a shape has slots for.
      shard_size: adapters per shard: adapter k belongs to shard k // shard_size, and the shards of a mesh
        (`selfadapt.parallel.sharding`) run a training step together, each with its own adapters and slots.
        All adapters are in one shard if absent.
    """
    shard_size = shard_size or max(1, len(pending))
    shards = -(-len(pending) // shard_size)
    numbers: dict[Shape, int] = {}
    kinds = [[numbers.setdefault(each.shape, len(numbers)) for each in own] for own in pending]
    shapes = list(numbers)
    room = [slots(shape) for shape in shapes]
    left = [len(own) for own in pending]
    # For each shape and shard a heap of the waiting adapters: (-micro-batches left, adapter).
    waiting: list[list[list[tuple[int, int]]]] = [[[] for _ in range(shards)] for _ in shapes]

    def enqueue(adapter: int) -> None:
        if left[adapter]:
            heap = waiting[kinds[adapter][-left[adapter]]][adapter // shard_size]
            heapq.heappush(heap, (-left[adapter], adapter))

    def fullness(kind: int) -> tuple:
        counts = [len(heap) for heap in waiting[kind]]
        taken = sum(min(count, room[kind]) for count in counts)
        return taken / (room[kind] * shards), sum(counts), shapes[kind].time, shapes[kind].rows

    for adapter in range(len(pending)):
        enqueue(adapter)
    remaining = sum(left)
    while remaining:
        kind = max(range(len(shapes)), key=fullness)
        taken, chosen = [], []
        for shard, heap in enumerate(waiting[kind]):
            for slot in range(min(len(heap), room[kind])):
                adapter = heapq.heappop(heap)[1]
                own = adapter % shard_size if room[kind] == shard_size else slot
                taken.append(shard * room[kind] + own)
                chosen.append(adapter)
        remaining -= len(chosen)
        yield shapes[kind], taken, chosen
        for adapter in chosen:
            left[adapter] -= 1
            enqueue(adapter)
