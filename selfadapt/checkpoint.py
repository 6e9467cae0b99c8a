"""What a run needs to go on after an interruption: the policy and the journal, with Orbax, after every round."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from selfadapt.files import make_directory
from selfadapt.models.lora import Adapters, Lora, Spec
from selfadapt.policy import Policy, State


class Checkpoints:
    """The checkpoints of one workdir, in its `checkpoints` directory, one for each finished round.

    A checkpoint holds the policy (its parameters, or its adapter where that is not merged) and the journal,
    a JSON value. It appears under its final name only when it is whole.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int = 2):
        """Opens the directory; `keep` is how many of the newest checkpoints stay."""
        directory = make_directory(pathlib.Path(workdir).absolute() / "checkpoints")
        self._manager = ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def save(self, state: State, journal: dict[str, Any]) -> None:
        """Writes the state after a round."""
        policy = state.policy
        about = {
            "round": state.round,
            "version": policy.version,
            "adapter": policy.adapter and dataclasses.asdict(policy.adapter.specs[0]),
            "student_is_policy": state.student is policy,
            "journal": journal,
        }
        items = {"about": ocp.args.JsonSave(about)}
        if policy.version:  # an untrained policy is the model that the config names
            tree = policy.model.params if policy.adapter is None else _tree(policy.adapter.lora)
            items["policy"] = ocp.args.StandardSave(tree)
        self._manager.save(state.round, args=ocp.args.Composite(**items))
        self._manager.wait_until_finished()

    def restore(self, start: State) -> tuple[State, dict[str, Any] | None]:
        """Returns the newest state and its journal; `start` and `None` where nothing was saved.

        Args:
          start: the state of a run that has not begun.
        """
        step = self._manager.latest_step()
        if step is None:
            return start, None
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        model, policy = start.policy.model, start.policy
        if about["version"]:
            spec = about["adapter"] and Spec(**about["adapter"] | {"targets": tuple(about["adapter"]["targets"])})
            like = model.params if spec is None else _adapter_shapes(model.config, spec)
            items = ocp.args.Composite(policy=ocp.args.StandardRestore(jax.tree.map(_abstract, like)))
            tree = self._manager.restore(step, args=items)["policy"]
            if spec is None:
                policy = Policy(model.with_params(tree), about["version"])
            else:
                policy = Policy(model, about["version"], Adapters(Lora(**tree), (spec,)))
        student = policy if about["student_is_policy"] else start.student
        return State(policy=policy, student=student, round=about["round"]), about["journal"]


def _tree(lora: Lora) -> dict[str, Any]:
    return {"a": lora.a, "b": lora.b, "scale": lora.scale}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _adapter_shapes(config: Any, spec: Spec) -> dict[str, Any]:
    shapes = {name: config.projections()[name] for name in spec.targets}
    float32 = jax.numpy.float32
    return {
        "a": {n: jax.ShapeDtypeStruct((config.num_layers, 1, i, spec.rank), float32) for n, (i, _) in shapes.items()},
        "b": {n: jax.ShapeDtypeStruct((config.num_layers, 1, spec.rank, o), float32) for n, (_, o) in shapes.items()},
        "scale": jax.ShapeDtypeStruct((1,), float32),
    }
