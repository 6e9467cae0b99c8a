"""The optimizers of `adapt`: optax transformations whose learning rate and weight decay are data of each adapter.

`optax.inject_hyperparams` keeps hyper-parameters in an optimizer's state. The state of K adapters has an axis of K on
every array, so one compiled program steps adapters with different learning rates and weight decays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from selfadapt.types import OPTIMIZERS, Update

# Fields of `Update` that are written into an optimizer's injected hyper-parameters of the same name.
HYPERPARAMETERS = ("learning_rate", "weight_decay")


def _adamw(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


def _sgd(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9))


def _lion(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    return optax.lion(learning_rate, b1=0.9, b2=0.99, weight_decay=weight_decay)


_BY_NAME = {
    name: optax.inject_hyperparams(factory)(learning_rate=0.0, weight_decay=0.0)
    for name, factory in zip(OPTIMIZERS, (_adamw, _sgd, _lion), strict=True)
}


def optimizer_of(update: Update) -> optax.GradientTransformation:
    """Returns the optimizer of an update: the one that its name stands for, or its own transformation."""
    return find_optimizer(update.optimizer)


def find_optimizer(optimizer: str | optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer that a name stands for (see `Update.optimizer`), or the transformation itself."""
    return _BY_NAME[optimizer] if isinstance(optimizer, str) else optimizer


def with_hyperparameters(state: Any, values: Mapping[str, jax.Array]) -> Any:
    """Returns an optimizer's state with its injected hyper-parameters replaced; others are left as they are.

    Args:
      state: the state of one adapter's optimizer.
      values: the new values by name. Names that the optimizer does not inject are ignored.

    Example:
      >>> import optax
      >>> state = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0).init(0.0)
      >>> with_hyperparameters(state, {"learning_rate": 0.5, "weight_decay": 0.1}).hyperparams
      {'learning_rate': 0.5}
    """

    def injected(path, _):
        return len(path) > 1 and getattr(path[-2], "name", None) == "hyperparams"

    for name, value in values.items():
        if optax.tree_utils.tree_get_all_with_path(state, name, injected):
            state = optax.tree_utils.tree_set(state, injected, **{name: value})
    return state


def with_parameter_axes(
    function: Callable[[Any, tuple[str | None, ...]], Any],
    tree: Any,
    parameters: Any,
    axes: Any,
    others: tuple[str | None, ...] = (),
) -> Any:
    """Applies a function to each array of a tree and the array's logical axes (`selfadapt.parallel.sharding`).

    Args:
      function: called with an array and its axes.
      tree: parameters, and what an optimizer keeps beside them: an array whose path in the tree ends in the path of a
        parameter of the same shape, such as its moment, has that parameter's axes.
      parameters: a pytree of parameters.
      axes: the axes of each parameter, a tuple in its place.
      others: the first axes of all other arrays.
    """
    by_path: dict[Any, tuple[Any, tuple[str | None, ...]]] = {}
    jax.tree_util.tree_map_with_path(
        lambda path, leaf, own: by_path.update({path: (leaf.shape, own)}), parameters, axes
    )

    def apply(path, leaf):
        for start in range(len(path) + 1):
            shape, own = by_path.get(path[start:], (None, ()))
            if shape == leaf.shape:
                return function(leaf, own)
        return function(leaf, (*others, *[None] * leaf.ndim)[: leaf.ndim])

    return jax.tree_util.tree_map_with_path(apply, tree)


def state_copies(optimizer: optax.GradientTransformation, factors: Any) -> float:
    """Returns the size of an optimizer's state relative to that of the parameters, such as 2 for AdamW.

    Args:
      optimizer: the optimizer.
      factors: the parameters of one adapter; `jax.ShapeDtypeStruct`s suffice.
    """

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.ndim)

    return size(jax.eval_shape(optimizer.init, factors)) / size(factors)
