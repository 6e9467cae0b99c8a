"""The device programs of `generate`: `start` reads prompts, `extend` writes tokens, `grow` enlarges the cache.

`fill` puts rows that `start` returns into the places of rows that have ended. `compact` copies some of the rows into a
smaller batch, of which some move to other shards, and may enlarge their cache. `start` runs each prompt once and
samples its first token; `extend` adds up to `DECODE_STEPS` tokens to every row in a `while_loop` that ends when all
rows are done. Neither vmaps the model (docs/architecture.md). `lower_start` and `lower_extend` trace them with abstract
arguments, for a cost estimate or ahead-of-time compilation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from selfadapt.engine import runtime
from selfadapt.engine.generate import batching
from selfadapt.engine.generate.choose import INVALID, Choice, choose
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora
from selfadapt.models.model import Model
from selfadapt.parallel import sharding

Array = jax.Array

DECODE_STEPS = 32  # the most tokens that one run of `extend` adds to each row


@flax.struct.dataclass
class DecodeState:
    """The state of a chunk's texts between two programs. K adapters, R rows (samples) for each.

    Attributes:
      cache: the keys and values of all tokens but the last.
      tokens: the last token of each row, `[K, R]`.
      positions: its position, `[K, R]`.
      step: tokens written so far in each row, `[K, R]`.
      done: rows that have ended, `[K, R]`.
    """

    cache: decoder.Cache
    tokens: Array
    positions: Array
    step: Array
    done: Array

    def by_row(self) -> dict[str, Array]:
        """Returns what there is for each row besides the cache, `[K, R]` each."""
        return {name: getattr(self, name) for name in ("tokens", "positions", "step", "done")}

    def sharded(self) -> DecodeState:
        """Constrains the sharding of all rows inside a program, so that the next one is compiled for one sharding."""

        def shard(leaf: Array) -> Array:
            return sharding.shard(leaf.ravel(), "batch").reshape(leaf.shape)

        rows = {name: shard(leaf) for name, leaf in self.by_row().items()}
        return dataclasses.replace(self, cache=self.cache.sharded(), **rows)


def cache_slots(width: int, count: int, max_new_tokens: int) -> int:
    """Returns the number of cache slots for texts of up to `count` tokens after their prompts.

    The part of the cache for new tokens doubles as it fills, since attention costs as much as there are slots. The
    last token written never enters the cache.

    Args:
      width: slots of the prompts, tokens of the longest one with its padding.
      count: tokens that the texts may have, at least 1.
      max_new_tokens: the most that they will ever have.
    """
    new = 4 * DECODE_STEPS
    while new < count:
        new *= 2
    return width + min(new, batching.padded_size(max_new_tokens - 1, batching.LENGTH_GRANULE))


@functools.partial(runtime.jit, static_argnames=("config", "samples", "slots", "mode"))
def start(
    params: decoder.Params,
    lora: Lora | None,
    tokens: Array,
    lengths: Array,
    choice: Choice,
    config: ModelConfig,
    samples: int,
    slots: int,
    mode: str,
) -> tuple[DecodeState, tuple[Array, Array]]:
    """Reads prompts and samples the first token of every sample.

    Args:
      params: the base parameters.
      lora: K adapters, or `None` (K is 1).
      tokens: right-padded prompts, `[K, P, T]`.
      lengths: their lengths, `[K, P]`; 0 where a row is padding.
      choice: how each row chooses its tokens; rows are the samples of each prompt in succession, R = P * samples.
      config: the architecture.
      samples: samples of each prompt.
      slots: cache slots (`cache_slots`).
      mode: as for `choose`.

    Returns:
      The state, and the first tokens with their log-probabilities, `[K, R]` each.
    """
    hidden, cache = decoder.prefill(params, config, tokens, lengths, lora=lora)
    cache = cache.repeat(samples).grow(slots)
    # One row of logits serves all samples of a prompt.
    logits = jnp.repeat(decoder.logits(params, config, hidden), samples, axis=1)
    lengths = jnp.repeat(lengths, samples, axis=1)
    step = jnp.zeros(lengths.shape, jnp.int32)
    token, logprob = choose(logits, choice, step, mode)
    state = DecodeState(
        cache=cache,
        tokens=token,
        positions=lengths,
        step=step + 1,
        done=ended(token, config) | (lengths == 0),
    )
    return state.sharded(), sharding.replicate((token, logprob))


@functools.partial(runtime.jit, static_argnames=("config", "mode", "most"), donate_argnames=("state",))
def extend(
    params: decoder.Params,
    lora: Lora | None,
    state: DecodeState,
    choice: Choice,
    slot: Array,
    steps: Array,
    config: ModelConfig,
    mode: str,
    most: int = DECODE_STEPS,
) -> tuple[DecodeState, tuple[Array, Array], Array]:
    """Writes some tokens in each row, fewer if all rows are done; the state is updated in place.

    Args:
      params: the base parameters.
      lora: K adapters, or `None`.
      state: the state.
      choice: how each row chooses its tokens, as for `start`.
      slot: the cache slot that the last token of each row takes; the new ones but the last take those that follow.
      steps: tokens to write in each row, at most `most`.
      config: the architecture.
      mode: as for `choose`.
      most: the most tokens to write in each row.

    Returns:
      The new state, the tokens of each step with their log-probabilities, `[most, K, R]` each, and how many of these
      steps have been taken.
    """
    layers = decoder.layer_inputs(config, params, lora)
    out = (
        jnp.zeros((most, *state.tokens.shape), jnp.int32),
        jnp.zeros((most, *state.tokens.shape), jnp.float32),
    )

    def more(carry):
        state, _, taken = carry
        return (taken < steps) & ~jnp.all(state.done)

    def body(carry):
        state, out, taken = carry
        hidden, cache = decoder.decode(
            params, config, layers, jnp.maximum(state.tokens, 0), state.positions, state.cache, slot + taken
        )
        token, logprob = choose(decoder.logits(params, config, hidden), choice, state.step, mode)
        out = jax.tree.map(lambda rows, row: rows.at[taken].set(row), out, (token, logprob))
        state = DecodeState(
            cache=cache,
            tokens=token,
            positions=state.positions + 1,
            step=state.step + 1,
            done=state.done | ended(token, config),
        )
        return state, out, taken + 1

    state, out, taken = jax.lax.while_loop(more, body, (state, out, jnp.int32(0)))
    return state.sharded(), *sharding.replicate((out, taken))


@functools.partial(jax.jit, donate_argnames=("state",))
def fill(state: DecodeState, new: DecodeState, places: Array) -> DecodeState:
    """Puts rows that `start` has returned into places of a state, which is updated in place.

    Args:
      state: the state of one adapter or the base model, `[1, R]`.
      new: the rows, `[1, rows]`, with as many cache slots.
      places: the place of each, counted within its shard, `[shards, rows / shards]`; one that the shard does not have
        for rows that are padding.
    """

    def put(own: Array, more: Array, places: Array, *, axis: int) -> Array:
        at = (slice(None),) * axis + (places[0],)
        return own.at[at].set(more, mode="drop")

    def filled(own: Array, more: Array, axes: Sequence[str | None]) -> Array:
        program = functools.partial(put, axis=axes.index("batch"))
        return sharding.on_each_device(program, (axes, axes, ("batch", None)), (own, more, places))

    more = iter(jax.tree.leaves(new.cache))  # in the order of `Cache.map`
    cache = state.cache.map(lambda leaf, axes: filled(leaf, next(more), axes))
    rows = jax.tree.map(lambda own, more: filled(own[0], more[0], ("batch",))[None], state.by_row(), new.by_row())
    return dataclasses.replace(state, cache=cache, **rows).sharded()


@functools.partial(jax.jit, static_argnames=("slots",))
def grow(cache: decoder.Cache, slots: int) -> decoder.Cache:
    """Returns a cache with empty slots added, up to `slots`."""
    return cache.grow(slots).sharded()


@functools.partial(jax.jit, static_argnames=("adapters", "slots"))
def compact(state: DecodeState, rows: Array, sent: Array | None, adapters: int, slots: int) -> DecodeState:
    """Returns some of the rows, with empty slots added to their cache, up to `slots`.

    Args:
      state: the state.
      rows: for each shard of the mesh the places of its rows (`live.Compaction`), `[shards, rows]`.
      sent: the rows that each shard sends to each other one, `[shards, shards, count]`; `None` if none moves.
      adapters: adapters of the new shape; each shard has the rows of its adapters, one adapter after the other.
      slots: cache slots (`cache_slots`).
    """
    indices = [(rows, ("batch", None))] + ([] if sent is None else [(sent, ("batch", None, None))])

    def taken(leaf: Array, axes: Sequence[str | None]) -> Array:
        arrays, each = zip((leaf, axes), *indices, strict=True)
        return sharding.on_each_device(functools.partial(_taken, axis=axes.index("batch")), each, arrays)

    cache = state.cache.map(taken).grow(slots)
    by_row = {name: taken(leaf.ravel(), ("batch",)).reshape(adapters, -1) for name, leaf in state.by_row().items()}
    return dataclasses.replace(state, cache=cache, **by_row).sharded()


def _taken(own: Array, rows: Array, sent: Array | None = None, *, axis: int) -> Array:
    """Returns rows of one shard, and of those sent to it; `rows` and `sent` are its parts, with a first axis of one."""

    def of_layer(own: Array) -> Array:
        if sent is not None:
            received = jax.lax.all_to_all(own[sent.ravel()], sharding.BATCH_AXES, 0, 0, tiled=True)
            own = jnp.concatenate([own, received])
        return own[rows[0]]

    return jax.lax.map(of_layer, own) if axis else of_layer(own)  # layer by layer, for smaller temporaries


def ended(token: Array, config: ModelConfig) -> Array:
    """Returns whether each token ends its text: an end-of-sequence token, or `INVALID`."""
    found = token == INVALID
    for eos in config.eos_token_ids:
        found |= token == eos
    return found


def lower_start(
    model: Model, lora: Lora | None, shape: tuple[int, int, int], *, samples: int, slots: int, mode: str
) -> jax.stages.Lowered:
    """Traces `start` for a model whose parameters, and adapters, may be abstract arrays.

    Args:
      model: the model; on a mesh the program is divided over it.
      lora: the adapters of a chunk, `None` for the base model.
      shape: the chunk's padded adapters, prompts for each and tokens of each prompt.
      samples: samples of each prompt.
      slots: cache slots (`cache_slots`).
      mode: as for `choose`.
    """
    with sharding.using(model.mesh):
        return start.lower(*_start_arguments(model, lora, shape, samples), model.config, samples, slots, mode)


def abstract_state(
    model: Model, lora: Lora | None, shape: tuple[int, int, int], *, samples: int, slots: int, mode: str
) -> DecodeState:
    """Returns shapes, dtypes and shardings of the state that `start` returns; arguments as for `lower_start`."""
    program = functools.partial(start, config=model.config, samples=samples, slots=slots, mode=mode)
    with sharding.using(model.mesh):
        state, _ = jax.eval_shape(program, *_start_arguments(model, lora, shape, samples))

    def abstract(leaf: Any, axes: tuple[str | None, ...] | None = None) -> jax.ShapeDtypeStruct:
        return sharding.abstract(model.mesh, leaf.shape, leaf.dtype, axes or (None,) * leaf.ndim)

    cache = state.cache.map(abstract)
    return dataclasses.replace(jax.tree.map(abstract, dataclasses.replace(state, cache=None)), cache=cache)


def lower_extend(model: Model, lora: Lora | None, state: DecodeState, *, mode: str) -> jax.stages.Lowered:
    """Traces `extend` for an abstract state (`abstract_state`); other arguments as for `lower_start`."""
    number = jax.ShapeDtypeStruct((), jnp.int32)
    choice = _abstract_choice(state.tokens.shape)
    with sharding.using(model.mesh):
        return extend.lower(model.params, lora, state, choice, number, number, model.config, mode)


def _start_arguments(model: Model, lora: Lora | None, shape: tuple[int, int, int], samples: int) -> tuple:
    """Returns the array arguments of `start`, those of a chunk of this shape abstract."""
    adapters, prompts, _ = shape
    tokens, lengths = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    return model.params, lora, tokens, lengths, _abstract_choice((adapters, prompts * samples))


def _abstract_choice(rows: tuple[int, ...]) -> Choice:
    def array(dtype: Any, *more: int) -> Any:
        return jax.ShapeDtypeStruct((*rows, *more), dtype)

    return Choice(
        keys=array(jnp.uint32, 2), temperature=array(jnp.float32), top_p=array(jnp.float32), top_k=array(jnp.int32)
    )
