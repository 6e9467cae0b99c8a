"""The loss of policy gradients: a surrogate of the reward, a penalty for leaving the start, and an entropy bonus."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from selfadapt.engine.policy import Rows, Statistics

Array = jax.Array

NORMALIZATIONS = ("edit", "tokens", "constant")


def k3(difference: Array) -> Array:
    """Returns exp(d) - 1 - d, whose mean is KL(p || q) for samples of p and d = log q - log p.

    It is never negative, and varies less than -d (Schulman, "Approximating KL divergence", 2020).
    """
    return jnp.expm1(difference) - difference


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """The loss of tokens with advantages, `Rows.data["advantage"]`.

    With the ratio r = exp(log p - log p_old) of a token's probability now and when it was sampled
    (`Rows.data["old"]`) and its advantage A, the surrogate is min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv
    1707.06347, equation 7), or without clipping A log p (REINFORCE). Added are `kl` times the estimate `k3` of the
    divergence from the starting policy (`Rows.data["reference"]`; GRPO, arXiv 2402.03300, equation 4), and `-entropy`
    times the entropy.

    Attributes:
      clip: (low, high), or `None`.
      kl: coefficient of the divergence.
      entropy: coefficient of the entropy.
    """

    clip: tuple[float, float] | None = None
    kl: float = 0.0
    entropy: float = 0.0

    def __call__(self, statistics: Statistics, rows: Rows) -> tuple[Array, dict[str, Array]]:
        """Returns the weighted sum, and sums over tokens: "tokens", "clip_share", and "kl_update" (from `p_old`)."""
        data, logprobs = rows.data, statistics.logprobs
        advantage, change = data["advantage"], logprobs - data["old"]
        clipped = jnp.zeros_like(rows.mask)
        if self.clip is None:
            total = -advantage * logprobs
        else:
            ratio = jnp.exp(change)
            low, high = 1 - self.clip[0], 1 + self.clip[1]
            total = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
            clipped = ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))
        if self.kl:
            total += self.kl * k3(data["reference"] - logprobs)
        if self.entropy:
            total -= self.entropy * statistics.entropy
        numbers = {"tokens": rows.mask, "clip_share": clipped, "kl_update": k3(change)}
        sums = {name: jnp.where(rows.mask, each, 0).sum().astype(jnp.float32) for name, each in numbers.items()}
        return (data["weight"] * total).sum(), sums


def token_weights(normalize: str, sizes: Mapping[int, int], most: int) -> dict[int, float]:
    """Returns the weight of each edit's tokens in the loss of an optimizer step.

    Args:
      normalize: "edit": the mean over edits of their means over tokens (GRPO, arXiv 2402.03300, equation 3); "tokens":
        the mean over all tokens, so that long edits count more (DAPO, arXiv 2503.14476, section 3.3); "constant": the
        mean over edits of their sums over tokens, divided by `most` (Dr. GRPO, arXiv 2503.20783, section 3.2).
      sizes: the tokens of each edit of the step.
      most: the most tokens of an edit.

    >>> token_weights("edit", {0: 2, 1: 6}, 10)
    {0: 0.25, 1: 0.08333333333333333}
    >>> token_weights("tokens", {0: 2, 1: 6}, 10), token_weights("constant", {0: 2, 1: 6}, 10)
    ({0: 0.125, 1: 0.125}, {0: 0.05, 1: 0.05})
    """
    if normalize == "edit":
        return {index: 1 / (len(sizes) * max(1, size)) for index, size in sizes.items()}
    total = sum(sizes.values()) if normalize == "tokens" else len(sizes) * most
    return dict.fromkeys(sizes, 1 / max(1, total))
