"""The product of each adapter's activations with one of its factors, and its gradients in an order that suits a CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfadapt.models.attention import full_precision
from selfadapt.parallel import sharding

Array = jax.Array


def low_rank_product(x: Array, factor: Array) -> Array:
    """Multiplies activations `[K, R, T, in]` with factors `[K, in, out]`, of which one side is the rank.

    Returns:
      `[K, R, T, out]`.
    """
    return _with_ordered_gradients(x, factor) if sharding.on_one_cpu() else _product(x, factor)


def _product(x: Array, factor: Array) -> Array:
    return jnp.einsum("krti,kio->krto", x, factor, precision=full_precision(factor))


@jax.custom_vjp
def _with_ordered_gradients(x: Array, factor: Array) -> Array:
    """`low_rank_product` with its gradients written out.

    Of the factor's gradient, a sum over tokens, XLA for CPUs transposes the wide side, element by element, and then
    multiplies by a slow routine: two to five times as long as to transpose the side with the rank, multiply, and
    transpose the result. The barriers keep XLA from undoing it. Sums are in the same order.
    """
    return _product(x, factor)


def _forward(x: Array, factor: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, factor), (x, factor)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, factor = residuals
    precision = full_precision(factor)
    to_x = jnp.einsum("krto,kio->krti", gradient, factor, precision=precision)
    rank_last = factor.shape[2] <= factor.shape[1]
    narrow, wide = (gradient, x) if rank_last else (x, gradient)
    narrow, wide = (side.reshape(len(side), -1, side.shape[-1]) for side in (narrow, wide))
    narrow = jax.lax.optimization_barrier(narrow.swapaxes(1, 2))
    to_factor = jax.lax.optimization_barrier(jnp.matmul(narrow, wide, precision=precision))
    return to_x, to_factor.swapaxes(1, 2) if rank_last else to_factor


_with_ordered_gradients.defvjp(_forward, _backward)
