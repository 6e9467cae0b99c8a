"""The programs that train all weights, lowered with abstract arrays: for plans of devices that are not there."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfadapt.engine.adapt.optimizers import with_parameter_axes
from selfadapt.engine.policy import programs
from selfadapt.engine.policy.finetune import cross_entropy
from selfadapt.engine.policy.programs import Trained
from selfadapt.engine.policy.rows import Rows
from selfadapt.engine.policy.trainable import Trainable
from selfadapt.models import hf
from selfadapt.parallel import sharding


def abstract_training(
    trainable: Trainable, mesh: sharding.Mesh | None, optimizer: optax.GradientTransformation
) -> tuple[Trained, Any]:
    """Returns all weights and the optimizer's state as `jax.ShapeDtypeStruct`s with their sharding on a mesh.

    Args:
      trainable: all weights of an architecture.
      mesh: the mesh.
      optimizer: the optimizer.
    """
    weights: dict[str, Any] = {"layers": {}}
    for weight in hf.weights(trainable.config):
        shape = weight.array_shape(trainable.config.num_layers)
        leaf = sharding.abstract(mesh, shape, jnp.float32, weight.axes)
        (weights["layers"] if weight.stacked else weights)[weight.path[-1]] = leaf
    trained = Trained(weights)
    initial = functools.partial(programs.initial_optimizer, trainable=trainable, optimizer=optimizer)
    state = with_parameter_axes(
        lambda leaf, axes: sharding.abstract(mesh, leaf.shape, leaf.dtype, axes),
        jax.eval_shape(initial, trained),
        trained,
        Trained(trainable.axes),
    )
    return trained, state


def lower_gradient(
    trained: Trained, mesh: sharding.Mesh | None, rows: int, time: int, *, trainable: Trainable, remat: bool
) -> jax.stages.Lowered:
    """Lowers `programs.gradient` of a full finetuning, as `finetune` runs it.

    Args:
      trained: of `abstract_training`.
      mesh: the mesh.
      rows: rows of the micro-batch.
      time: tokens of a row.
      trainable: all weights.
      remat: whether activations are recomputed in the backward pass.
    """
    shape = (rows, time)
    data = {name: np.zeros(shape, np.float32) for name in ("target", "weight")}
    batch = Rows(tokens=np.zeros(shape, np.int32), mask=np.zeros(shape, bool), data=data)
    with sharding.using(mesh):
        return programs.gradient.lower(
            trained, {}, batch, trained, trainable=trainable, loss=cross_entropy, remat=remat
        )


def lower_step(
    trained: Trained,
    state: Any,
    mesh: sharding.Mesh | None,
    *,
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
) -> jax.stages.Lowered:
    """Lowers `programs.step`, with the weights and the state of `abstract_training`."""
    hyperparameters = {name: np.float32(0) for name in ("learning_rate", "weight_decay", "max_grad_norm")}
    with sharding.using(mesh):
        return programs.step.lower(trained, state, trained, hyperparameters, trainable=trainable, optimizer=optimizer)
