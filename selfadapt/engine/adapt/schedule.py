"""Turns updates into a schedule of equally shaped batches for the `adapt` program. Host code only.

Every adapter is a stream of *items*: blocks of packed rows that add up to its optimiser steps. A *tick*
runs one item of each of several adapters that need the same shape just now. Adapters do not wait for
each other: one whose next sequence is short goes into a tick of short rows, so that a batch size of one
with lengths from 6 to 60 tokens is not padded to 60. What an item looks like depends on its own update
alone, never on its neighbours.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.errors import InvalidTypeError
from selfadapt.types import TokenSequence, Update

SHORTEST_ROW = 16
MAX_ITEM_TOKENS = 8192  # a step with more tokens is cut into several items


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One tokenised training sequence.

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
    """The shape of an item, and with it the program that runs it.

    Attributes:
      time: tokens a row, padding included.
      rows: rows an item.
      packed: whether rows hold several sequences, or hide some tokens, and so need segments.
      whole: whether the item is a whole optimiser step; parts of a step accumulate their gradient.
    """

    time: int
    rows: int
    packed: bool
    whole: bool


@dataclasses.dataclass
class Item:
    """A block of rows of one adapter.

    Attributes:
      adapter: which adapter it trains.
      step: which optimiser step it belongs to.
      rows: for each row, the sequences in it.
      last: whether the step's update is applied after it.
      targets: the number of target tokens of the whole step.
    """

    adapter: int
    step: int
    shape: Shape
    rows: list[list[Encoded]]
    last: bool
    targets: int


def encode(update: Update, tokenizer: Callable[[str, bool], list[int]]) -> list[Encoded]:
    """Tokenises an update's sequences; those with no target token are left out.

    Args:
      update: the update.
      tokenizer: maps a text, and whether it starts a sequence, to token ids. A pair's prompt starts the
        sequence and its target does not, so that a target's ids do not depend on its prompt.

    Raises:
      TypeError: a sequence is none of the three forms that `Update` takes.
    """
    encoded = []
    for number, sequence in enumerate(update.sequences):
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
                f"Update.sequences[{number}] is {type(sequence).__name__}; give a string, a (prompt, target) pair, "
                "or token ids with a mask"
            )
        ids = np.asarray(ids, np.int32)
        mask = np.ones(len(ids), bool) if mask is None else np.array(mask, bool)
        if ids.ndim != 1 or mask.shape != ids.shape:
            raise InvalidTypeError(
                f"Update.sequences[{number}] has ids of shape {ids.shape} and a mask of shape {mask.shape}; "
                "both must be flat and of one length"
            )
        mask[:1] = False
        if mask.any():
            encoded.append(Encoded(ids, mask, None if attention is None else np.asarray(attention, bool)))
    return encoded


def optimiser_steps(update: Update, count: int) -> list[list[int]]:
    """Returns for each optimiser step the indices of its sequences, over all epochs.

    The order of each epoch depends on the update's seed and the epoch alone. As in Hugging Face's
    Trainer the last batch of an epoch may be smaller.
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


def learning_rate(update: Update, step: int, total: int) -> float:
    """Returns the rate of optimiser step `step` (from 0) of `total`, as Hugging Face's schedules define it."""
    if step < update.warmup_steps:
        return update.learning_rate * step / max(1, update.warmup_steps)
    if update.schedule == "constant":
        return update.learning_rate
    done = (step - update.warmup_steps) / max(1, total - update.warmup_steps)
    if update.schedule == "linear":
        return update.learning_rate * max(0.0, 1.0 - done)
    return update.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def bucket(length: int) -> int:
    """Rounds a row's length up to a power of two or one and a half times one, at least `SHORTEST_ROW`.

    >>> [bucket(n) for n in (3, 17, 25, 60, 65, 100)]
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
    """Packs a step's sequences into rows; returns the rows' length and what each holds.

    The length is the one that costs least: longer rows waste fewer tokens on padding but more on
    attention, whose share of a token's cost grows as length / (6 * hidden size).
    """
    best: tuple[float, int, list[list[Encoded]]] | None = None
    total = sum(len(s.ids) for s in sequences)
    time = bucket(max(len(s.ids) for s in sequences))
    while True:
        rows: list[list[Encoded]] = []
        free: list[int] = []
        for sequence in sorted(sequences, key=lambda s: -len(s.ids)):
            size = len(sequence.ids)
            place = next((row for row, room in enumerate(free) if room >= size), None)
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
        time = bucket(time + 1)


def items(adapter: int, update: Update, sequences: Sequence[Encoded], hidden_size: int) -> list[Item]:
    """Returns the items of one adapter, in the order in which they must run."""
    result = []
    for number, step in enumerate(optimiser_steps(update, len(sequences))):
        chosen = [sequences[index] for index in step]
        time, rows = pack(chosen, hidden_size)
        targets = int(sum(sequence.mask.sum() for sequence in chosen))
        block = max(1, min(power_of_two(len(rows)), MAX_ITEM_TOKENS // time))
        packed = len(rows) < len(chosen) or any(sequence.attention is not None for sequence in chosen)
        shape = Shape(time=time, rows=block, packed=packed, whole=len(rows) <= block)
        starts = range(0, len(rows), block)
        result += [
            Item(adapter, number, shape, rows[start : start + block], start == starts[-1], targets) for start in starts
        ]
    return result


def ticks(
    streams: Sequence[Sequence[Item]], slots: Callable[[Shape], int], shard_size: int | None = None
) -> Iterator[tuple[Shape, dict[int, Item]]]:
    """Yields batches of equally shaped items, each of another adapter, by the slot that each one takes.

    Greedy: the shape whose tick would be fullest runs next, with the adapters that have most left to
    do. An adapter's own items keep their order; nothing else about the order can change a result.

    Args:
      streams: the items of each adapter.
      slots: how many adapters of a shard a tick of a shape has room for.
      shard_size: adapters a shard: adapter k belongs to shard k // shard_size, and the shards of a mesh
        (`selfadapt.parallel.sharding`) run a tick together, each with adapters and slots of its own.
        All in one if absent.
    """
    shard_size = shard_size or max(1, len(streams))
    position = [0] * len(streams)
    shards = -(-len(streams) // shard_size)
    # For each shape and shard the adapters that wait: (-items left, adapter), sorted.
    ready: dict[Shape, list[list[tuple[int, int]]]] = collections.defaultdict(lambda: [[] for _ in range(shards)])

    def announce(adapter: int) -> None:
        if position[adapter] < len(streams[adapter]):
            left = len(streams[adapter]) - position[adapter]
            bisect.insort(ready[streams[adapter][position[adapter]].shape][adapter // shard_size], (-left, adapter))

    def fullness(shape: Shape) -> tuple:
        waiting = [len(queue) for queue in ready[shape]]
        taken = sum(min(count, slots(shape)) for count in waiting)
        return taken / (slots(shape) * shards), sum(waiting), shape.time, shape.rows

    for adapter in range(len(streams)):
        announce(adapter)
    while ready:
        shape = max(ready, key=fullness)
        chosen = {}
        for shard, queue in enumerate(ready[shape]):
            for slot, (_, adapter) in enumerate(queue[: slots(shape)]):
                chosen[shard * slots(shape) + slot] = adapter
            del queue[: slots(shape)]
        if not any(ready[shape]):
            del ready[shape]
        yield shape, {slot: streams[adapter][position[adapter]] for slot, adapter in chosen.items()}
        for adapter in chosen.values():
            position[adapter] += 1
            announce(adapter)


def arrays(shape: Shape, chosen: Mapping[int, Item], slots: int, rows: int | None = None) -> dict[str, Any]:
    """Builds a tick's token arrays, each `[slots, rows, time]`; slots without an item hold padding.

    `weights` are 1 / (target tokens of the step) on targets and 0 elsewhere, so that a step's loss is
    the sum over its items.

    Args:
      shape: the shape of all items.
      chosen: the items by slot.
      slots: slots in all.
      rows: rows to make room for, where that is more than the shape's.
    """
    full = (slots, rows or shape.rows, shape.time)
    tokens, weights = np.zeros(full, np.int32), np.zeros(full, np.float32)
    packing = {name: np.zeros(full, np.int32) for name in ("segments", "key_segments", "positions")}
    for slot, item in chosen.items():
        for row, sequences in enumerate(item.rows):
            start = 0
            for number, sequence in enumerate(sequences, 1):
                span = (slot, row, slice(start, start + len(sequence.ids)))
                tokens[span] = sequence.ids
                weights[span] = sequence.mask / item.targets
                if shape.packed:
                    packing["segments"][span] = number
                    seen = True if sequence.attention is None else sequence.attention
                    packing["key_segments"][span] = number * seen
                    packing["positions"][span] = np.arange(len(sequence.ids))
                start += len(sequence.ids)
    return {"tokens": tokens, "weights": weights, **(packing if shape.packed else {})}
