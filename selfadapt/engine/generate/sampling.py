"""`generate`: many prompts, each with its own adapter, temperature and random key, in one program.

The host divides the prompts into chunks (`schedule`), runs the device programs (`selfadapt.engine.generate.programs`)
and between them looks for stop strings and decides what changes in the batch (`selfadapt.engine.generate.batch`).

A random number belongs to a sample and not to a position in a batch: the key of a row is a hash of (seed, prompt id,
sample index), and each step folds in the number of tokens written so far.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from selfadapt import allocator
from selfadapt.engine import flops, memory, runtime
from selfadapt.engine.generate import batching, programs
from selfadapt.engine.generate.batch import Batch
from selfadapt.engine.generate.choose import Choice, sampling_mode
from selfadapt.engine.generate.live import NOWHERE
from selfadapt.engine.generate.texts import Generation, Texts
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model, check_base
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter

RESERVED = 512  # tokens of a text that a chunk has memory for at first; most texts are shorter than `max_new_tokens`
# Texts of each chunk where two run side by side on a CPU: fewer would read the weights for little work, twice.
ROWS_OF_STREAM = 32
LOGITS_BYTES = 24  # of a row's logits and what sampling makes of them, for each entry of the vocabulary


@dataclasses.dataclass(frozen=True)
class _Call:
    """What all chunks of one `generate` have in common.

    Attributes:
      rows: every prompt.
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

    def of(self, texts: Sequence[tuple[int, int]]) -> _Call:
        """Returns a call of some samples, (prompt, sample), each as a prompt with one sample."""
        prompts, samples = np.asarray(texts).T
        choices = {name: values[prompts, samples][:, None] for name, values in self.choices.items()}
        return dataclasses.replace(self, rows=[self.rows[prompt] for prompt in prompts], choices=choices, samples=1)


def generate(
    model: Model,
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
    """Continues prompts, each with its own adapter, in as few device batches as memory allows.

    The same (seed, prompt id, sample index) gives the same tokens, independent of what else is in the call (in
    float32 on CPU, except at ties in floating point).

    Args:
      model: the model.
      prompts: strings (tokenised with special tokens) or sequences of token ids, in one flat list. With a
        stack of K adapters either K such lists (of any lengths, also empty), or one flat list that every
        adapter continues.
      adapters: a stack of K adapters, or `None` for the base model.
      max_new_tokens: the most tokens to write.
      temperature: divides the logits; 0 takes the most probable token. A number, or one for each prompt in
        the structure of `prompts`; likewise for `top_p` and `top_k`.
      top_p: keep the smallest set of most probable tokens whose mass is at least this (tokens as probable
        as the last one stay too); 1 keeps all. It acts after `temperature` and `top_k`.
      top_k: keep this many most probable tokens; 0 keeps all.
      stop: strings that end a text; the text is cut before them.
      seed: seeds all sampling of the call.
      num_samples: samples of each prompt, which is prefilled once for all of them.
      ids: identities of the prompts for the random keys (strings or numbers, in the structure of
        `prompts`); by default the token ids themselves. Prompts of one id in one list take successive
        sample indices. The adapter is not part of a key: adapters that share a prompt share its keys.
      return_details: return `Generation`s instead of texts.
      memory_bytes: memory on each device for the prompts that run at once (cache, activations and logits); by
        default what the device has free. Further prompts wait for the places of texts that end, or run in other chunks.
      stats: a dictionary to add this call's counts to: `prompt_tokens`, `prefill_tokens` (device tokens,
        padding included), `prefill_seconds`, `new_tokens`, `decode_tokens` (padding included), `chunks`
        (parts of the call; on a CPU two run side by side), `filled` (samples that took the places of others that had
        ended), `restarted` (samples that were preempted for want of memory and written again), `seconds`.

    Returns:
      A list with one text (or `Generation`) for each prompt; with adapters, one such list for each
      adapter. If `num_samples` is given, each text becomes a list of `num_samples` texts.

    Raises:
      ValueError: an option is out of range, a prompt has no tokens, or a prompt and `max_new_tokens` exceed
        the model's positions.
    """
    started = time.perf_counter()
    allocator.keep()
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
    whole = call = _Call(rows, choices, samples, max_new_tokens, stop)

    if adapters is not None:
        adapters = adapters.on(model.mesh)
    budget, copies = memory.batch_bytes(memory_bytes), layer_copies(model)
    counter: dict[str, float] = collections.Counter(filled=0, restarted=0)
    texts = [(prompt, sample) for prompt in range(len(rows)) for sample in range(samples)]
    found: dict[tuple[int, int], Generation] = {}
    stopped = threading.Event()
    with sharding.using(model.mesh):
        for reserved in reservations(max_new_tokens):
            chunks = schedule(
                model,
                [row.adapter for row in call.rows],
                [len(row.tokens) for row in call.rows],
                samples=call.samples,
                max_new_tokens=reserved,
                stack=1 if adapters is None else len(adapters.lora.scale),
                memory_bytes=budget,
            )
            counter.update(chunks=len(chunks))
            streams = parallel_streams(model, len(texts))
            limit = budget // streams - copies if reserved < max_new_tokens else None
            jobs = [functools.partial(_run, model, adapters, chunk, call, limit, stopped.is_set) for chunk in chunks]
            for generations, counts in runtime.side_by_side(jobs, streams, stopped.set):
                found.update({texts[index]: generation for index, generation in generations})
                counter.update(counts)
            texts = [text for text in texts if text not in found]
            if not texts:
                break
            call = whole.of(texts)
    results = [[found[prompt, sample] for sample in range(samples)] for prompt in range(len(rows))]

    allocator.return_kept()
    counter.update(prompt_tokens=sum(len(row.tokens) for row in rows))
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


def reservations(max_new_tokens: int) -> Iterator[int]:
    """Yields how many tokens of each text memory is reserved for, at first and each time that texts start again."""
    reserved = RESERVED
    while reserved < max_new_tokens:
        yield reserved
        reserved *= 2
    yield max_new_tokens


def schedule(
    model: Model,
    owners: Sequence[int],
    lengths: Sequence[int],
    *,
    samples: int,
    max_new_tokens: int,
    stack: int = 1,
    memory_bytes: int | None = None,
) -> list[batching.Chunk]:
    """Returns the chunks of prompts that `generate` runs, `parallel_streams` at a time.

    Args:
      model: the model, of which only architecture, dtype and mesh are used.
      owners: the adapter of each prompt, 0 without adapters.
      lengths: the tokens of each prompt.
      samples: samples of each prompt.
      max_new_tokens: tokens of each text that memory is reserved for.
      stack: adapters in the stack, a mesh's padding included; 1 without adapters.
      memory_bytes: memory on each device for the chunks that run at once; by default what a device has free.
    """
    config, slot = model.config, slot_bytes(model)
    new = batching.padded_size(max_new_tokens, batching.LENGTH_GRANULE)

    def prompt_bytes(length: int) -> int:  # of a prompt with all its samples, roughly
        cache = 2 * slot * (length + new)  # two: while it grows
        prefill = batching.prefill_bytes(config, length, model.dtype.itemsize)
        return samples * (cache + LOGITS_BYTES * config.vocab_size) + prefill

    streams = parallel_streams(model, len(lengths) * samples)
    return batching.plan_chunks(
        owners,
        lengths,
        prompt_bytes,
        memory.batch_bytes(memory_bytes) // streams - layer_copies(model),
        sharding.num_shards(model.mesh),
        stack,
        waiting=True,
        parts=lambda prompts: max(1, min(streams, prompts, prompts * samples // ROWS_OF_STREAM)),
    )


def parallel_streams(model: Model, texts: int) -> int:
    """Returns how many chunks of a call with this many texts run side by side."""
    return runtime.parallel_streams(model.mesh) if texts >= 2 * ROWS_OF_STREAM else 1


def rows_beside(model: Model, memory_bytes: int, batch: Batch, slots: int) -> int:
    """Returns how many rows of a shard memory allows in a cache of some slots, while it is copied from that of a batch.

    Args:
      model: the model, as for `schedule`.
      memory_bytes: memory for the batch on each device.
      batch: the batch.
      slots: the slots of the new cache.
    """
    each = slot_bytes(model)
    kept = batch.live.places.size // batch.live.shards * batch.slots * each
    return (memory_bytes - kept) // (slots * each + LOGITS_BYTES * model.config.vocab_size)


def layer_copies(model: Model) -> int:
    """Returns the bytes on each device of the weights that programs hold a second time while they write texts."""
    return sharding.device_bytes(decoder.copied_layers(model.params, model.config, model.mesh))


def slot_bytes(model: Model) -> int:
    """Returns the bytes of a token's keys and values, on each of the devices that divide the heads."""
    config = model.config
    tensor = 1 if model.mesh is None else model.mesh.shape["tensor"]
    heads = config.num_kv_heads // tensor if config.num_kv_heads % tensor == 0 else config.num_kv_heads
    return 2 * config.num_layers * heads * config.head_dim * model.dtype.itemsize


def _keys(rows: Sequence[batching.Row], ids: list[list[Any]] | None, seed: int, samples: int) -> np.ndarray:
    """Returns the key of every sample, `[rows, samples, 2]` words."""
    keys = np.zeros((len(rows), samples, 2), np.uint32)
    seen: dict[Any, int] = collections.Counter()
    for i, row in enumerate(rows):
        name = f"tokens {row.tokens}" if ids is None else f"id {ids[row.adapter][row.index]}"
        keys[i] = sample_keys(name, seed, samples, first=seen[row.adapter, name])
        seen[row.adapter, name] += samples
    return keys


def sample_keys(name: str, seed: int, samples: int, first: int = 0) -> np.ndarray:
    """Returns the keys of a prompt's samples, the two words of each, `[samples, 2]`.

    Args:
      name: "id " and the prompt's id, or "tokens " and its token ids.
      seed: the seed of the call.
      samples: how many.
      first: the index of the first.
    """
    keys = np.zeros((samples, 2), np.uint32)
    for s in range(samples):
        digest = hashlib.sha256(f"sample {seed} {first + s} {name}".encode()).digest()
        keys[s] = np.frombuffer(digest[:8], "<u4")
    return keys


def _run(
    model: Model,
    adapters: Adapters | None,
    chunk: batching.Chunk,
    call: _Call,
    limit: int | None,
    stopped: Callable[[], bool],
) -> tuple[list[tuple[int, Generation]], dict[str, float]]:
    """Runs one chunk.

    Args:
      model: the model.
      adapters: the stack, or `None`.
      chunk: the chunk.
      call: what it is a part of.
      limit: samples are preempted, and not returned, where a grown cache would exceed this many bytes.
      stopped: whether to give up.

    Returns:
      The index of each sample of the call, counted over all prompts, with its text, and counts for `stats`.
    """
    config, samples, shards = model.config, call.samples, sharding.num_shards(model.mesh)
    width = batching.padded_length(chunk, [len(row.tokens) for row in call.rows])
    options = {name: values[chunk.indices] for name, values in call.choices.items()}
    mode = "greedy"
    if options["temperature"].any():
        mode = sampling_mode(top_k=options["top_k"].any(), top_p=(options["top_p"] < 1).any())
    most = None if limit is None else functools.partial(rows_beside, model, limit)
    shape = (chunk.shape[0], chunk.shape[1] * samples)
    batch = Batch(shape, samples, len(chunk.waiting), width, call.max_new_tokens, shards, most)
    prompts = np.full(batch.rows // samples, NOWHERE)  # the index of each of the batch's prompts
    for k, r, index in chunk.places():
        prompts[k * chunk.shape[1] + r] = index
    prompts[math.prod(chunk.shape) :] = chunk.waiting
    texts = Texts(model, call.stop, call.max_new_tokens, np.repeat(prompts != NOWHERE, samples))
    by_row = {name: values[prompts].reshape(batch.rows, *values.shape[2:]) for name, values in call.choices.items()}
    lora = batching.chunk_lora(adapters, chunk, shards)

    def choice(rows: np.ndarray) -> Choice:  # of another row where there is none
        return Choice(**{name: values[rows] for name, values in by_row.items()})

    def start(chosen: np.ndarray) -> programs.DecodeState:
        """Reads some of the batch's prompts, `[K, P]`, and adds their first tokens to the texts."""
        tokens, lengths = np.zeros((*chosen.shape, width), np.int32), np.zeros(chosen.shape, np.int32)
        for place, number in np.ndenumerate(chosen):
            if number != NOWHERE and prompts[number] != NOWHERE:
                row = call.rows[prompts[number]].tokens
                tokens[place][: len(row)], lengths[place] = row, len(row)
        rows = batch.rows_of(chosen)
        own = choice(rows.reshape(len(chosen), -1))
        started = time.perf_counter()
        state, first = programs.start(model.params, lora, tokens, lengths, own, config, samples, batch.slots, mode)
        texts.add(rows, *(np.asarray(each).reshape(1, -1) for each in first))
        seconds = time.perf_counter() - started
        counter.update(prefill_tokens=tokens.size, prefill_seconds=seconds, decode_tokens=rows.size)
        return state

    counter: dict[str, float] = collections.Counter()
    state = start(np.arange(math.prod(chunk.shape)).reshape(chunk.shape))
    preempted = np.zeros(batch.rows, bool)
    while not stopped():
        while (filling := batch.filled(texts.done | preempted)) is not None:
            state = programs.fill(state, start(filling.prompts.reshape(1, -1)), filling.places)
            counter.update(filled=int((filling.prompts != NOWHERE).sum()) * samples)
        if batch.live.here(done := texts.done | preempted).all():
            break  # prompts that still wait do not fit into the places that are left
        room = batch.room(done, texts.counts)
        preempted |= room.preempted
        done |= preempted
        if batch.live.here(done).all():
            continue
        if (smaller := room.compaction) is not None:
            state = programs.compact(state, smaller.rows, smaller.sent, len(smaller.live.places), batch.slots)
            if lora is not None and smaller.adapters is not None:
                lora = batching.take_by_shard(lora, smaller.adapters)
        elif room.grows:
            state = state.replace(cache=programs.grow(state.cache, batch.slots))
        # Texts that end at a stop string are often short, so the host looks early, then less and less often.
        early = max(8, texts.counts.max()) if call.stop else programs.DECODE_STEPS
        steps = batch.steps(done, texts.counts, min(early, programs.DECODE_STEPS))
        state, own = state.replace(done=batch.live.here(done)), choice(batch.live.places)
        numbers = np.int32(batch.slot), np.int32(steps)
        state, written, taken = programs.extend(model.params, lora, state, own, *numbers, config, mode)
        steps = int(taken)
        rows = np.where(batch.live.here(done), NOWHERE, batch.live.places)
        texts.add(rows.ravel(), *(np.asarray(each)[:steps].reshape(steps, -1) for each in written))
        counter.update(decode_tokens=steps * rows.size)
        batch.advance(steps)
    counter.update(restarted=int(preempted.sum()))
    ended = [divmod(int(row), samples) for row in np.flatnonzero(texts.done & ~preempted)]
    results = [
        (int(prompts[prompt]) * samples + sample, texts.result(prompt * samples + sample))
        for prompt, sample in ended
        if prompts[prompt] != NOWHERE
    ]
    return results, counter
