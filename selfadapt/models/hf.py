"""Hugging Face checkpoints in and out: `config.json` and safetensors, never a pickle.

The decoder keeps each kind of weight of all layers in one stacked array, transposed to [in, out]; a
checkpoint has a tensor for each layer, [out, in]. One table (`weights`) maps one to the other. Every name and
shape is checked from the files' headers before any data is read; then tensors are streamed one piece at a time into the
stacked arrays on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt import files as disk
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.tensor_files import (
    CheckpointError,
    check_tensor,
    open_tensors,
    read_json,
    read_part,
    some,
    write_tensors,
)
from selfadapt.parallel import distributed, sharding

Params = dict[str, Any]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PIECE_BYTES = 4 * 2**20
SHARD_BYTES = 5 * 10**9
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MODULES = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclasses.dataclass(frozen=True)
class Weight:
    """One array of the parameter tree and its tensors in a checkpoint.

    Attributes:
      path: the array's keys in the tree.
      name: the tensor's name, with `{}` for the layer when the array stacks all layers.
      shape: the shape of one tensor in the file.
    """

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """Whether the array has a leading layer axis."""
        return self.path[0] == "layers"

    @property
    def transposed(self) -> bool:
        """Whether the file's [out, in] becomes [in, out]."""
        return self.stacked and len(self.shape) == 2

    def array_shape(self, layers: int) -> tuple[int, ...]:
        """Returns the shape of the array in the tree."""
        shape = self.shape[::-1] if self.transposed else self.shape
        return (layers, *shape) if self.stacked else shape

    @property
    def axes(self) -> tuple[str | None, ...]:
        """The logical axes of the array in the tree (`selfadapt.parallel.sharding`)."""
        key = self.path[-1]
        if not self.stacked:
            return ("vocab", "embed") if len(self.shape) == 2 else (None,)
        if key in PROJECTION_AXES:
            return weight_axes(key)
        return ("layers", PROJECTION_AXES[key.removesuffix("_bias")][1] if key.endswith("_bias") else None)

    def tensors(self, layers: int) -> Iterator[tuple[str, int]]:
        """Yields each tensor's name with its layer."""
        for layer in range(layers if self.stacked else 1):
            yield self.name.format(layer), layer


def weights(config: ModelConfig) -> tuple[Weight, ...]:
    """Returns every array of the parameter tree of an architecture, in the order of the computation."""
    hidden = (config.hidden_size,)
    block: list[tuple[str, str, tuple[int, ...]]] = [("input_layernorm", "input_layernorm.weight", hidden)]
    biased = {"q_proj": config.qkv_bias, "k_proj": config.qkv_bias, "v_proj": config.qkv_bias}
    biased |= {"o_proj": config.output_bias}
    for key, (inputs, outputs) in config.projections().items():
        block.append((key, f"{MODULES[key]}.weight", (outputs, inputs)))
        if biased.get(key, config.mlp_bias):
            block.append((f"{key}_bias", f"{MODULES[key]}.bias", (outputs,)))
    if config.qk_norm:
        block += [(key, f"self_attn.{key}.weight", (config.head_dim,)) for key in ("q_norm", "k_norm")]
    block.append(("post_attention_layernorm", "post_attention_layernorm.weight", hidden))
    return (
        Weight(("embed_tokens",), EMBEDDING, (config.vocab_size, config.hidden_size)),
        *(Weight(("layers", key), f"model.layers.{{}}.{name}", shape) for key, name, shape in block),
        Weight(("norm",), "model.norm.weight", hidden),
        *([] if config.tie_word_embeddings else [Weight(("lm_head",), HEAD, (config.vocab_size, config.hidden_size))]),
    )


def weight_axes(projection: str) -> tuple[str, ...]:
    """Returns the logical axes of a projection's stacked weights, `[layers, in, out]`."""
    return ("layers", *("embed" if axis == "hidden" else axis for axis in PROJECTION_AXES[projection]))


def load_params(directory: Path, config: ModelConfig, dtype: Any, where: sharding.Mesh | None = None) -> Params:
    """Reads a checkpoint's tensors into the decoder's parameter tree.

    On one device only one piece of at most 4 MiB is in memory besides the arrays themselves (and pages of the
    memory-mapped file, which the system frees when it needs them). On a mesh each process reads
    only what its own devices hold, one array of the tree at a time.

    Args:
      directory: the checkpoint.
      config: its architecture.
      dtype: the dtype of the parameters; float32, bfloat16 and float16 files are converted to it.
      where: the mesh to shard them over; `None` for the default device.

    Returns:
      The parameter tree: `embed_tokens` [V, D], `layers` with stacked arrays ([L, in, out] for
      projections, [L, features] for norms and biases), `norm` [D] and, unless tied, `lm_head` [V, D].

    Raises:
      CheckpointError: a file or a tensor is missing, unexpected, mis-shaped or unreadable.
    """
    files = _tensor_files(directory)
    targets = _check(directory, files, config)
    params: Params = {"layers": {}}
    if where is not None:
        with contextlib.ExitStack() as opened:
            handles = {file: opened.enter_context(open_tensors(file)) for file in _by_file(files)}
            tensors = {name: handles[file] for name, file in files.items()}
            for weight in weights(config):
                leaf = _load_parts(tensors, weight, config.num_layers, dtype, where)
                _place(params, weight.path)[weight.path[-1]] = leaf
        return params
    for weight in weights(config):
        _place(params, weight.path)[weight.path[-1]] = jnp.zeros(weight.array_shape(config.num_layers), dtype)
    for file, names in _by_file(files).items():
        with open_tensors(file) as handle:
            for name in names:
                if name in targets:
                    weight, layer = targets[name]
                    leaves = _place(params, weight.path)
                    leaves[weight.path[-1]] = _fill(leaves[weight.path[-1]], handle.get_slice(name), weight, layer)
    return params


def save_params(params: Params, config: ModelConfig, directory: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the parameter tree as safetensors, with an index when it is larger than one shard.

    Weights that an earlier save left in the directory are replaced. Each file is written under another
    name and then renamed, so that a full disk never leaves a partial file under its final name.

    Args:
      params: the parameter tree, as `load_params` returns it.
      config: its architecture.
      directory: where to write; it must exist.
      shard_bytes: the largest size of one file, in bytes.
    """
    plan = [entry for weight in weights(config) for entry in _entries(params, weight, config.num_layers)]
    shards: list[list[tuple[str, Any, int]]] = [[]]
    for name, read, size in plan:
        if shards[-1] and sum(entry[2] for entry in shards[-1]) + size > shard_bytes:
            shards.append([])
        shards[-1].append((name, read, size))
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    for file, shard in zip(names, shards, strict=True):
        tensors = {name: read() for name, read, _ in shard}  # by every process: each may hold a part only
        if distributed.is_main():
            write_tensors(tensors, directory / file)
    if not distributed.is_main():
        return
    for stale in (*directory.glob("model-*-of-*.safetensors"), directory / SINGLE, directory / INDEX):
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(size for _, _, size in plan)},
            "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name, _, _ in shard},
        }
        disk.write_json(directory / INDEX, index)


def _tensor_files(directory: Path) -> dict[str, Path]:
    """Returns the file of each tensor."""
    if (directory / SINGLE).exists():
        with open_tensors(directory / SINGLE) as handle:
            return dict.fromkeys(handle.keys(), directory / SINGLE)
    if not (directory / INDEX).exists():
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{directory} has only pickled weights ({some(pickles)}), which can run code when read; convert them "
                "with transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        raise CheckpointError(f"{directory} has no weights; it must hold {SINGLE}, or {INDEX} and its shards")
    mapping = read_json(directory / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(file, str) for file in mapping.values()):
        raise CheckpointError(f"{directory / INDEX}: weight_map is missing or does not map tensor names to files")
    for file in dict.fromkeys(mapping.values()):
        if Path(file).name != file:
            raise CheckpointError(
                f"{directory / INDEX} names the file {file!r}; shards must be in the directory of the index"
            )
        if not (directory / file).exists():
            raise CheckpointError(f"{directory / INDEX} names the shard {file}, which is absent; download it again")
    return {name: directory / file for name, file in mapping.items()}


def _by_file(files: dict[str, Path]) -> dict[Path, list[str]]:
    grouped: dict[Path, list[str]] = {}
    for name, file in files.items():
        grouped.setdefault(file, []).append(name)
    return grouped


def _check(directory: Path, files: dict[str, Path], config: ModelConfig) -> dict[str, tuple[Weight, int]]:
    """Checks all names, shapes and dtypes from the headers; returns the weight and layer of each tensor."""
    targets = {name: (weight, layer) for weight in weights(config) for name, layer in weight.tensors(config.num_layers)}
    if config.tie_word_embeddings and HEAD in files:
        if EMBEDDING not in files:
            targets[HEAD] = targets.pop(EMBEDDING)
        else:
            _check_tie(directory, files[EMBEDDING], files[HEAD])
    if missing := [name for name in targets if name not in files]:
        hint = "; if the model ties its embeddings, set tie_word_embeddings to true in config.json"
        raise CheckpointError(
            f"{directory} lacks the tensor {some(missing)}, which config.json asks for"
            + (hint if missing == [HEAD] else "; the files are incomplete or belong to another config.json")
        )
    ignored = {HEAD} if config.tie_word_embeddings else set()
    spare = [n for n in files if n not in targets and n not in ignored and not n.endswith(".rotary_emb.inv_freq")]
    if spare:
        raise CheckpointError(
            f"{directory} holds the tensor {some(spare)}, which a {config.family} model of this config.json does not "
            "have; the files belong to another config.json, or to an option that is not supported"
        )
    for file, names in _by_file(files).items():
        with open_tensors(file) as handle:
            present = set(handle.keys())
            for name in names:
                if name not in present:
                    raise CheckpointError(f"{file} lacks the tensor {name}, which {INDEX} lists for it")
                if name in targets:
                    check_tensor(handle, name, targets[name][0].shape, file)
    return targets


def _check_tie(directory: Path, embedding: Path, head: Path) -> None:
    with open_tensors(embedding) as first, open_tensors(head) as second:
        one, two = first.get_slice(EMBEDDING), second.get_slice(HEAD)
        same = one.get_shape() == two.get_shape() and one.get_dtype() == two.get_dtype()
        count, rows = one.get_shape()[0], _rows_per_piece(one)
        pieces = (slice(start, min(start + rows, count)) for start in range(0, count, rows))
        if same and all(one[piece].tobytes() == two[piece].tobytes() for piece in pieces):
            return
    raise CheckpointError(
        f"{directory}: config.json ties the embeddings, but {HEAD} differs from {EMBEDDING}; set "
        "tie_word_embeddings to false to use both, or remove the tensor that is not meant"
    )


def _rows_per_piece(stored: Any) -> int:
    width = int(np.prod(stored.get_shape()[1:], initial=1)) * 4
    return max(1, PIECE_BYTES // width)


def _place(params: Params, path: tuple[str, ...]) -> Params:
    return params["layers"] if path[0] == "layers" else params


def _load_parts(handles: dict[str, Any], weight: Weight, layers: int, dtype: Any, where: sharding.Mesh) -> jax.Array:
    """Reads one array of the tree onto a mesh."""

    @functools.cache  # devices along `data` hold the same part
    def read(region: tuple[tuple[int, int], ...]) -> np.ndarray:
        part = np.empty([stop - start for start, stop in region], dtype)
        inner = [slice(*span) for span in (region[1:] if weight.stacked else region)]
        inside = tuple(inner[::-1] if weight.transposed else inner)
        for name, layer in weight.tensors(layers):
            tensor = read_part(handles[name], name, inside).astype(dtype)
            target = part[layer] if weight.stacked else part
            target[...] = tensor.T if weight.transposed else tensor
        return part

    shape = weight.array_shape(layers)
    return sharding.make_array(
        where, shape, weight.axes, lambda index: read(tuple((part.start, part.stop) for part in index))
    )


def _fill(array: jax.Array, stored: Any, weight: Weight, layer: int) -> jax.Array:
    rows = _rows_per_piece(stored)
    for row in range(0, weight.shape[0], rows):
        start = (0, row) if weight.transposed else (row, 0)[: len(weight.shape)]
        start = (layer, *start) if weight.stacked else start
        array = _write(array, stored[row : min(row + rows, weight.shape[0])], start, transpose=weight.transposed)
        array.block_until_ready()  # or the pieces would queue up on the host faster than they are used
    return array


@functools.partial(jax.jit, donate_argnums=0, static_argnames="transpose")
def _write(array: jax.Array, piece: jax.Array, start: tuple[int, ...], *, transpose: bool) -> jax.Array:
    piece = (piece.T if transpose else piece).astype(array.dtype)
    return jax.lax.dynamic_update_slice(array, piece.reshape((1,) * (array.ndim - piece.ndim) + piece.shape), start)


def _entries(params: Params, weight: Weight, layers: int) -> Iterator[tuple[str, Any, int]]:
    """Yields name, reader and size in bytes of each tensor of a weight."""
    array = _place(params, weight.path)[weight.path[-1]]
    size = array.dtype.itemsize * int(np.prod(weight.shape))

    def read(layer: int) -> np.ndarray:
        tensor = sharding.to_host(array[layer] if weight.stacked else array)
        return np.ascontiguousarray(tensor.T if weight.transposed else tensor)

    for name, layer in weight.tensors(layers):
        yield name, functools.partial(read, layer), size
