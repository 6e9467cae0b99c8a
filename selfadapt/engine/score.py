"""Scoring: the log-probability of given targets after given prompts, for many adapters at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine import flops, memory, runtime
from selfadapt.engine.generate import batching
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder, reductions
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora
from selfadapt.models.model import Model, check_base
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter

Array = jax.Array

LOGITS_BYTES = 64 << 20  # logits held at once by `sum_logprobs`


def log_likelihood(
    model: Model,
    prompts: Sequence[Any],
    targets: Sequence[Any],
    *,
    adapters: Adapters | None = None,
    normalize: bool = False,
    memory_bytes: int | None = None,
) -> Any:
    """Returns the log-probability of each target as the continuation of its prompt.

    Prompt and target are tokenised separately, the prompt with the tokenizer's special tokens and the target
    without, and joined as ids; a target that begins a new word brings its own leading space.

    Args:
      model: the model.
      prompts: strings or token ids, as for `generate`: a flat list; with K adapters K lists or one that
        all share.
      targets: one for each prompt, in the same structure.
      adapters: a stack of K adapters, or `None` for the base model.
      normalize: return the mean over the target's tokens instead of the sum.
      memory_bytes: memory on each device for one chunk of the rows; by default what the device has free.

    Returns:
      Log-probabilities in nats, float32, `[prompts]`; with adapters a list of one such array for each. NaN
      where the adapter's logits are not finite.

    Raises:
      ValueError: prompts and targets differ in structure, one of them has no tokens, or together they
        exceed the model's positions.
    """
    started = time.perf_counter()
    config = model.config
    if adapters is not None:
        check_base(config, adapters)
        adapters = adapters.on(model.mesh)
    before = batching.nest(prompts, adapters, "prompts")
    after = batching.nest(targets, adapters, "targets")
    for k, (questions, answers) in enumerate(zip(before, after, strict=True)):
        if len(questions) != len(answers):
            place = "" if adapters is None else f" for adapter {k}"
            raise InvalidValueError(
                f"there are {len(questions)} prompts and {len(answers)} targets{place}; pair them up"
            )
    heads = batching.tokenize(model, before, adapters)
    tails = batching.tokenize(model, after, adapters, special=False, what="target")
    tokens = [head.tokens + tail.tokens for head, tail in zip(heads, tails, strict=True)]
    for head, joined in zip(heads, tokens, strict=True):
        if len(joined) > config.max_position_embeddings:
            raise InvalidValueError(
                f"{batching.where(adapters, head)} and its target have {len(joined)} tokens; "
                f"the model has {config.max_position_embeddings} positions"
            )
    chunks = schedule(
        model,
        [head.adapter for head in heads],
        [len(joined) for joined in tokens],
        stack=1 if adapters is None else len(adapters.lora.scale),
        memory_bytes=memory_bytes,
    )
    scores, padded = np.zeros(len(heads), np.float32), 0
    for chunk in chunks:
        rows = batching.padded_tokens(chunk, tokens)
        padded += rows.size
        width = target_width(max(len(tails[index].tokens) for _, _, index in chunk.places()))
        start, length = np.ones(chunk.shape, np.int32), np.zeros(chunk.shape, np.int32)
        for k, r, index in chunk.places():
            start[k, r], length[k, r] = len(heads[index].tokens), len(tails[index].tokens)
        with sharding.using(model.mesh):
            lora = batching.chunk_lora(adapters, chunk, sharding.num_shards(model.mesh))
            values = np.asarray(sum_logprobs(model.params, lora, rows, start, length, config, width))
        for k, r, index in chunk.places():
            scores[index] = values[k, r] / (length[k, r] if normalize else 1)
    specs = () if adapters is None else adapters.specs
    sizes = [(tail.adapter, len(joined), len(tail.tokens)) for joined, tail in zip(tokens, tails, strict=True)]
    meter.add(
        "log_likelihood",
        texts=len(tails),
        tokens=sum(map(len, tokens)),
        padded_tokens=padded,
        flops=flops.of_score(config, specs, sizes),
        seconds=time.perf_counter() - started,
    )
    lists = np.split(scores, np.cumsum([len(items) for items in before])[:-1])
    return lists[0] if adapters is None else lists


def schedule(
    model: Model, owners: Sequence[int], lengths: Sequence[int], *, stack: int = 1, memory_bytes: int | None = None
) -> list[batching.Chunk]:
    """Returns the chunks of rows that `log_likelihood` runs one after another.

    Args:
      model: the model, of which only architecture, dtype and mesh are used.
      owners: the adapter of each row (a prompt with its target), 0 without adapters.
      lengths: the tokens of each row.
      stack: adapters in the stack, a mesh's padding included; 1 without adapters.
      memory_bytes: memory for one chunk on each device; by default what a device has free.
    """
    return batching.plan_chunks(
        owners,
        lengths,
        lambda length: batching.prefill_bytes(model.config, length, model.dtype.itemsize),
        memory.batch_bytes(memory_bytes),
        sharding.num_shards(model.mesh),
        stack,
    )


def target_width(longest: int) -> int:
    """Returns the padded number of target tokens of a chunk whose longest target has `longest`."""
    return batching.padded_size(longest, granule=4)


@functools.partial(runtime.jit, static_argnames=("config", "width", "logits_bytes"))
def sum_logprobs(
    params: decoder.Params,
    lora: Lora | None,
    tokens: Array,
    start: Array,
    length: Array,
    config: ModelConfig,
    width: int,
    logits_bytes: int = LOGITS_BYTES,
) -> Array:
    """Sums the log-probabilities of each row's target tokens, in float32; the program of `log_likelihood`.

    Args:
      params: the base parameters.
      lora: K adapters, or `None` (K is 1).
      tokens: prompts with their targets, right-padded, `[K, R, T]`.
      start: the index of each row's first target token, at least 1, `[K, R]`.
      length: the number of its target tokens, `[K, R]`; 0 where a row is padding.
      config: the architecture.
      width: at least the largest length (`target_width`).
      logits_bytes: the most bytes of logits that are in memory at once, on each device.

    Returns:
      The sums in nats, `[K, R]`.
    """

    def logprob(logits, tokens):
        gold = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return gold - reductions.logsumexp(logits)

    logprobs = over_targets(logprob, params, lora, tokens, start, config, width, logits_bytes)
    return sharding.replicate(jnp.sum(jnp.where(jnp.arange(width) < length[..., None], logprobs, 0.0), axis=-1))


def over_targets(
    function: Callable[[Array, Array], Any],
    params: decoder.Params,
    lora: Lora | None,
    tokens: Array,
    start: Array,
    config: ModelConfig,
    width: int,
    logits_bytes: int = LOGITS_BYTES,
) -> Any:
    """Returns what a function makes of the logits before each target token, inside a program.

    Args:
      function: maps logits `[N, vocab]` and target tokens `[N]` to a pytree of arrays `[N]`.
      params: the base parameters.
      lora: K adapters, or `None` (K is 1).
      tokens: prompts with their targets, right-padded, `[K, R, T]`.
      start: the index of each row's first target token, at least 1, `[K, R]`.
      config: the architecture.
      width: tokens of each row, from `start`; those past the row's end repeat its last one.
      logits_bytes: as for `sum_logprobs`.

    Returns:
      The function's pytree, with arrays `[K, R, width]`.
    """
    hidden = decoder.forward(params, config, tokens, lora=lora)
    places = jnp.minimum(start[..., None] + jnp.arange(width), tokens.shape[-1] - 1)  # [K, R, W]
    wanted = jnp.take_along_axis(tokens, places, axis=-1)
    hidden = jnp.take_along_axis(hidden, places[..., None] - 1, axis=2)

    def one(position):
        states, tokens = position  # one position of each shard
        return function(decoder.logits(params, config, states), tokens)

    # Blocks of positions, so that the logits of all rows are never in memory together.
    shards = sharding.current_num_shards()
    block = max(1, min(wanted.size // shards, logits_bytes // (8 * config.vocab_size)))
    flat = hidden.reshape(shards, -1, hidden.shape[-1]).swapaxes(0, 1), wanted.reshape(shards, -1).swapaxes(0, 1)
    found = jax.lax.map(one, flat, batch_size=block)
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(wanted.shape), found)


def lower(model: Model, lora: Lora | None, shape: tuple[int, int, int], width: int) -> jax.stages.Lowered:
    """Traces `sum_logprobs` for a model whose parameters, and adapters, may be abstract arrays.

    Args:
      model: the model; on a mesh the program is divided over it.
      lora: the adapters of a chunk, `None` for the base model.
      shape: the chunk's padded adapters, rows for each and tokens of each row.
      width: padded target tokens (`target_width`).
    """
    tokens, row = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    with sharding.using(model.mesh):
        return sum_logprobs.lower(model.params, lora, tokens, row, row, model.config, width)
