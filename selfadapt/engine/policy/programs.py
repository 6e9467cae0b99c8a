"""The programs that train a policy: statistics of its tokens, a loss's gradient, and an optimizer step.

They are jitted, pure functions, compiled for each shape of a micro-batch, each loss and each optimizer. Learning rate,
weight decay and clipping are data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from selfadapt.engine import runtime
from selfadapt.engine.adapt.optimizers import with_hyperparameters, with_parameter_axes
from selfadapt.engine.adapt.training_step import CLIP_EPSILON
from selfadapt.engine.policy.rows import Rows
from selfadapt.engine.policy.trainable import Trainable
from selfadapt.engine.vocabulary import gold_logits, over_tokens
from selfadapt.models import decoder
from selfadapt.parallel import sharding

Array = jax.Array


@flax.struct.dataclass
class Trained:
    """What an optimizer trains. Each part's gradient is clipped for itself.

    Attributes:
      policy: the weights of the policy (`Trainable.weights`).
      value: the value head, `{"kernel": [hidden], "bias": []}`, or `None`. It predicts the reward from the policy's
        last hidden states, scaled to unit size; no gradient of it reaches the policy.
    """

    policy: Any
    value: Any = None


@flax.struct.dataclass
class Statistics:
    """What a policy makes of each token that it wrote, `[rows, time]`; 0 elsewhere.

    Attributes:
      logprobs: the token's log-probability at temperature 1, in nats.
      entropy: the entropy of the distribution that it comes from, in nats.
      values: the value head's prediction before the token; `None` without a value head.
    """

    logprobs: Array
    entropy: Array
    values: Array | None


# Returns the loss of a micro-batch and further numbers, all of them sums: those of the micro-batches of an optimizer
# step are added. `Rows.data["weight"]` has what the loss of each token is multiplied with, so that the total is a mean.
Loss = Callable[[Statistics, Rows], tuple[Array, dict[str, Array]]]


def statistics(trained: Trained, frozen: decoder.Params, rows: Rows, trainable: Trainable, remat: bool) -> Statistics:
    """Runs the policy over rows, inside a program; arguments as for `gradient`."""
    params, lora = trainable.assemble(trained.policy, frozen)
    tokens = sharding.shard(rows.tokens[None], "adapters", "rows", "time")
    hidden = decoder.forward(params, trainable.config, tokens, lora=lora, remat=remat, often=True)[:, :, :-1]

    def of_token(logits, target):
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        return gold_logits(logprobs, target), -(jnp.exp(logprobs) * logprobs).sum(-1)

    logprobs, entropy = over_tokens(of_token, params, trainable.config, hidden, tokens[:, :, 1:])
    values = None if trained.value is None else _values(trained.value, hidden)

    def placed(x):  # at the token that it belongs to
        x = jnp.pad(x[0], [(0, 0), (1, 0)])
        return jnp.where(rows.mask, x, 0.0)

    return Statistics(placed(logprobs), placed(entropy), None if values is None else placed(values))


def _values(head: dict[str, Array], hidden: Array) -> Array:
    features = jax.lax.stop_gradient(hidden).astype(jnp.float32)
    features = features * jax.lax.rsqrt(jnp.mean(features * features, axis=-1, keepdims=True) + 1e-6)
    return jnp.einsum("krtd,d->krt", features, head["kernel"], precision="highest") + head["bias"]


@functools.partial(runtime.jit, static_argnames=("trainable",))
def measure(trained: Trained, frozen: decoder.Params, rows: Rows, *, trainable: Trainable) -> Statistics:
    """Returns the statistics of rows, complete on every process."""
    return sharding.replicate(statistics(trained, frozen, rows, trainable, remat=False))


@functools.partial(runtime.jit, static_argnames=("trainable", "loss", "remat"), donate_argnames=("total",))
def gradient(
    trained: Trained,
    frozen: decoder.Params,
    rows: Rows,
    total: Trained,
    *,
    trainable: Trainable,
    loss: Loss,
    remat: bool,
) -> tuple[Trained, dict[str, Array]]:
    """Adds the gradient of a micro-batch's loss to a total.

    Args:
      trained: what is differentiated.
      frozen: the other parameters (`Trainable.frozen`).
      rows: the micro-batch.
      total: the gradient so far.
      trainable: how weights and frozen parameters make a policy.
      loss: the loss, hashable: a program is compiled for each.
      remat: whether activations are recomputed in the backward pass.

    Returns:
      The new total, and the loss's numbers with the loss itself as "loss".
    """

    def objective(trained):
        value, numbers = loss(statistics(trained, frozen, rows, trainable, remat), rows)
        return value, numbers | {"loss": value}

    slope, numbers = jax.grad(objective, has_aux=True)(trained)
    total = jax.tree.map(jnp.add, total, slope)
    return _sharded(total, trained, trainable), sharding.replicate(numbers)


@functools.partial(jax.jit, static_argnames=("trainable",))
def zeros(trained: Trained, *, trainable: Trainable) -> Trained:
    """Returns a gradient of zeros."""
    return _sharded(jax.tree.map(jnp.zeros_like, trained), trained, trainable)


@functools.partial(jax.jit, static_argnames=("trainable", "optimizer"))
def initial_optimizer(trained: Trained, *, trainable: Trainable, optimizer: optax.GradientTransformation) -> Any:
    """Returns the optimizer's state before the first step."""
    return _sharded(optimizer.init(trained), trained, trainable)


@functools.partial(jax.jit, static_argnames=("trainable", "optimizer"), donate_argnames=("slope",))
def step(
    trained: Trained,
    state: Any,
    slope: Trained,
    hyperparameters: dict[str, Array],
    *,
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
) -> tuple[Trained, Any, dict[str, Array]]:
    """Takes an optimizer step.

    Args:
      trained: what is trained.
      state: the optimizer's state.
      slope: the gradient.
      hyperparameters: `learning_rate`, `weight_decay`, and `max_grad_norm`, to which the gradient of each part is
        clipped.
      trainable: see `gradient`.
      optimizer: turns clipped gradients into changes.

    Returns:
      What is trained, the optimizer's state, and the norm of each part's gradient before clipping, with that of the
      change of the policy's weights as "change".
    """
    parts = {"policy": slope.policy} | ({} if slope.value is None else {"value": slope.value})
    norms = {name: optax.tree.norm(part) for name, part in parts.items()}
    most = hyperparameters["max_grad_norm"]
    for name, norm in norms.items():
        shrink = jnp.minimum(1.0, most / (norm + CLIP_EPSILON))
        parts[name] = jax.tree.map(lambda leaf, shrink=shrink: leaf * shrink, parts[name])
    state = with_hyperparameters(state, {k: v for k, v in hyperparameters.items() if k != "max_grad_norm"})
    with jax.default_matmul_precision("highest"):  # some optimizers multiply matrices; parameters are float32
        changes, state = optimizer.update(Trained(**parts), state, trained)
    after = optax.apply_updates(trained, changes)
    norms["change"] = optax.tree.norm(changes.policy)
    return _sharded(after, trained, trainable), _sharded(state, trained, trainable), sharding.replicate(norms)


def _sharded(tree: Any, trained: Trained, trainable: Trainable) -> Any:
    """Constrains the sharding of arrays that belong to what is trained: as itself, or replicated."""
    axes = Trained(trainable.axes, None if trained.value is None else {"kernel": (None,), "bias": ()})
    return with_parameter_axes(lambda leaf, own: sharding.shard(leaf, *own), tree, trained, axes)
