"""`sample`: several texts after each of many prompts, in one loop on the device."""

from __future__ import annotations

from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine.generate import programs
from selfadapt.engine.generate import sampling as engine
from selfadapt.engine.generate.choose import INVALID, Choice, sampling_mode
from selfadapt.errors import InvalidValueError
from selfadapt.functional.arrays import valid
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora

Array = jax.Array


@flax.struct.dataclass
class Sampled:
    """S texts of each of C contexts, of at most N tokens.

    Attributes:
      tokens: token ids, an end-of-sequence token included, 0 after the end, `[C, S, N]`.
      lengths: the number of tokens of each text, `[C, S]`.
      logprobs: the log-probability of each token at temperature 1 in nats, 0 after the end, `[C, S, N]`.
    """

    tokens: Array
    lengths: Array
    logprobs: Array


def sample(
    params: decoder.Params,
    config: ModelConfig,
    prompts: Array,
    lengths: Array,
    keys: Array,
    *,
    new_tokens: int,
    lora: Lora | None = None,
    temperature: Array | float = 1.0,
    top_p: Array | float | None = None,
    top_k: Array | int | None = None,
) -> Sampled:
    """Samples texts; with equal keys they are those of `selfadapt.generate`.

    Not for `vmap`: the prompts are the batch (docs/architecture.md, "Programs").

    Args:
      params: the base parameters.
      config: the architecture.
      prompts: token ids, right-padded, `[C, T]`.
      lengths: the tokens of each prompt, `[C]`; one without any has no texts.
      keys: the random key of each text as two uint32 words, `[C, S, 2]`: those of `sample_keys`, or
        `jax.random.key_data` of keys of your own.
      new_tokens: N, the most tokens of a text.
      lora: one adapter that all prompts share, or one for each; `None` for the base model.
      temperature: divides the logits, 0 is greedy; a number, or `[C]`, as for the next two.
      top_p: the least probability mass that is kept; `None` keeps all.
      top_k: how many tokens are kept; `None` keeps all.

    Raises:
      InvalidValueError: a prompt and its text could exceed the model's positions, or `lora` has another number of
        adapters.
    """
    contexts, time = prompts.shape
    samples = keys.shape[1]
    if new_tokens < 1 or time + new_tokens > config.max_position_embeddings:
        raise InvalidValueError(
            f"new_tokens is {new_tokens} and the prompts have {time} tokens with their padding; a text has at least "
            f"one token, and both together at most {config.max_position_embeddings}, the model's positions"
        )
    adapters = 1 if lora is None else len(lora.scale)
    if adapters not in (1, contexts):
        raise InvalidValueError(f"lora has {adapters} adapters for {contexts} prompts; give one, or one for each")
    shape = (adapters, contexts // adapters)  # adapters, and the prompts of each
    rows = (shape[0], shape[1] * samples)

    def option(value, dtype):
        value = jnp.asarray(value, dtype)
        return jnp.broadcast_to(value[..., None] if value.ndim else value, (contexts, samples)).reshape(rows)

    choice = Choice(
        keys=keys.reshape(*rows, 2),
        temperature=option(temperature, jnp.float32),
        top_p=option(1.0 if top_p is None else top_p, jnp.float32),
        top_k=option(0 if top_k is None else top_k, jnp.int32),
    )
    mode = sampling_mode(top_k=top_k is not None, top_p=top_p is not None)
    slots = time + new_tokens - 1  # the last token never enters the cache
    state, first = programs.start(
        params, lora, prompts.reshape(*shape, time), lengths.reshape(shape), choice, config, samples, slots, mode
    )
    written = [jax.tree.map(lambda leaf: leaf[None], first)]
    if new_tokens > 1:
        numbers = jnp.int32(time), jnp.int32(new_tokens - 1)  # the slot of the first token, and how many follow it
        _, more, _ = programs.extend(params, lora, state, choice, *numbers, config, mode, most=new_tokens - 1)
        written.append(more)

    def joined(*parts):  # [N, *rows] to [C, S, N]
        return jnp.moveaxis(jnp.concatenate(parts).reshape(new_tokens, contexts, samples), 0, -1)

    tokens, logprobs = jax.tree.map(joined, *written)
    ended = programs.ended(tokens, config)
    end = jnp.argmax(ended, axis=-1)
    counts = jnp.where(jnp.take_along_axis(tokens, end[..., None], axis=-1)[..., 0] == INVALID, end, end + 1)
    counts = jnp.where(ended.any(axis=-1), counts, new_tokens) * (lengths > 0)[:, None]
    kept = valid(counts, new_tokens)
    return Sampled(jnp.where(kept, tokens, 0), counts, jnp.where(kept, logprobs, 0.0))


def sample_keys(ids: Sequence[str], seed: int, samples: int) -> np.ndarray:
    """Returns the keys that `selfadapt.generate` samples with after prompts with these ids, `[ids, samples, 2]`.

    Args:
      ids: the prompts' ids, all different. Those of `selfadapt.loop` are "edit VERSION TASK", of the policy's version
        and the task's id.
      seed: the seed.
      samples: samples of each prompt.
    """
    return np.stack([engine.sample_keys(f"id {each}", seed, samples) for each in ids])
