"""How a row chooses its next token: greedy, or sampled after temperature, top-k and top-p."""

from __future__ import annotations

import flax
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

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


def choose(logits: Array, choice: Choice, step: Array, mode: str) -> tuple[Array, Array]:
    """Chooses the next token of each row.

    Sampling is an argmax of logits with Gumbel noise, each row's from its own key and the step.

    Args:
      logits: `[K, R, V]`, float32.
      choice: how each row chooses.
      step: tokens already written.
      mode: "greedy" when every temperature is 0, "plain" when no row filters, "filtered" otherwise; the
        choice is the same, but only what is needed is compiled.

    Returns:
      Tokens `[K, R]`, `INVALID` where the logits are not finite, and their log-probabilities at temperature 1.
    """
    total = jax.nn.logsumexp(logits, axis=-1)
    scores = logits
    if mode != "greedy":
        cold = (choice.temperature == 0)[..., None]
        warm = logits / jnp.where(cold, 1.0, choice.temperature[..., None])
        if mode == "filtered":
            warm = filter_logits(warm, choice.top_p, choice.top_k)

        def noise(key):
            return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key), step), logits.shape[-1:])

        scores = jnp.where(cold, logits, warm + jax.vmap(jax.vmap(noise))(choice.keys))
    token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    logprob = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - total
    return jnp.where(jnp.isfinite(total), token, INVALID), logprob


def filter_logits(logits: Array, top_p: Array, top_k: Array) -> Array:
    """Sets logits `[..., V]` outside each row's top-k, and then outside its top-p, to minus infinity.

    No sorting: the least probability that is kept is found by bisection over the bits of a float32, whose
    order is that of the numbers as long as they are not negative.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    least_k = _threshold(probabilities, jnp.ones_like(probabilities), top_k.astype(jnp.float32), top_k > 0)
    kept = jnp.where(probabilities >= least_k, probabilities, 0.0)
    least_p = _threshold(kept, kept, top_p * kept.sum(axis=-1), top_p < 1)
    return jnp.where(probabilities >= jnp.maximum(least_k, least_p), logits, -jnp.inf)


def _threshold(probabilities: Array, weights: Array, target: Array, active: Array) -> Array:
    """Returns for each row, `[..., 1]`, the largest t such that the weights where p >= t sum to the target.

    0 where no t reaches the target, and where the row is not active.
    """

    def halve(_, bounds):  # the answer is in [low, high)
        low, high = bounds
        middle = low + (high - low) // 2
        least = jax.lax.bitcast_convert_type(middle, jnp.float32)[..., None]
        enough = jnp.where(probabilities >= least, weights, 0.0).sum(axis=-1) >= target
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    above_one = np.float32(1.0).view(np.int32) + 1
    low = jnp.zeros(target.shape, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, jnp.full_like(low, above_one)))
    return jnp.where(active, jax.lax.bitcast_convert_type(low, jnp.float32), 0.0)[..., None]
