"""PEFT adapter directories in and out, and adapters merged into their base."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt import files
from selfadapt.errors import InvalidValueError
from selfadapt.models import hf, tensor_files
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec, resolve_targets
from selfadapt.models.model import Model, check_base
from selfadapt.parallel import distributed, sharding

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model.model.layers."
# Fields that do not change the adapted model's arithmetic, or that are read below. Any other field that is set
# is refused, so that an option of a later PEFT is never silently dropped.
_READ = ("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "init_lora_weights", "bias")
_HARMLESS = (
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "lora_dropout",
    "exclude_modules",
    "peft_version",
    "layers_pattern",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
)
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


class AdapterError(tensor_files.CheckpointError):
    """An adapter directory that cannot be read as LoRA adapters of the given base model."""


def load_peft(model: Model, path: str | Path | Sequence[str | Path]) -> Adapters:
    """Loads LoRA adapters that PEFT (or `save_peft`) wrote.

    Args:
      model: the base model that they were made for.
      path: an adapter directory, or several, which become one stack in their order.

    Returns:
      A stack with one adapter for each directory.

    Raises:
      AdapterError: the directory is incomplete, uses an option that is not supported (named), or was
        made for another base (the tensor is named, with the shape expected and the one found).
    """
    if isinstance(path, (str, Path)):
        return _load_one(model.config, Path(path).expanduser())
    if not path:
        raise InvalidValueError("there are no adapter directories to load")
    return Adapters.stack([_load_one(model.config, Path(one).expanduser()) for one in path])


def save_peft(adapter: Adapters, path: str | Path, *, base: str = "") -> None:
    """Writes one adapter as a directory that PEFT loads.

    Args:
      adapter: a stack of one adapter (`adapters[k]`).
      path: the directory; it is made if it is absent.
      base: the path or hub id of the base model, for the adapter's config (`model.name`).

    Raises:
      ValueError: the stack does not hold exactly one adapter.
      StorageError: a file cannot be written.
    """
    spec = _only(adapter)
    tensors = {}
    for target in spec.targets:
        # The stack may be padded with zeros to a larger rank than this adapter's own.
        a = sharding.to_host(adapter.lora.a[target][:, 0, :, : spec.rank])
        b = sharding.to_host(adapter.lora.b[target][:, 0, : spec.rank])
        for layer in range(a.shape[0]):
            tensors[_tensor_name(layer, target, "A")] = np.ascontiguousarray(a[layer].T)
            tensors[_tensor_name(layer, target, "B")] = np.ascontiguousarray(b[layer].T)
    alpha = spec.alpha if spec.scale is None else spec.scale * spec.rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": spec.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": list(spec.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    if not distributed.is_main():
        return
    directory = files.make_directory(path)
    tensor_files.write_tensors(tensors, directory / TENSORS)
    files.write_json(directory / CONFIG, config)


def merge(model: Model, adapter: Adapters, *, keep_master: bool = False) -> Model:
    """Adds one adapter to the weights of its base: W + scale * A B, in float32, rounded to the base's dtype.

    In bfloat16 an update smaller than about 1/256 of a weight is lost to rounding, so many small merges can amount to
    none. With `keep_master` the float32 sum stays in `Model.master`, and later merges add to it.

    Args:
      model: the base model; it is not changed.
      adapter: a stack of one adapter (`adapters[k]`).
      keep_master: keep the float32 sums of a model in another dtype. They are sharded as the weights are, and take
        4 bytes for each weight of the adapted projections. A model that has a master keeps it.

    Returns:
      A model without adapters that computes what `model` computes with the adapter.

    Raises:
      ValueError: the stack does not hold exactly one adapter, or it was made for another base.
    """
    spec = _only(adapter)
    check_base(model.config, adapter)
    adapter = adapter.on(model.mesh)
    exact = model.dtype == jnp.float32
    master = {} if model.master is None else dict(model.master)
    keep = not exact and (keep_master or model.master is not None)
    layers = dict(model.params["layers"])
    for target in spec.targets:
        weight = master.get(target, layers[target])
        a, b = adapter.lora.a[target][:, 0], adapter.lora.b[target][:, 0]
        with sharding.using(model.mesh):
            dtypes = (model.dtype, jnp.dtype(jnp.float32)) if keep else (model.dtype,)
            layers[target], *more = _merged(weight, a, b, adapter.lora.scale[0], target, dtypes)
        if keep:
            (master[target],) = more
    return model.with_params({**model.params, "layers": layers}, master if keep else None)


def abstract_master(model: Model, targets: Sequence[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtype and sharding of the master that merging adapters of some projections leaves.

    Args:
      model: the model; `Model.master` has this structure after `merge(model, adapter, keep_master=True)`.
      targets: the projections (`Model.master`'s keys).
    """
    return {
        weight.path[-1]: sharding.abstract(
            model.mesh, weight.array_shape(model.config.num_layers), jnp.float32, weight.axes
        )
        for weight in hf.weights(model.config)
        if weight.path[-1] in targets
    }


@functools.partial(jax.jit, static_argnames=("target", "dtypes"))
def _merged(
    weight: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array, target: str, dtypes: tuple[jnp.dtype, ...]
) -> tuple[jax.Array, ...]:
    """Returns W + scale * A B of a projection, `[layers, in, out]`, in each of some dtypes."""

    def layer(inputs):
        weight, a, b = inputs
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        merged = weight.astype(jnp.float32) + scale * product
        return tuple(merged.astype(dtype) for dtype in dtypes)

    # One layer at a time, so that the float32 updates of all layers are never in memory together.
    merged = jax.lax.map(layer, (weight, a, b))
    return tuple(sharding.shard(leaf, *hf.weight_axes(target)) for leaf in merged)


def _only(adapter: Adapters) -> Spec:
    if len(adapter) != 1:
        raise InvalidValueError(f"there are {len(adapter)} adapters here; give one, such as adapters[0]")
    return adapter.specs[0]


def _load_one(config: ModelConfig, directory: Path) -> Adapters:
    if not directory.is_dir():
        raise AdapterError(f"there is no directory {directory}; give the one that holds {CONFIG} and {TENSORS}")
    raw = tensor_files.read_json(directory / CONFIG)
    spec = _read_spec(raw, directory / CONFIG, config)
    if not (directory / TENSORS).exists():
        if (directory / "adapter_model.bin").exists():
            raise AdapterError(
                f"{directory} has its weights as a pickle (adapter_model.bin), which can run code when read; load it "
                "with PEFT and save it again with safe_serialization=True"
            )
        raise AdapterError(f"{directory} has no {TENSORS}; download or save the adapter again")
    a, b = _read_factors(config, spec, directory / TENSORS)
    return Adapters(Lora(a=a, b=b, scale=jnp.asarray([spec.output_scale], jnp.float32)), (spec,))


def _read_spec(raw: dict[str, Any], source: Path, config: ModelConfig) -> Spec:
    """Reads rank, alpha and targets; refuses every option that changes what the adapter computes."""

    def refuse(field: str, supported: str) -> NoReturn:
        raise AdapterError(f"{source}: {field} is {raw.get(field)!r}; supported is {supported}")

    if raw.get("peft_type") != "LORA":
        refuse("peft_type", "'LORA'")
    if raw.get("bias", "none") != "none":
        refuse("bias", "'none'")
    if raw.get("init_lora_weights", True) not in _PLAIN_INITS:
        refuse("init_lora_weights", "what leaves the base weights alone; convert the adapter to plain LoRA with PEFT")
    for field, value in raw.items():
        if value and field not in _READ and field not in _HARMLESS:
            refuse(field, "an adapter without it")
    rank, alpha, targets = raw.get("r"), raw.get("lora_alpha", 8), raw.get("target_modules")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        refuse("r", "a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        refuse("lora_alpha", "a number")
    if not targets:
        refuse("target_modules", "a list of projections, a regular expression or 'all-linear'")
    try:
        names = _matching(targets, config) if isinstance(targets, str) else resolve_targets(targets, config)
    except (ValueError, re.error) as error:
        raise AdapterError(f"{source}: target_modules: {error}") from None
    return Spec(rank, alpha, names, alpha / math.sqrt(rank) if raw.get("use_rslora") else None)


def _matching(targets: str, config: ModelConfig) -> tuple[str, ...]:
    """Returns the projections that a string names in PEFT: "all-linear", or an expression that matches full paths."""
    if targets == "all-linear":
        return resolve_targets(targets, config)
    matched = {
        name: [bool(re.fullmatch(targets, f"model.layers.{n}.{hf.MODULES[name]}")) for n in range(config.num_layers)]
        for name in config.projections()
    }
    if not any(map(any, matched.values())):
        raise InvalidValueError(f"the expression {targets!r} matches no projection of this {config.family} model")
    for name, layers in matched.items():
        if any(layers) and not all(layers):
            raise InvalidValueError(
                f"the expression {targets!r} matches {name} in some layers only; all or none is supported"
            )
    return tuple(name for name, layers in matched.items() if all(layers))


def _read_factors(config: ModelConfig, spec: Spec, file: Path) -> tuple[dict, dict]:
    shapes = {}
    for target in spec.targets:
        inputs, outputs = config.projections()[target]
        for layer in range(config.num_layers):
            shapes[_tensor_name(layer, target, "A")] = (spec.rank, inputs)
            shapes[_tensor_name(layer, target, "B")] = (outputs, spec.rank)
    with tensor_files.open_tensors(file) as handle:
        found = list(handle.keys())
        if spare := [name for name in found if name not in shapes]:
            raise AdapterError(
                f"{file} holds the tensor {tensor_files.some(spare)}, for which this {config.family} model of "
                f"{config.num_layers} layers has no place; the adapter was made for another base, or with an option "
                "that is not supported"
            )
        if missing := [name for name in shapes if name not in found]:
            raise AdapterError(
                f"{file} lacks the tensor {tensor_files.some(missing)}; it was made for another base, or adapts "
                "only some of the layers, which is not supported"
            )
        for name, shape in shapes.items():
            if (found_shape := tuple(handle.get_slice(name).get_shape())) != shape:
                raise AdapterError(
                    f"{file}: tensor {name} has shape {found_shape}, but this base model and rank make it {shape}; the "
                    "adapter was made for another base"
                )
            tensor_files.check_tensor(handle, name, shape, file)

        def stacked(target: str, side: str) -> jax.Array:
            tensors = [
                handle.get_tensor(_tensor_name(layer, target, side)).astype(np.float32).T
                for layer in range(config.num_layers)
            ]
            return jnp.asarray(np.stack(tensors)[:, None])

        return (
            {target: stacked(target, "A") for target in spec.targets},
            {target: stacked(target, "B") for target in spec.targets},
        )


def _tensor_name(layer: int, target: str, side: str) -> str:
    return f"{_PREFIX}{layer}.{hf.MODULES[target]}.lora_{side}.weight"
