"""The lines of an edit as training rows, made of its tokens on the device."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.functional.arrays import join, valid

Array = jax.Array

# What a token is to lines: part of a text, white space, a line's end, or both a part of it and its end (".\n").
TEXT, BLANK, BREAK, TEXT_AND_BREAK = range(4)


@flax.struct.dataclass
class Lines:
    """The lines of texts, in order, without empty ones and without white space at both ends.

    Attributes:
      tokens: token ids, right-padded, `[..., lines, width]`.
      lengths: the tokens of each line, `[..., lines]`; 0 past the last.
      counts: the number of lines, `[...]`.
      cut: whether there were more lines, or a longer one, `[...]`.
    """

    tokens: Array
    lengths: Array
    counts: Array
    cut: Array


def split_lines(tokens: Array, lengths: Array, kinds: Array, most: int, width: int) -> Lines:
    """Splits texts into lines.

    Args:
      tokens: token ids, `[..., N]`.
      lengths: tokens of each text, `[...]`.
      kinds: what each token of the vocabulary is, `[vocab]` (`token_kinds`).
      most: lines of each text; the first ones are kept.
      width: tokens of each line; the first ones are kept.
    """
    one = jnp.vectorize(
        lambda text, length: _lines(text, length, kinds, most, width),
        signature="(n),()->(l,w),(l),(),()",
    )
    return Lines(*one(tokens, lengths))


def _lines(tokens, length, kinds, most, width):
    (size,) = tokens.shape
    place = jnp.arange(size)
    kind = jnp.where(place < length, kinds[tokens], BREAK)
    breaks = kind >= BREAK
    number = jnp.cumsum(breaks) - breaks  # breaks before each token
    text = (kind == TEXT) | (kind == TEXT_AND_BREAK)
    # A line begins at the first token of text after a break, and ends at the last one before the next.
    seen = jax.lax.cummax(jnp.where(text, number, -1))
    following = jax.lax.cummin(jnp.where(text, number, size + 1), reverse=True)
    first = text & (jnp.concatenate([jnp.full(1, -1), seen[:-1]]) < number)
    last = text & (jnp.concatenate([following[1:], jnp.full(1, size + 1)]) > number)
    starts, ends = (jnp.nonzero(marks, size=most, fill_value=size)[0] for marks in (first, last))
    lengths = jnp.where(starts < size, ends - starts + 1, 0)
    cut = (first.sum() > most) | (lengths > width).any()
    lengths = jnp.minimum(lengths, width)
    lines = tokens[jnp.minimum(starts[:, None] + jnp.arange(width), size - 1)]
    return jnp.where(valid(lengths, width), lines, 0), lengths, jnp.minimum(first.sum(), most), cut


def training_rows(lines: Lines, prefix: Array, prefix_length: Array, end: Array, width: int) -> tuple[Array, Array]:
    """Returns a row for each line: a prefix, the line, and what ends a sequence.

    Args:
      lines: the lines.
      prefix: what comes before each line, token ids, `[..., P]`.
      prefix_length: its length, `[...]`.
      end: token ids after each line, `[E]`.
      width: tokens of a row; what does not fit is cut.

    Returns:
      Token ids, `[..., lines, width]`, and the tokens of each row, `[..., lines]`, 0 where there is no line.
    """
    shape = lines.lengths.shape
    before = jnp.broadcast_to(prefix[..., None, :], (*shape, prefix.shape[-1]))
    tokens, lengths = join(before, jnp.broadcast_to(prefix_length[..., None], shape), lines.tokens, lines.lengths)
    after = jnp.broadcast_to(end, (*shape, len(end)))
    tokens, lengths = join(tokens, lengths, after, jnp.full(shape, len(end)), width)
    return tokens, jnp.where(lines.lengths > 0, lengths, 0)


def packed_rows(
    lines: Array, lengths: Array, passage: Array, passage_length: Array, together: int, width: int
) -> dict[str, Array]:
    """Returns lines, and a passage in the last row, as the arrays that `adapt` trains on.

    Args:
      lines: a sequence for each line, `[K, L, W]`.
      lengths: their lengths, `[K, L]`, 0 where there is no line.
      passage: token ids, `[K, T]`.
      passage_length: its length, `[K]`.
      together: lines of a row; if there are several, `positions` and `segments` keep them apart.
      width: tokens of a row.
    """
    adapters, count, size = lines.shape
    groups = -(-count // together)
    padding = [(0, 0), (0, groups * together - count), (0, 0)]

    def by_row(leaf: Array, last: Array) -> Array:  # [K, L, W] and [K, T] to [K, rows, width]
        leaf = jnp.pad(leaf, padding).reshape(adapters, groups, together * size)
        leaf = jnp.pad(leaf, [(0, 0), (0, 0), (0, width - together * size)])
        return jnp.concatenate([leaf, jnp.pad(last, [(0, 0), (0, width - last.shape[-1])])[:, None]], axis=1)

    inside, within = valid(lengths, size), valid(passage_length, passage.shape[-1])
    arrays = {"tokens": by_row(lines, passage), "mask": by_row(inside, within)}
    if together > 1:
        place = jnp.broadcast_to(jnp.arange(size), lines.shape)
        slot = jnp.arange(count)[:, None] % together + 1
        arrays["positions"] = by_row(place, jnp.broadcast_to(jnp.arange(passage.shape[-1]), passage.shape))
        arrays["segments"] = by_row(inside * slot, within.astype(int))
    return arrays


def token_kinds(tokenizer: Any, size: int) -> np.ndarray:
    """Returns what each token is to the lines of a text: `TEXT`, `BLANK`, `BREAK` or `TEXT_AND_BREAK`.

    Args:
      tokenizer: the tokenizer; its special tokens end a line.
      size: tokens of the model's vocabulary, also those that the tokenizer does not have.
    """
    special = set(tokenizer.all_special_ids)

    def kind(token: int) -> int:
        if token in special:
            return BREAK
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        inside, newline = bool(text.strip()), "\n" in text or "\r" in text
        return (TEXT_AND_BREAK if newline else TEXT) if inside else (BREAK if newline else BLANK)

    kinds = np.full(size, BREAK, np.int8)
    known = min(size, len(tokenizer))
    kinds[:known] = [kind(token) for token in range(known)]
    return kinds
