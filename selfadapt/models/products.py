"""Products of activations, and on a CPU their gradients in an order that suits it.

Of two activations with the same tokens a gradient is a sum over these tokens. XLA for CPUs transposes the wide side for
it, element by element, or takes a slow routine: two to five times as long as to transpose the narrow side, multiply,
and transpose the result. Sums are in the same order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfadapt.parallel import sharding

Array = jax.Array


def full_precision(x: Array) -> jax.lax.Precision | None:
    """Returns the precision that makes a product of float32 arrays one of float32 numbers.

    TPUs and GPUs by default round the operands of such a product to bfloat16 or TF32. Gradients inherit it.
    """
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def low_rank_product(x: Array, factor: Array) -> Array:
    """Multiplies activations `[K, R, T, in]` with factors `[K, in, out]`, of which one side is the rank.

    Returns:
      `[K, R, T, out]`.
    """
    return _ordered_low_rank(x, factor) if sharding.on_one_cpu() else _low_rank(x, factor)


def scores(q: Array, k: Array) -> Array:
    """Multiplies queries `[N, J, T, E]` with keys `[N, J, S, E]`; returns `[N, J, T, S]`, float32."""
    return _ordered_scores(q, k) if _ordered(q, k) else _scores(q, k)


def weighted(weights: Array, v: Array) -> Array:
    """Sums values `[N, J, S, E]` with weights `[N, J, T, S]`; returns `[N, J, T, E]`."""
    return _ordered_weighted(weights, v) if _ordered(weights, v) else _weighted(weights, v)


def _ordered(*operands: Array) -> bool:
    return sharding.on_one_cpu() and all(operand.dtype == jnp.float32 for operand in operands)


def _low_rank(x: Array, factor: Array) -> Array:
    return jnp.einsum("krti,kio->krto", x, factor, precision=full_precision(factor))


def _scores(q: Array, k: Array) -> Array:
    return jnp.einsum("njqe,njse->njqs", q, k, precision=full_precision(q), preferred_element_type=jnp.float32)


def _weighted(weights: Array, v: Array) -> Array:
    return jnp.einsum("njqs,njse->njqe", weights, v, precision=full_precision(v))


def _sum_over_tokens(narrow: Array, wide: Array) -> Array:
    """Multiplies `[..., T, narrow]`, transposed, with `[..., T, wide]`; returns `[..., narrow, wide]`."""
    narrow = jax.lax.optimization_barrier(narrow.swapaxes(-1, -2))  # or XLA transposes the wide side after all
    return jax.lax.optimization_barrier(jnp.matmul(narrow, wide, precision=full_precision(narrow)))


@jax.custom_vjp
def _ordered_low_rank(x: Array, factor: Array) -> Array:
    return _low_rank(x, factor)


def _low_rank_backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, factor = operands
    to_x = jnp.einsum("krto,kio->krti", gradient, factor, precision=full_precision(factor))
    rank_last = factor.shape[2] <= factor.shape[1]
    sides = (gradient, x) if rank_last else (x, gradient)
    to_factor = _sum_over_tokens(*(side.reshape(len(side), -1, side.shape[-1]) for side in sides))
    return to_x, to_factor.swapaxes(1, 2) if rank_last else to_factor


@jax.custom_vjp
def _ordered_scores(q: Array, k: Array) -> Array:
    return _scores(q, k)


def _scores_backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    q, k = operands
    return _weighted(gradient, k), _sum_over_tokens(q, gradient).swapaxes(-1, -2)


@jax.custom_vjp
def _ordered_weighted(weights: Array, v: Array) -> Array:
    return _weighted(weights, v)


def _weighted_backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    weights, v = operands
    return _scores(gradient, v), _sum_over_tokens(gradient, weights).swapaxes(-1, -2)


_ordered_low_rank.defvjp(lambda x, factor: (_low_rank(x, factor), (x, factor)), _low_rank_backward)
_ordered_scores.defvjp(lambda q, k: (_scores(q, k), (q, k)), _scores_backward)
_ordered_weighted.defvjp(lambda weights, v: (_weighted(weights, v), (weights, v)), _weighted_backward)
