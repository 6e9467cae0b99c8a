"""Texts of a policy in padded rows, and rows in micro-batches of few shapes. Host code only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from selfadapt.engine.adapt.schedule import power_of_two, row_length
from selfadapt.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Written:
    """What a policy wrote after a prompt.

    Attributes:
      prompt: token ids, at least one.
      tokens: the token ids that it wrote.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)


@flax.struct.dataclass
class Rows:
    """A micro-batch: one text with its prompt in each row, right-padded. Every array is `[rows, time]`.

    Attributes:
      tokens: token ids.
      mask: whether a token was written by the policy.
      data: what a loss needs to know about each token, float32 by name, 0 where `mask` is false.
    """

    tokens: Any
    mask: Any
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Texts that run together.

    Attributes:
      indices: the texts, in the order of the rows; the rows after them are padding.
      rows: rows, padding included.
      time: tokens of a row, padding included.
    """

    indices: tuple[int, ...]
    rows: int
    time: int


def micro_batches(
    lengths: Sequence[int], groups: Sequence[Sequence[int]], *, most: int, tokens: int, shards: int
) -> list[MicroBatch]:
    """Cuts texts into micro-batches, long texts first; the number of rows depends on the length of the rows only.

    Args:
      lengths: the length of each text with its prompt.
      groups: the indices of the texts to run; those of a group, all of one size, stay in neighbouring rows.
      most: the most texts of any call, so that few texts do not run in many rows.
      tokens: the most tokens of a micro-batch on each shard; a single group may have more.
      shards: shards that divide the rows.
    """
    result = []
    order = sorted(groups, key=lambda group: -max(lengths[index] for index in group))
    start = 0
    while start < len(order):
        size, time = len(order[start]), row_length(max(lengths[index] for index in order[start]))
        rows = min(power_of_two(most), max(1, tokens // time) * shards)
        rows = sharding.round_up(rows, math.lcm(size, shards))
        chosen = order[start : start + rows // size]
        result.append(MicroBatch(tuple(index for group in chosen for index in group), rows, time))
        start += len(chosen)
    return result


def arrays(
    batch: MicroBatch,
    written: Sequence[Written],
    data: Mapping[str, Sequence[Any]],
    weights: Mapping[int, float] | None = None,
) -> Rows:
    """Returns the arrays of a micro-batch.

    Args:
      batch: the micro-batch.
      written: all texts.
      data: for each name and text a number, or one for each token that was written.
      weights: what the loss of each text's tokens is multiplied with, the data "weight"; 0 by default.
    """
    shape = (batch.rows, batch.time)
    tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    values = {name: np.zeros(shape, np.float32) for name in (*data, "weight")}
    for row, index in enumerate(batch.indices):
        text = written[index]
        span = slice(len(text.prompt), len(text))
        tokens[row, : len(text)] = text.prompt + text.tokens
        mask[row, span] = True
        for name, each in data.items():
            values[name][row, span] = each[index]
        if weights is not None:
            values["weight"][row, span] = weights[index]
    return Rows(tokens=tokens, mask=mask, data=values)
