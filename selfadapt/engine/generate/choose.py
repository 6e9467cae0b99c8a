"""How a row chooses its next token: greedy, or sampled after temperature, top-k and top-p."""

from __future__ import annotations

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import reductions
from selfadapt.parallel import sharding

Array = jax.Array

BITS_OF_ONE = 30  # of the float32 1, the largest probability
# Bits of a threshold, a divisor of those, that a pass over the probabilities finds with 2^bits - 1 sums. A pass costs
# memory traffic, and on a mesh a collective that adds up the parts of the vocabulary. On a CPU XLA has no vector code
# for several sums, and 1 is fastest.
ACCELERATOR_BITS = 3
INVALID = -1  # in place of a token: the logits were not finite


@flax.struct.dataclass
class Choice:
    """How each row chooses its tokens.

    Attributes:
      keys: the two words of each row's random key, `[K, R, 2]`, uint32.
      temperature: divides the logits, `[K, R]`; 0 is greedy.
      top_p: the least probability mass that is kept, `[K, R]`; 1 keeps all.
      top_k: how many tokens are kept, `[K, R]`; 0 keeps all.
    """

    keys: Array
    temperature: Array
    top_p: Array
    top_k: Array


def sampling_mode(*, top_k: bool, top_p: bool) -> str:
    """Returns the mode of `choose` for rows that sample, some of which use these filters."""
    return " ".join(name for name, used in {"top_k": top_k, "top_p": top_p}.items() if used) or "plain"


def choose(logits: Array, choice: Choice, step: Array, mode: str) -> tuple[Array, Array]:
    """Chooses the next token of each row.

    Sampling is an argmax of logits with Gumbel noise, each row's from its own key and the step.

    Args:
      logits: `[K, R, V]`, float32.
      choice: how each row chooses.
      step: tokens already written in each row, `[K, R]`.
      mode: "greedy" when every temperature is 0, "plain" when no row filters, otherwise the names of the filters
        that rows use (`sampling_mode`); the choice is the same, but only what is needed is compiled.

    Returns:
      Tokens `[K, R]`, `INVALID` where the logits are not finite, and their log-probabilities at temperature 1.
    """
    total = reductions.logsumexp(logits)
    scores = logits
    if mode != "greedy":
        cold = (choice.temperature == 0)[..., None]
        warm = logits / jnp.where(cold, 1.0, choice.temperature[..., None])
        if mode != "plain":
            used = mode.split()
            warm = filter_logits(
                warm, choice.top_p if "top_p" in used else None, choice.top_k if "top_k" in used else None
            )

        def noise(key, step):
            return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key), step), logits.shape[-1:])

        scores = jnp.where(cold, logits, warm + jax.vmap(jax.vmap(noise))(choice.keys, step))
    token = reductions.argmax(scores)
    logprob = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - total
    return jnp.where(jnp.isfinite(total), token, INVALID), logprob


def filter_logits(logits: Array, top_p: Array | None, top_k: Array | None) -> Array:
    """Sets logits `[..., V]` outside each row's top-k, and then outside its top-p, to minus infinity.

    No sorting: the least probability that is kept is found by a search over the bits of a float32, whose order is that
    of the numbers as long as they are not negative.

    Args:
      logits: the logits.
      top_p: the least probability mass that each row keeps, `[...]`, 1 for all; `None` if no row uses it.
      top_k: how many tokens each row keeps, `[...]`, 0 for all; `None` if no row uses it.
    """
    probabilities = reductions.softmax(logits)
    least, kept = jnp.float32(0), probabilities
    if top_k is not None:
        least = _threshold(probabilities, jnp.ones_like(probabilities), top_k.astype(jnp.float32), top_k > 0)
        kept = jnp.where(probabilities >= least, probabilities, 0.0)
    if top_p is not None:
        least = jnp.maximum(least, _threshold(kept, kept, top_p * kept.sum(axis=-1), top_p < 1))
    return jnp.where(probabilities >= least, logits, -jnp.inf)


def _threshold(probabilities: Array, weights: Array, target: Array, active: Array) -> Array:
    """Returns for each row, `[..., 1]`, the largest t such that the weights where p >= t sum to the target.

    0 where no t reaches the target, and where the row is not active.
    """
    bits = 1 if sharding.current_platform() == "cpu" else ACCELERATOR_BITS
    passes = -(-BITS_OF_ONE // bits)

    def narrow(index, low):  # the answer has the bits of `low` so far; finds the next ones
        shift = bits * (passes - 1 - index)
        bounds = [low + (step << shift) for step in range(1, 2**bits)]
        least = [jax.lax.bitcast_convert_type(bound, jnp.float32)[..., None] for bound in bounds]
        # As one reduction, all sums take one pass over the memory.
        sums = jax.lax.reduce(
            tuple(jnp.where(probabilities >= each, weights, 0.0) for each in least),
            (np.float32(0),) * len(least),
            lambda sums, more: tuple(a + b for a, b in zip(sums, more, strict=True)),
            (probabilities.ndim - 1,),
        )
        return low + (sum((found >= target).astype(jnp.int32) for found in sums) << shift)

    low = jax.lax.fori_loop(0, passes, narrow, jnp.zeros(target.shape, jnp.int32))
    return jnp.where(active, jax.lax.bitcast_convert_type(low, jnp.float32), 0.0)[..., None]
