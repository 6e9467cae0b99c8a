"""Prompts of very different lengths in few device shapes with little padding; for `generate` and `log_likelihood`.

Prompts become `Row`s (token ids, and the adapter that they are for), and rows become `Chunk`s: sets of rows that run
together as one `[adapters, rows, time]` array, chosen so that padding is less than half of the work in each dimension
and the chunk fits into memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.errors import InvalidValueError
from selfadapt.models.attention import score_bytes
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora
from selfadapt.models.model import Model
from selfadapt.parallel import sharding

LENGTH_GRANULE = 16  # tokens; lengths are padded to multiples of it
SPLIT_BELOW = 64  # tokens; rows are not separated by length when the longest is this short


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt for one adapter.

    Attributes:
      adapter: index of the adapter, 0 without adapters.
      index: position of the prompt in its (adapter's) list.
      tokens: its token ids.
    """

    adapter: int
    index: int
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that run together.

    Attributes:
      adapters: the adapters of the chunk, in the order of its first axis; `None` where an entry is padding.
      rows: for each of them, indices into the list of all rows.
      shape: the padded numbers of adapters and of rows for each adapter.
      waiting: rows of the one adapter that take the places of those that end.
    """

    adapters: tuple[int | None, ...]
    rows: tuple[tuple[int, ...], ...]
    shape: tuple[int, int]
    waiting: tuple[int, ...] = ()

    @property
    def indices(self) -> list[int]:
        """The indices of all rows, the waiting ones last."""
        return [index for own in (*self.rows, self.waiting) for index in own]

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yields (index on the adapter axis, index on the row axis, index of the row in the list of all rows)."""
        for k, rows in enumerate(self.rows):
            for r, index in enumerate(rows):
                yield k, r, index


def padded_size(size: int, granule: int = 1) -> int:
    """Rounds a dimension up to one of few sizes: multiples of `granule` of at most three significant bits.

    With `granule` 1 these are 1 to 8, 10, 12, 14, 16, 20, ...: four between powers of two. At most a quarter of the
    result is padding (beyond one granule).

    >>> [padded_size(n) for n in (1, 7, 9, 100)], padded_size(33, granule=16)
    ([1, 7, 10, 112], 48)
    """
    units = -(-max(size, 1) // granule)
    step = 1 << max((units - 1).bit_length() - 3, 0)
    return -(-units // step) * step * granule


def nest(prompts: Sequence[Any], adapters: Adapters | None, what: str = "prompts") -> list[list[Any]]:
    """Returns one list of prompts for each adapter (one list without adapters).

    Args:
      prompts: strings or sequences of token ids; with K adapters also K lists of those.
      adapters: a stack of K adapters, or `None`.
      what: what the caller calls `prompts`, for the error.

    Raises:
      ValueError: the number of lists is not the number of adapters.
    """
    if isinstance(prompts, str):
        raise InvalidValueError(f"{what} is a single string; pass a list, [{what}], even for one")
    prompts = list(prompts)
    for index, item in enumerate(prompts):
        if not isinstance(item, Sequence | np.ndarray):
            raise InvalidValueError(f"{what}[{index}] is {item!r}; it must be a string or a sequence of token ids")
    nested = bool(prompts) and all(_is_list_of_prompts(item) for item in prompts)
    if nested and not any(len(item) for item in prompts):
        nested = adapters is not None and len(prompts) == len(adapters)  # K empty lists, not empty prompts
    if adapters is None:
        if nested:
            raise InvalidValueError(f"{what} is a list of lists, which needs adapters; without them pass one flat list")
        return [prompts]
    if not nested:
        return [prompts] * len(adapters)
    if len(prompts) != len(adapters):
        raise InvalidValueError(
            f"{what} has {len(prompts)} lists for {len(adapters)} adapters; pass one list for each adapter, "
            "or one flat list that all of them share"
        )
    return [list(item) for item in prompts]


def _is_list_of_prompts(item: Any) -> bool:
    if isinstance(item, str):
        return False
    return len(item) == 0 or not isinstance(item[0], int | np.integer)


def per_prompt(value: Any, counts: Sequence[int], what: str) -> list[list[Any]]:
    """Broadcasts an option to every prompt.

    Args:
      value: one value; or one for each prompt, in the structure of the prompts.
      counts: the number of prompts of each adapter.
      what: the option's name, for the error.

    Raises:
      ValueError: the structure is not that of the prompts.
    """
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return [[value] * count for count in counts]
    values = list(value)
    if all(isinstance(item, list | tuple | np.ndarray) for item in values) and len(values) == len(counts):
        lists = [list(item) for item in values]
    else:
        lists = [values] * len(counts)
    for k, (items, count) in enumerate(zip(lists, counts, strict=True)):
        if len(items) != count:
            where = f" for adapter {k}" if len(counts) > 1 else ""
            raise InvalidValueError(f"{what} has {len(items)} values{where}, but there are {count} prompts")
    return lists


def where(adapters: Adapters | None, row: Row, what: str = "prompt") -> str:
    """Returns how an error refers to a row: "prompt 3", or "prompt 3 of adapter 1"."""
    return f"{what} {row.index}" + (f" of adapter {row.adapter}" if adapters is not None else "")


def tokenize(
    model: Model,
    lists: Sequence[Sequence[Any]],
    adapters: Adapters | None,
    *,
    special: bool = True,
    what: str = "prompt",
) -> list[Row]:
    """Turns lists of prompts into rows of token ids; equal texts are tokenised once.

    Args:
      model: the model, for its tokenizer and vocabulary size.
      lists: for each adapter its prompts, strings or token ids.
      adapters: the stack, or `None`; errors then do not name an adapter.
      special: whether the tokenizer's special tokens (such as a beginning-of-sequence token) are added.
      what: what an item is, for errors.

    Raises:
      ValueError: an item has no tokens, or an id is outside the vocabulary.
    """
    texts = list({item: None for items in lists for item in items if isinstance(item, str)})
    known: dict[str, tuple[int, ...]] = {}
    if texts:
        if model.tokenizer is None:
            raise InvalidValueError(f"the model has no tokenizer; pass each {what} as token ids")
        encoded = model.tokenizer(texts, add_special_tokens=special)["input_ids"]
        known = {text: tuple(ids) for text, ids in zip(texts, encoded, strict=True)}
    rows = []
    for k, items in enumerate(lists):
        for index, item in enumerate(items):
            row = Row(k, index, known[item] if isinstance(item, str) else tuple(int(token) for token in item))
            if not row.tokens:
                raise InvalidValueError(f"{where(adapters, row, what)} has no tokens; give it at least one")
            if not (0 <= min(row.tokens) and max(row.tokens) < model.config.vocab_size):
                raise InvalidValueError(
                    f"{where(adapters, row, what)} has a token id outside 0 .. {model.config.vocab_size - 1}, "
                    "the model's vocabulary"
                )
            rows.append(row)
    return rows


def plan_chunks(
    owners: Sequence[int],
    lengths: Sequence[int],
    row_bytes: Callable[[int], int],
    budget: int,
    shards: int = 1,
    stack: int = 1,
    waiting: bool = False,
    parts: Callable[[int], int] = lambda rows: 1,
) -> list[Chunk]:
    """Groups rows into chunks.

    Rows of one chunk are no shorter than half the longest (unless that is short anyway), adapters of one chunk have no
    fewer rows than half the most, and a chunk's rows fit the budget. A row that alone exceeds the budget runs alone.
    On a mesh a chunk's adapters are sharded, each on the shard that holds it; where the stack has one adapter only, its
    rows are.

    Args:
      owners: the adapter of each row.
      lengths: the length of each row, tokens.
      row_bytes: memory of one row of a chunk, given the chunk's padded length.
      budget: bytes for one chunk, on each device.
      shards: shards of the mesh (`selfadapt.parallel.sharding.num_shards`).
      stack: adapters in the stack, padding included, 1 without adapters.
      waiting: whether the rows of an adapter that are too many for one chunk wait for places in it, instead of being
        divided between several. On a mesh only those of a stack of one do.
      parts: returns the fewest chunks that a number of similar rows should make, at most that number.
    """
    parted = shards if stack > 1 else 1  # shards that the adapters are divided over
    held = -(-stack // parted) if parted > 1 else 0  # adapters on each of them
    chunks = []
    for group in _halving(sorted(range(len(lengths)), key=lambda i: -lengths[i]), lambda i: lengths[i], SPLIT_BELOW):
        most = max(1, budget // row_bytes(padded_size(lengths[group[0]], LENGTH_GRANULE))) * (shards // parted)
        by_owner: dict[int, list[int]] = {}
        for i in group:
            by_owner.setdefault(owners[i], []).append(i)
        least = parts(len(group))
        dealt = list(by_owner.items())
        if len(dealt) == 1:  # rows in turn, so that all chunks have the same shape
            dealt = [(owner, own[part::least]) for owner, own in dealt for part in range(least)]
        pieces = []
        for owner, own in dealt:
            if waiting and parted == 1 and len(own) > most:
                size = _most_rows(most, shards)
                chunks.append(Chunk((owner,), (tuple(own[:size]),), (1, size), tuple(own[size:])))
            else:
                pieces += [(owner, piece) for piece in _even(own, most)]
        pieces.sort(key=lambda piece: (-len(piece[1]), piece[0]))
        for similar in _halving(pieces, lambda piece: len(piece[1]), 1):
            queues = [[p for p in similar if parted == 1 or p[0] // held == shard] for shard in range(parted)]
            rows = sharding.round_up(padded_size(len(similar[0][1])), shards // parted)
            longest = max(map(len, queues))
            length = min(_part(longest, max(1, most // rows)), -(-longest // least))
            for start in range(0, longest, length):
                chunks.append(_chunk([sorted(queue[start : start + length]) for queue in queues], shards // parted))
    return chunks


def _chunk(queues: list[list[tuple[int, list[int]]]], row_multiple: int) -> Chunk:
    """Makes a chunk of what each shard runs: (adapter, its rows)."""
    width = padded_size(max(map(len, queues)))
    filled: list[list[Any]] = [
        queue + [(None, [])] * (width - len(queue) if len(queues) > 1 else 0) for queue in queues
    ]
    adapters, rows = zip(*(piece for queue in filled for piece in queue), strict=True)
    padded_rows = sharding.round_up(padded_size(max(map(len, rows))), row_multiple)
    return Chunk(adapters, tuple(tuple(sorted(own)) for own in rows), (len(queues) * width, padded_rows))


def _most_rows(most: int, multiple: int) -> int:
    """Returns the largest padded size of at most `most` rows that shards divide evenly, at least a row of each."""
    sizes = (size for size in range(most - most % multiple, 0, -multiple) if padded_size(size) == size)
    return next(sizes, multiple)


def _halving(items: list, size: Callable, floor: int) -> Iterator[list]:
    """Cuts a list sorted by falling size wherever an item has less than half the size of its group's first."""
    start = 0
    for i in range(1, len(items) + 1):
        first = size(items[start])
        if i == len(items) or (first > floor and 2 * size(items[i]) < first):
            yield items[start:i]
            start = i


def _even(items: list, most: int) -> Iterator[list]:
    """Cuts a list into the fewest pieces of at most `most` items, about equally long."""
    length = _part(len(items), most)
    for start in range(0, len(items), length):
        yield items[start : start + length]


def _part(count: int, most: int) -> int:
    """Returns the length of the fewest, about equal pieces of at most `most` that `count` items are cut into."""
    return -(-count // -(-count // most))


def chunk_lora(adapters: Adapters | None, chunk: Chunk, shards: int = 1) -> Lora | None:
    """Returns the adapters of a chunk, padded to its shape by repeating some of them.

    On a mesh (`Adapters.on`) each shard takes from the adapters that it holds; call it inside `sharding.using`.
    """
    if adapters is None:
        return None
    padded = chunk.shape[0]
    present = [owner for owner in chunk.adapters if owner is not None]
    stack = len(adapters.lora.scale)
    if padded == stack and present == list(range(len(adapters))):
        return adapters.lora
    if shards == 1 or stack == 1:
        return adapters.lora.take(np.asarray(present + present[:1] * (padded - len(present))))
    places = np.asarray([0 if owner is None else owner % (stack // shards) for owner in chunk.adapters])
    return take_by_shard(adapters.lora, places.reshape(shards, -1))


@jax.jit
def take_by_shard(lora: Lora, places: Any) -> Lora:
    """Takes adapters of each shard; places are counted within the shard, `[shards, count]`."""

    def take(leaf, axes):
        axis = axes.index("adapters")
        leaf = jnp.moveaxis(leaf, axis, 0)
        leaf = jax.vmap(lambda own, index: own[index])(leaf.reshape(len(places), -1, *leaf.shape[1:]), places)
        return sharding.shard(jnp.moveaxis(leaf.reshape(-1, *leaf.shape[2:]), 0, axis), *axes)

    return lora.map(take)


def padded_length(chunk: Chunk, lengths: Sequence[int]) -> int:
    """Returns the number of tokens that a chunk's rows are padded to, given the length of every row of the call."""
    return padded_size(max(lengths[index] for index in chunk.indices), LENGTH_GRANULE)


def padded_tokens(chunk: Chunk, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns a chunk's rows, right-padded, `[K, R, T]`, given the token ids of every row of the call."""
    tokens = np.zeros((*chunk.shape, padded_length(chunk, [len(row) for row in rows])), np.int32)
    for k, r, index in chunk.places():
        tokens[k, r, : len(rows[index])] = rows[index]
    return tokens


def prefill_bytes(config: ModelConfig, length: int, itemsize: int) -> int:
    """Estimates the bytes of temporary arrays in a forward pass over one row (one layer's, as layers are scanned)."""
    each = score_bytes(config, length) + itemsize * (8 * config.hidden_size + 3 * config.intermediate_size)
    return length * each
