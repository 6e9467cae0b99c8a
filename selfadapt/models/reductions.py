"""Sums over the last axis and what is made of them, by operations that are fast on a CPU.

XLA for CPUs reduces the last axis element by element: the maximum of a row of attention scores takes longer than their
exponentials. In programs for one CPU a row is reduced in two steps here: to `COLUMNS` partial results, which is
vectorized, and these to one. A row's result does not depend on its place among others, as that of a product with ones
would. Elsewhere these are the functions of `jax.nn`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from selfadapt.parallel import sharding

Array = jax.Array

COLUMNS = 8


def softmax(x: Array) -> Array:
    """Returns `jax.nn.softmax` over the last axis, of float32."""
    return _softmax(x) if sharding.on_one_cpu() else jax.nn.softmax(x, axis=-1)


def logsumexp(x: Array) -> Array:
    """Returns `jax.nn.logsumexp` over the last axis, of float32."""
    return _logsumexp(x) if sharding.on_one_cpu() else jax.nn.logsumexp(x, axis=-1)


def total(x: Array) -> Array:
    """Returns the sum over the last axis, of float32."""
    return _total(x) if sharding.on_one_cpu() else x.sum(-1)


def argmax(x: Array) -> Array:
    """Returns the first place of the greatest value along the last axis, int32; any place where one is not a number."""
    if not sharding.on_one_cpu():
        return jnp.argmax(x, axis=-1).astype(jnp.int32)
    x = jax.lax.optimization_barrier(x)  # or XLA computes it again for each of the two
    places = jnp.where(x == _reduced(jnp.max, x), jnp.arange(x.shape[-1], dtype=jnp.int32), x.shape[-1] - 1)
    return _reduced(jnp.min, places)[..., 0]


def _reduced(reduction: Callable, x: Array) -> Array:
    """Returns the sums or maxima over the last axis, which has size 1 in the result."""
    if x.shape[-1] % COLUMNS == 0:
        columns = reduction(x.reshape(*x.shape[:-1], -1, COLUMNS), axis=-2)
        x = jax.lax.optimization_barrier(columns)  # or XLA makes one reduction of the two
    return reduction(x, axis=-1, keepdims=True)


def _exponentials(x: Array) -> tuple[Array, Array, Array]:
    """Returns exp(x - greatest), the sums of these over the last axis, and the greatest values."""
    greatest = _reduced(jnp.max, x)
    exponentials = jnp.exp(x - greatest)
    return exponentials, _reduced(jnp.sum, exponentials), greatest


@jax.custom_vjp
def _total(x: Array) -> Array:
    return _reduced(jnp.sum, x)[..., 0]


_total.defvjp(lambda x: (_total(x), x), lambda x, gradient: (jnp.broadcast_to(gradient[..., None], x.shape),))


@jax.custom_vjp
def _softmax(x: Array) -> Array:
    exponentials, sums, _ = _exponentials(x)
    return exponentials / sums


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    weights = _softmax(x)
    return weights, weights


def _softmax_backward(weights: Array, gradient: Array) -> tuple[Array]:
    product = weights * gradient
    return (product - weights * _reduced(jnp.sum, product),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def _logsumexp(x: Array) -> Array:
    return _logsumexp_forward(x)[0]


def _logsumexp_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    exponentials, sums, greatest = _exponentials(x)
    return (jnp.log(sums) + greatest)[..., 0], (exponentials, sums)


def _logsumexp_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    exponentials, sums = residuals
    return (exponentials * (gradient[..., None] / sums),)


_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)
