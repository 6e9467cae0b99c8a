"""Scoring: the log-probability of given targets after given prompts, for many adapters at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine import flops, memory
from selfadapt.engine.generate import batching
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora
from selfadapt.models.model import check_base
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter

Array = jax.Array

LOGITS_BYTES = 64 << 20  # of logits held at once


def log_likelihood(
    model: Any,
    prompts: Sequence[Any],
    targets: Sequence[Any],
    *,
    adapters: Adapters | None = None,
    normalize: bool = False,
    memory_bytes: int | None = None,
) -> Any:
    """Returns how probable each target is as the continuation of its prompt.

    Prompt and target are tokenised apart, the prompt with the tokenizer's special tokens and the target
    without, and joined as ids; a target that begins a new word brings its own leading space.

    Args:
      model: the model.
      prompts: strings or token ids, as for `generate`: a flat list; with K adapters K lists or one that
        all share.
      targets: one for each prompt, in the same structure.
      adapters: a stack of K adapters, or `None` for the base model.
      normalize: give the mean over the target's tokens instead of the sum.
      memory_bytes: memory for one batch; by default what the device has free.

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
    itemsize = jnp.dtype(model.params["embed_tokens"].dtype).itemsize
    waves = batching.plan_waves(
        [head.adapter for head in heads],
        [len(joined) for joined in tokens],
        lambda length: batching.prefill_bytes(config, length, itemsize),
        int(memory.SHARE * memory.available_bytes()) if memory_bytes is None else memory_bytes,
        sharding.shards(model.mesh),
        1 if adapters is None else len(adapters.lora.scale),
    )
    scores, padded = np.zeros(len(heads), np.float32), 0
    for wave in waves:
        rows, _ = batching.padded_tokens(wave, tokens)
        padded += rows.size
        width = batching.bucket(max(len(tails[index].tokens) for _, _, index in wave.places()), granule=4)
        start, length = np.ones(wave.shape, np.int32), np.zeros(wave.shape, np.int32)
        for k, r, index in wave.places():
            start[k, r], length[k, r] = len(heads[index].tokens), len(tails[index].tokens)
        with sharding.using(model.mesh):
            lora = batching.wave_lora(adapters, wave, sharding.shards(model.mesh))
            values = np.asarray(_score(model.params, lora, rows, start, length, config, width))
        for k, r, index in wave.places():
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


@functools.partial(jax.jit, static_argnames=("config", "width"))
def _score(
    params: decoder.Params,
    lora: Lora | None,
    tokens: Array,
    start: Array,
    length: Array,
    config: ModelConfig,
    width: int,
) -> Array:
    """Sums the log-probabilities of `length` tokens from place `start` of each row of `[K, R, T]`."""
    hidden = decoder.forward(params, config, tokens, lora=lora)
    places = jnp.minimum(start[..., None] + jnp.arange(width), tokens.shape[-1] - 1)  # [K, R, W]
    wanted = jnp.take_along_axis(tokens, places, axis=-1)
    hidden = jnp.take_along_axis(hidden, places[..., None] - 1, axis=2)

    def one(position):
        states, tokens = position  # one of each shard
        logits = decoder.logits(params, config, states)
        gold = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return gold - jax.nn.logsumexp(logits, axis=-1)

    # Blocks of positions, so that the logits of all rows never stand in memory together.
    shards = sharding.current_shards()
    block = max(1, min(wanted.size // shards, LOGITS_BYTES // (8 * config.vocab_size)))
    flat = hidden.reshape(shards, -1, hidden.shape[-1]).swapaxes(0, 1), wanted.reshape(shards, -1).swapaxes(0, 1)
    logprobs = jax.lax.map(one, flat, batch_size=block).swapaxes(0, 1).reshape(wanted.shape)
    return sharding.whole(jnp.sum(jnp.where(jnp.arange(width) < length[..., None], logprobs, 0.0), axis=-1))
