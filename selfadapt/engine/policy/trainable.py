"""Which weights of a policy are trained: those of a LoRA adapter, or all."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder, hf
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec, abstract_lora, factor_axes, resolve_targets
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.parallel import sharding
from selfadapt.types import Update

KINDS = ("lora", "all")


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The weights of a policy that are trained, as a pytree of float32 arrays.

    Attributes:
      config: the policy's architecture.
      dtype: the dtype of its parameters.
      spec: the LoRA adapter that is trained; `None` to train all weights.
    """

    config: ModelConfig
    dtype: str
    spec: Spec | None

    @classmethod
    def of(cls, policy: Policy, training: Update, kind: str) -> Trainable:
        """Returns what is trained of a policy.

        Args:
          policy: the policy.
          training: rank, alpha and targets of the adapter, if the policy has none.
          kind: "lora" or "all".

        Raises:
          InvalidValueError: a target is no projection, or all weights of a policy with an adapter would be trained.
        """
        config, dtype = policy.model.config, policy.model.dtype.name
        if kind == "all":
            if policy.adapter is not None:
                raise InvalidValueError("the policy has an adapter; merge it before all weights are trained")
            return cls(config, dtype, None)
        if policy.adapter is not None:
            return cls(config, dtype, policy.adapter.specs[0])
        return cls(config, dtype, Spec(training.rank, training.alpha, resolve_targets(training.targets, config)))

    def weights(self, policy: Policy, training: Update) -> Any:
        """Returns the trained weights of a policy: if it has no adapter, a new one, drawn from the training's seed.

        All weights of a model in another dtype are its float32 copies, where it has them (`Model.master`).
        """
        if self.spec is None:
            master: dict[str, Any] = policy.model.master or {}

            def exact(path: Any, leaf: Any) -> Any:
                kept: Any = master.get(path[-1].key, leaf)
                return kept.astype(jnp.float32)

            return jax.tree_util.tree_map_with_path(exact, policy.model.params)
        adapter = policy.adapter
        if adapter is None:
            adapter = initial_adapters(self.config, [training], policy.model.mesh)
        adapter = adapter.on(policy.model.mesh)
        return {"a": adapter.lora.a, "b": adapter.lora.b}

    def frozen(self, model: Model) -> decoder.Params:
        """Returns the parameters that are not trained: the base of an adapter, or none."""
        return {} if self.spec is None else model.params

    def assemble(self, weights: Any, frozen: decoder.Params) -> tuple[decoder.Params, Lora | None]:
        """Returns the parameters and the adapter that the decoder computes with, inside a program."""
        if self.spec is None:
            return jax.tree.map(lambda leaf: leaf.astype(self.dtype), weights), None
        scale = jnp.full((1,), self.spec.output_scale, jnp.float32)
        return frozen, Lora(weights["a"], weights["b"], scale)

    @property
    def axes(self) -> Any:
        """The logical axes of each trained array, in the structure of `weights`."""
        if self.spec is not None:
            sides = {name: factor_axes(name) for name in self.spec.targets}
            return {side: {name: both[i] for name, both in sides.items()} for i, side in enumerate("ab")}
        tree: dict[str, Any] = {"layers": {}}
        for weight in hf.weights(self.config):
            (tree["layers"] if weight.stacked else tree)[weight.path[-1]] = weight.axes
        return tree

    def device_bytes(self, mesh: sharding.Mesh | None) -> int:
        """Returns the bytes of the trained arrays on each device of a mesh."""
        if self.spec is not None:
            lora = abstract_lora(self.config, 1, self.spec.rank, self.spec.targets, mesh)
            leaves = jax.tree.leaves((lora.a, lora.b))
        else:
            shapes = [(each.array_shape(self.config.num_layers), each.axes) for each in hf.weights(self.config)]
            leaves = [sharding.abstract(mesh, shape, jnp.float32, axes) for shape, axes in shapes]
        return sharding.device_bytes(leaves)

    def policy(self, old: Policy, weights: Any) -> Policy:
        """Returns a policy's next version, with trained weights."""
        if self.spec is not None:
            scale = jnp.asarray([self.spec.output_scale], jnp.float32)
            adapter = Adapters(Lora(weights["a"], weights["b"], scale), (self.spec,))
            return Policy(old.model, old.version + 1, adapter.on(old.model.mesh))
        if self.dtype == "float32":
            return Policy(old.model.with_params(weights), old.version + 1)
        rounded = jax.tree.map(lambda leaf: leaf.astype(self.dtype), weights)
        master = {path[-1].key: leaf for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]}
        return Policy(old.model.with_params(rounded, master), old.version + 1)
