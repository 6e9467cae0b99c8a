"""Sampling: many prompts, each with its own adapter, temperature and random key, in one program.

The device runs two programs: `_start` prefills each prompt once and samples its first token, `_extend` adds
up to `CHUNK` more to every row in a `while_loop` that ends as soon as all rows are done. Between chunks the
host looks for stop strings and lets the cache grow. Neither program vmaps the model (docs/architecture.md).

Random numbers belong to a sample, not to a place: the key of a row is a hash of (seed, prompt id, sample
index), and each step folds in the number of tokens written so far.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine import flops, memory, runtime
from selfadapt.engine.generate import batching
from selfadapt.engine.generate.choose import INVALID, Choice, choose
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora
from selfadapt.models.model import check_base
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter

Array = jax.Array

CHUNK = 32  # tokens between two visits of the host


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the model wrote after one prompt.

    Attributes:
      text: the text, without special tokens and cut before the stop string.
      tokens: the sampled token ids, with the end-of-sequence token or the stop string's last token.
      logprobs: log-probability of each token under the model itself (temperature 1, nothing filtered),
        in nats, float32.
      finish: "stop" (end of sequence or a stop string), "length" (`max_new_tokens` reached) or "invalid"
        (the adapter gave logits that are not finite).
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: np.ndarray
    finish: str


@dataclasses.dataclass(frozen=True)
class _Call:
    """What all waves of one `generate` have in common.

    Attributes:
      rows: every prompt of the call.
      choices: for each field of `Choice` its values, `[prompts, samples, ...]`.
      samples: samples of each prompt.
      max_new_tokens: the most tokens to write.
      stop: strings that end a text.
    """

    rows: Sequence[batching.Row]
    choices: dict[str, np.ndarray]
    samples: int
    max_new_tokens: int
    stop: tuple[str, ...]


@flax.struct.dataclass
class State:
    """Where a wave stands.

    Attributes:
      cache: the keys and values of everything but the last token.
      tokens: the last token of each row, `[K, R]`.
      positions: its position, `[K, R]`.
      slot: the cache slot that it will take, the same for all rows.
      step: tokens written so far in each row.
      done: rows that have ended, `[K, R]`.
    """

    cache: decoder.Cache
    tokens: Array
    positions: Array
    slot: Array
    step: Array
    done: Array


def generate(
    model: Any,
    prompts: Sequence[Any],
    *,
    adapters: Adapters | None = None,
    max_new_tokens: int = 64,
    temperature: Any = 0.0,
    top_p: Any = 1.0,
    top_k: Any = 0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    num_samples: int | None = None,
    ids: Sequence[Any] | None = None,
    return_details: bool = False,
    memory_bytes: int | None = None,
    stats: dict[str, float] | None = None,
) -> list[Any]:
    """Continues prompts, each with its adapter, in as few and as full device batches as memory allows.

    The same (seed, prompt id, sample index) gives the same tokens whatever else is in the call (float32 on
    CPU, apart from ties in floating point).

    Args:
      model: the model.
      prompts: strings (tokenised with special tokens) or sequences of token ids, in one flat list. With a
        stack of K adapters either K such lists (of any lengths, also empty), or one flat list that every
        adapter continues.
      adapters: a stack of K adapters, or `None` for the base model.
      max_new_tokens: the most tokens to write.
      temperature: divides the logits; 0 takes the most probable token. A number, or one for each prompt in
        the structure of `prompts`; so also for `top_p` and `top_k`.
      top_p: keep the smallest set of most probable tokens whose mass is at least this (tokens as probable
        as the last one stay too); 1 keeps all. It acts after `temperature` and `top_k`.
      top_k: keep this many most probable tokens; 0 keeps all.
      stop: strings that end a text; the text is cut before them.
      seed: seeds all sampling of the call.
      num_samples: samples of each prompt, which is prefilled once for all of them.
      ids: identities of the prompts for the random keys (strings or numbers, in the structure of
        `prompts`); the token ids themselves if absent. Prompts of one id in one list take successive
        sample indices. An adapter's place does not enter: adapters that share a prompt share its keys.
      return_details: return `Generation`s instead of texts.
      memory_bytes: memory for one batch (its cache, activations and logits); by default what the device
        has free. More work than that is done in several batches.
      stats: a dictionary to add this call's counts to: `prompt_tokens`, `prefill_tokens` (device tokens,
        padding included), `prefill_seconds`, `new_tokens`, `decode_tokens` (padding included), `waves`,
        `seconds`.

    Returns:
      A list with one text (or `Generation`) for each prompt; with adapters, one such list for each
      adapter. If `num_samples` is given, each text becomes a list of `num_samples` texts.

    Raises:
      ValueError: an option is out of range, a prompt has no tokens, or a prompt and `max_new_tokens` exceed
        the model's positions.
    """
    started = time.perf_counter()
    runtime.keep_freed_memory()
    config, samples = model.config, 1 if num_samples is None else num_samples
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if max_new_tokens < 1 or samples < 1:
        raise InvalidValueError(
            f"max_new_tokens is {max_new_tokens} and num_samples {samples}; both must be at least 1"
        )
    if not all(stop):
        raise InvalidValueError("stop holds an empty string, which would end every text at once")
    if adapters is not None:
        check_base(config, adapters)
    lists = batching.nest(prompts, adapters)
    rows = batching.tokenize(model, lists, adapters)
    for row in rows:
        if (total := len(row.tokens) + max_new_tokens) > config.max_position_embeddings:
            raise InvalidValueError(
                f"{batching.where(adapters, row)} has {len(row.tokens)} tokens, and with max_new_tokens="
                f"{max_new_tokens} needs {total} positions; the model has {config.max_position_embeddings}"
            )
    if model.tokenizer is None and (stop or not return_details):
        raise InvalidValueError(
            "the model has no tokenizer, so there is no text; ask for return_details=True and no stop"
        )
    counts = [len(items) for items in lists]

    def option(value, name, kind, allowed, meaning):
        flat = [item for items in batching.per_prompt(value, counts, name) for item in items]
        for row, item in zip(rows, flat, strict=True):
            if not allowed(item):
                raise InvalidValueError(f"{name} of {batching.where(adapters, row)} is {item}; it must be {meaning}")
        return np.repeat(np.asarray(flat, kind)[:, None], samples, axis=1)

    choices = {
        "keys": _keys(rows, None if ids is None else batching.per_prompt(ids, counts, "ids"), seed, samples),
        "temperature": option(
            temperature, "temperature", np.float32, lambda x: 0 <= x < math.inf, "0 or a positive number"
        ),
        "top_p": option(top_p, "top_p", np.float32, lambda x: 0 < x <= 1, "above 0 and at most 1"),
        "top_k": option(
            top_k, "top_k", np.int32, lambda x: x >= 0 and x == int(x), "0 (keep all) or a positive whole number"
        ),
    }
    call = _Call(rows, choices, samples, max_new_tokens, stop)

    itemsize = jnp.dtype(model.params["embed_tokens"].dtype).itemsize
    budget = int(memory.SHARE * memory.available_bytes()) if memory_bytes is None else memory_bytes
    if adapters is not None:
        adapters = adapters.on(model.mesh)
    waves = batching.plan_waves(
        [row.adapter for row in rows],
        [len(row.tokens) for row in rows],
        lambda length: row_bytes(config, length, samples, max_new_tokens, itemsize, model.mesh),
        budget,
        sharding.shards(model.mesh),
        1 if adapters is None else len(adapters.lora.scale),
    )
    counter: dict[str, float] = collections.Counter()
    results: list[list[Generation]] = [[] for _ in rows]
    with sharding.using(model.mesh):
        for wave in waves:
            for index, generations in _run(model, adapters, wave, call, counter):
                results[index] = generations

    runtime.return_freed_memory()
    counter.update(prompt_tokens=sum(len(row.tokens) for row in rows), waves=len(waves))
    counter.update(new_tokens=sum(len(generation.tokens) for result in results for generation in result))
    counter.update(seconds=time.perf_counter() - started)
    lengths = [[len(generation.tokens) for generation in result] for result in results]
    work = flops.of_generate(
        config, () if adapters is None else adapters.specs, [(row.adapter, len(row.tokens)) for row in rows], lengths
    )
    meter.add("generate", texts=len(rows) * samples, flops=work, **counter)
    if stats is not None:
        stats.update({name: stats.get(name, 0) + value for name, value in counter.items()})
    nested: list[list[Any]] = [[] for _ in lists]
    for row, result in zip(rows, results, strict=True):
        values = result if return_details else [generation.text for generation in result]
        nested[row.adapter].append(values[0] if num_samples is None else values)
    return nested[0] if adapters is None else nested


def row_bytes(
    config: ModelConfig, length: int, samples: int, max_new_tokens: int, itemsize: int, where: sharding.Mesh | None
) -> int:
    """Estimates what one prompt of `length` tokens in a wave, with all its samples, takes on a device, bytes."""
    tensor = 1 if where is None else where.shape["tensor"]
    heads = config.num_kv_heads // tensor if config.num_kv_heads % tensor == 0 else config.num_kv_heads
    slot = 2 * config.num_layers * heads * config.head_dim * itemsize
    cache = 2 * slot * (length + batching.bucket(max_new_tokens, batching.LENGTH_GRANULE))  # two: while it grows
    return samples * (cache + 24 * config.vocab_size) + batching.prefill_bytes(config, length, itemsize)


def _keys(rows: Sequence[batching.Row], ids: list[list[Any]] | None, seed: int, samples: int) -> np.ndarray:
    """Returns the key of every sample, `[rows, samples, 2]` words."""
    keys = np.zeros((len(rows), samples, 2), np.uint32)
    seen: dict[Any, int] = collections.Counter()
    for i, row in enumerate(rows):
        name = f"tokens {row.tokens}" if ids is None else f"id {ids[row.adapter][row.index]}"
        for s in range(samples):
            digest = hashlib.sha256(f"sample {seed} {seen[row.adapter, name] + s} {name}".encode()).digest()
            keys[i, s] = np.frombuffer(digest[:8], "<u4")
        seen[row.adapter, name] += samples
    return keys


def _run(
    model: Any, adapters: Adapters | None, wave: batching.Wave, call: _Call, counter: collections.Counter
) -> Iterator[tuple[int, list[Generation]]]:
    """Runs one wave; yields the index of each of its rows with the row's samples."""
    config, samples, max_new_tokens = model.config, call.samples, call.max_new_tokens
    tokens, lengths = batching.padded_tokens(wave, [row.tokens for row in call.rows])
    adapter_axis, prompt_axis, width = tokens.shape
    shape = (adapter_axis, prompt_axis * samples)
    fields = {}
    for name, values in call.choices.items():
        field = np.zeros((adapter_axis, prompt_axis, *values.shape[1:]), values.dtype)
        for k, r, index in wave.places():
            field[k, r] = values[index]
        fields[name] = field.reshape(*shape, *values.shape[2:])
    choice = Choice(**fields)
    indices = [index for _, _, index in wave.places()]
    mode = "plain" if call.choices["temperature"][indices].any() else "greedy"
    if mode == "plain" and ((call.choices["top_p"][indices] < 1).any() or call.choices["top_k"][indices].any()):
        mode = "filtered"

    lora = batching.wave_lora(adapters, wave, sharding.shards(model.mesh))
    room = _slots(width, 1, max_new_tokens)
    started = time.perf_counter()
    state, (first, logprob) = _start(model.params, lora, tokens, lengths, choice, config, samples, room, mode)
    written, logprobs = [np.asarray(first)[None]], [np.asarray(logprob)[None]]
    texts = _Texts(model, call.stop, wave, samples)
    counter.update(prefill_tokens=tokens.size, prefill_seconds=time.perf_counter() - started, decode_tokens=first.size)
    count = 1
    while True:
        done = texts.update(written[-1])
        if done.all() or count == max_new_tokens:
            break
        if width + count >= room:
            room = _slots(width, count + 1, max_new_tokens)
            state = state.replace(cache=_grow(state.cache, room))
        # Texts that end at a stop string are often short, so the host looks early, then less and less often.
        steps = min(CHUNK, max(8, count)) if call.stop else CHUNK
        until = min(count + steps, max_new_tokens, room - width + 1)
        state, chunk = _extend(model.params, lora, state.replace(done=done.reshape(shape)), choice, until, config, mode)
        steps = int(state.step) - count
        written.append(np.asarray(chunk[0])[:steps])
        logprobs.append(np.asarray(chunk[1])[:steps])
        counter.update(decode_tokens=steps * first.size)
        count += steps
    everything = np.concatenate(logprobs).reshape(count, adapter_axis, prompt_axis, samples)
    for k, r, index in wave.places():
        yield index, [texts.result(k, r, s, everything[:, k, r, s]) for s in range(samples)]


def _slots(width: int, count: int, max_new_tokens: int) -> int:
    """Returns how many cache slots to have for `count` tokens after a prompt of `width` slots.

    The cache doubles the room for new tokens as it fills: attention costs as much as there are slots.
    The last token written never enters the cache.
    """
    room = 4 * CHUNK
    while room < count:
        room *= 2
    return width + min(room, batching.bucket(max_new_tokens - 1, batching.LENGTH_GRANULE))


class _Texts:
    """The host's view of a wave: the tokens of each sample so far, and whether it has ended."""

    def __init__(self, model: Any, stop: Sequence[str], wave: batching.Wave, samples: int):
        self.tokenizer = model.tokenizer
        self.ends, self.stop = set(model.config.eos_token_ids), []
        for string in stop:
            # Special tokens are no part of the text, so as stop strings they are looked for as tokens.
            if string in self.tokenizer.all_special_tokens:
                self.ends.add(self.tokenizer.convert_tokens_to_ids(string))
            else:
                self.stop.append(string)
        places = [(k, r, s) for k, r, _ in wave.places() for s in range(samples)]
        self.tokens: dict[tuple[int, int, int], list[int]] = {place: [] for place in places}
        self.finish: dict[tuple[int, int, int], str] = {}
        self.cut: dict[tuple[int, int, int], str] = {}
        self.shape = (*wave.shape, samples)

    def update(self, written: np.ndarray) -> np.ndarray:
        """Takes the tokens of a chunk, `[steps, K, R]`, and returns which samples have ended, `[K, P, M]`."""
        columns = written.reshape(len(written), *self.shape)
        done = np.ones(self.shape, bool)
        for place, tokens in self.tokens.items():
            if place in self.finish:
                continue
            before = len(tokens)
            for token in columns[(slice(None), *place)].tolist():
                if token == INVALID:
                    self.finish[place] = "invalid"
                    break
                tokens.append(token)
                if token in self.ends:
                    self.finish[place] = "stop"
                    break
            if self.stop:
                self._find_stop(place, before)
            done[place] = place in self.finish
        return done

    def _find_stop(self, place, before):
        tokens = self.tokens[place]

        def first_stop(end):
            text = self._decode(tokens[:end])
            found = [at for string in self.stop if (at := text.find(string)) >= 0]
            return text[: min(found)] if found else None

        if first_stop(len(tokens)) is None:
            return
        ends = range(before + 1, len(tokens) + 1)
        end = ends[bisect.bisect_left(ends, True, key=lambda end: first_stop(end) is not None)]
        self.tokens[place], self.finish[place], self.cut[place] = tokens[:end], "stop", first_stop(end)

    def _decode(self, tokens):
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def result(self, k: int, r: int, s: int, logprobs: np.ndarray) -> Generation:
        """Returns one sample, given the log-probabilities of its column."""
        place = (k, r, s)
        tokens = self.tokens[place]
        text = self.cut.get(place)
        if text is None:
            text = self._decode(tokens) if self.tokenizer is not None else ""
        return Generation(text, tuple(tokens), logprobs[: len(tokens)], self.finish.get(place, "length"))


@functools.partial(jax.jit, static_argnames=("config", "samples", "room", "mode"))
def _start(
    params: decoder.Params,
    lora: Lora | None,
    tokens: Array,
    lengths: Array,
    choice: Choice,
    config: ModelConfig,
    samples: int,
    room: int,
    mode: str,
) -> tuple[State, tuple[Array, Array]]:
    """Prefills prompts `[K, P, T]`, gives each its samples (R = P * samples) and samples their first token."""
    hidden, cache = decoder.prefill(params, config, tokens, lengths, lora=lora)
    cache = cache.repeat(samples).grow(room).laid_out()
    # One row of logits serves all samples of a prompt.
    logits = jnp.repeat(decoder.logits(params, config, hidden), samples, axis=1)
    lengths = jnp.repeat(lengths, samples, axis=1)
    token, logprob = choose(logits, choice, jnp.int32(0), mode)
    state = State(
        cache=cache,
        tokens=token,
        positions=lengths,
        slot=jnp.int32(tokens.shape[-1]),
        step=jnp.int32(1),
        done=_ended(token, config) | (lengths == 0),
    )
    return state, sharding.whole((token, logprob))


@functools.partial(jax.jit, static_argnames=("config", "mode"), donate_argnames=("state",))
def _extend(
    params: decoder.Params,
    lora: Lora | None,
    state: State,
    choice: Choice,
    until: Array,
    config: ModelConfig,
    mode: str,
) -> tuple[State, tuple[Array, Array]]:
    """Writes tokens until `until` are written or all rows are done; returns those of each step, `[CHUNK, K, R]`."""
    layers = decoder.layer_inputs(config, params, lora)
    start = state.step
    out = (
        jnp.zeros((CHUNK, *state.tokens.shape), jnp.int32),
        jnp.zeros((CHUNK, *state.tokens.shape), jnp.float32),
    )

    def more(carry):
        state, _ = carry
        return (state.step < until) & ~jnp.all(state.done)

    def body(carry):
        state, out = carry
        hidden, cache = decoder.decode(
            params, config, layers, jnp.maximum(state.tokens, 0), state.positions, state.cache, state.slot
        )
        token, logprob = choose(decoder.logits(params, config, hidden), choice, state.step, mode)
        out = jax.tree.map(lambda rows, row: rows.at[state.step - start].set(row), out, (token, logprob))
        state = State(
            cache=cache,
            tokens=token,
            positions=state.positions + 1,
            slot=state.slot + 1,
            step=state.step + 1,
            done=state.done | _ended(token, config),
        )
        return state, out

    state, out = jax.lax.while_loop(more, body, (state, out))
    return state.replace(cache=state.cache.laid_out(), step=sharding.whole(state.step)), sharding.whole(out)


@functools.partial(jax.jit, static_argnames=("room",))
def _grow(cache: decoder.Cache, room: int) -> decoder.Cache:
    return cache.grow(room).laid_out()


def _ended(token: Array, config: ModelConfig) -> Array:
    ended = token == INVALID
    for eos in config.eos_token_ids:
        ended |= token == eos
    return ended
