"""A model: architecture, parameters and tokenizer, from a directory or the hub."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt import files, presets
from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder, hf, tensor_files
from selfadapt.models.config import ConfigError, ModelConfig
from selfadapt.models.lora import Adapters, Lora
from selfadapt.parallel import distributed, sharding

# The directories of the models that come with the package.
EMBEDDED = {name: Path(__file__).parent.parent / "assets" / name for name in presets.EMBEDDED}
DTYPES = ("float32", "bfloat16")
# Weights in safetensors, JSON and tokenizer files; never a pickle, never code.
_HUB_FILES = ("*.json", "model*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "*.jinja")
_HUB_IGNORED = ("original/*", "onnx/*", "*.py", "*.bin")


class Model:
    """A language model: its architecture, its parameters and its tokenizer.

    Attributes:
      config: the architecture.
      params: the parameter tree (its structure: `selfadapt.models.hf.load_params`).
      raw_config: the fields of its `config.json`.
      generation_config: the fields of its `generation_config.json`, `None` if it has none.
      name: the path or hub id that it was loaded from, "" for one made in memory.
      mesh: the devices that it is sharded over (`selfadapt.parallel.sharding.make_mesh`), `None` for a single one.
      master: float32 copies, by name, of the parameters that `selfadapt.models.peft.merge` (`[layers, in, out]`) or the
        training of all weights has changed, of which the parameters are the rounded values; `None` for a float32
        model, or where none are kept. `save` writes the parameters only.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: hf.Params,
        tokenizer: Any = None,
        raw_config: dict[str, Any] | None = None,
        *,
        generation_config: dict[str, Any] | None = None,
        name: str = "",
        directory: Path | None = None,
        mesh: sharding.Mesh | None = None,
    ):
        self.config = config
        self.params = params
        self.raw_config = config.to_json() if raw_config is None else raw_config
        self.generation_config = generation_config
        self.name = name
        self.mesh = mesh
        self.master: dict[str, jax.Array] | None = None
        self._tokenizer = tokenizer
        self._directory = directory

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"Model({self.name or self.config.family!r}, {count / 1e6:.1f}M parameters, {self.dtype})"

    @classmethod
    def random(
        cls,
        config: ModelConfig,
        seed: int = 0,
        dtype: str = "float32",
        tokenizer: Any = None,
        mesh: sharding.Mesh | None = None,
    ) -> Model:
        """Returns a model of the given architecture with random parameters."""
        return cls(config, random_params(config, jax.random.key(seed), _dtype(dtype), mesh), tokenizer, mesh=mesh)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the parameters."""
        return self.params["embed_tokens"].dtype

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, read when it is first used; `None` if the model has none.

        Raises:
          CheckpointError: its files are damaged, or could only be read by running code of theirs.
        """
        if self._tokenizer is None and self._directory is not None and _has_tokenizer(self._directory):
            self._tokenizer = _load_tokenizer(self._directory)
        return self._tokenizer

    def with_params(self, params: hf.Params, master: dict[str, jax.Array] | None = None) -> Model:
        """Returns the same model with other parameters and their float32 master copies, if any."""
        other = copy.copy(self)
        other.params, other.master = params, master
        return other

    def logits(self, tokens: Any, adapters: Adapters | None = None) -> jax.Array:
        """Returns the logits of the next token at every position, in float32.

        Rows of different length are padded on the right with any token id; attention is causal, so the
        logits before the padding do not depend on it.

        Args:
          tokens: token ids, `[rows, time]`; `[K, rows, time]` with a stack of K adapters.
          adapters: a stack of adapters, or `None` for the base model.

        Returns:
          `[rows, time, vocab]` for tokens `[rows, time]`; `[K, rows, time, vocab]` for `[K, rows, time]`.

        Raises:
          ValueError: the shapes do not go together, an id is outside the vocabulary, or an adapter was
            made for another base.
        """
        tokens = np.asarray(tokens)
        if not np.issubdtype(tokens.dtype, np.integer):
            raise InvalidValueError(f"tokens are {tokens.dtype}; they must be whole numbers")
        count = 1 if adapters is None else len(adapters)
        if not (tokens.ndim == 2 and count == 1) and not (
            tokens.ndim == 3 and adapters is not None and tokens.shape[0] == count
        ):
            wanted = "no adapters they must be [rows, time]"
            if adapters is not None:
                wanted = f"{count} adapters they must be [{count}, rows, time]"
            raise InvalidValueError(f"tokens have shape {tokens.shape}; with {wanted}")
        if tokens.size and not (0 <= tokens.min() and tokens.max() < self.config.vocab_size):
            raise InvalidValueError(
                f"tokens hold ids from {tokens.min()} to {tokens.max()}; the vocabulary has {self.config.vocab_size}"
            )
        if adapters is not None:
            check_base(self.config, adapters)
            adapters = adapters.on(self.mesh)
        stacked = (tokens if tokens.ndim == 3 else tokens[None]).astype(np.int32)
        lora = None if adapters is None else adapters.lora
        if lora is not None and (more := len(lora.scale) - count):  # a mesh's padding adapters
            stacked = np.pad(stacked, [(0, more), (0, 0), (0, 0)])
        with sharding.using(self.mesh):
            out = _logits(self.params, self.config, stacked, lora)[:count]
        return out if tokens.ndim == 3 else out[0]

    def save(self, path: str | Path) -> None:
        """Writes the model as a Hugging Face directory that `transformers` and `load_model` read.

        Args:
          path: the directory; it is made if it is absent, and the model in it replaced if it is not.

        Raises:
          StorageError: a file cannot be written; no partial file is left.
        """
        directory = files.make_directory(path)
        hf.save_params(self.params, self.config, directory)
        if not distributed.is_main():
            return
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)
        raw = dict(self.raw_config)
        for field in [name for name in ("dtype", "torch_dtype") if name in raw] or ["dtype"]:
            raw[field] = str(self.dtype)
        files.write_json(directory / "config.json", raw)
        if self.generation_config is not None:
            files.write_json(directory / "generation_config.json", self.generation_config)


def load_model(path_or_hub_id: str | Path, *, dtype: str = "float32", mesh: sharding.Mesh | None = None) -> Model:
    """Loads a Llama 3, Mistral, Qwen2 or Qwen3 model.

    Args:
      path_or_hub_id: a Hugging Face model directory, the id of a model on the hub, or the name of an embedded model
        (`selfadapt.presets.EMBEDDED`).
      dtype: "float32" or "bfloat16"; weights stored otherwise are converted.
      mesh: the devices to shard it over (`selfadapt.parallel.sharding.make_mesh`); each reads only the parts of
        the weights that its devices hold. `None` for a single device.

    Returns:
      The model. Its tokenizer is read when it is first used.

    Raises:
      CheckpointError: no such model, or files that are missing, damaged or do not fit the `config.json`.
      ConfigError: a field of `config.json` is missing or makes no sense.
      UnsupportedModelError: the architecture or one of its options is not supported.
    """
    kind = _dtype(dtype)
    directory = _directory(path_or_hub_id)
    config, raw, generation = read_architecture(directory / "config.json")
    return Model(
        config,
        hf.load_params(directory, config, kind, mesh),
        raw_config=raw,
        generation_config=generation,
        name=str(path_or_hub_id),
        directory=directory,
        mesh=mesh,
    )


def read_architecture(file: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, Any] | None]:
    """Returns what a `config.json` describes, its fields, and those of the `generation_config.json` beside it, if any.

    Raises:
      CheckpointError: a file is missing or no JSON.
      ConfigError: a field is missing or makes no sense.
      UnsupportedModelError: the architecture or one of its options is not supported.
    """
    raw = tensor_files.read_json(file)
    beside = file.parent / "generation_config.json"
    generation = tensor_files.read_json(beside) if beside.exists() else None
    return ModelConfig.from_json(raw, source=str(file), generation=generation), raw, generation


def random_params(
    config: ModelConfig, key: jax.Array, dtype: Any = jnp.float32, mesh: sharding.Mesh | None = None
) -> hf.Params:
    """Draws parameters: normal with standard deviation 0.02, norms one, biases zero; the same on every mesh."""
    params: hf.Params = {"layers": {}}
    for weight in hf.weights(config):
        name, shape = weight.path[-1], weight.array_shape(config.num_layers)
        if name.endswith("norm"):
            leaf = jnp.ones(shape, dtype)
        elif name.endswith("_bias"):
            leaf = jnp.zeros(shape, dtype)
        else:
            key, own = jax.random.split(key)
            leaf = _normal(own, shape, jnp.dtype(dtype).name)
        (params["layers"] if weight.stacked else params)[name] = sharding.put(mesh, leaf, weight.axes)
    return params


def check_base(config: ModelConfig, adapters: Adapters) -> None:
    """Checks that adapters have the shapes that a base model asks for.

    Raises:
      ValueError: a factor of theirs has another shape; it is named.
    """
    known = config.projections()
    for name in adapters.lora.a:
        if name not in known:
            raise InvalidValueError(f"the adapter has the target {name}; the base model has only {', '.join(known)}")
        for side, axis in (("a", 2), ("b", 3)):
            found = getattr(adapters.lora, side)[name].shape
            wanted = known[name][axis - 2]
            if (found[0], found[axis]) != (config.num_layers, wanted):
                raise InvalidValueError(
                    f"the adapter was made for another base: {name} has {found[0]} layers and {found[axis]} features "
                    f"{'in' if side == 'a' else 'out'}; this model has {config.num_layers} and {wanted}"
                )


@functools.partial(jax.jit, static_argnames="config")
def _logits(params: hf.Params, config: ModelConfig, tokens: jax.Array, lora: Lora | None) -> jax.Array:
    return decoder.logits(params, config, decoder.forward(params, config, tokens, lora=lora))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return (0.02 * jax.random.normal(key, shape)).astype(dtype)


def _dtype(name: str) -> jnp.dtype:
    if str(name) not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}")
    return jnp.dtype(str(name))


def _directory(path_or_hub_id: str | Path) -> Path:
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_hub_id)
    if name in EMBEDDED:
        return EMBEDDED[name]
    if path.exists():
        raise tensor_files.CheckpointError(
            f"{name} is a file; give the directory that holds config.json and the weights"
        )
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise tensor_files.CheckpointError(f"there is no directory {name}, and it is not the id of a model on the hub")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES), ignore_patterns=list(_HUB_IGNORED))
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise tensor_files.CheckpointError(
            f"there is no directory {name}, and the hub did not give a model of this name ({reason}); check the "
            "spelling, the network, and for a gated model that you are logged in"
        ) from error


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def _load_tokenizer(directory: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        raise tensor_files.CheckpointError(
            f"the tokenizer in {directory} cannot be read ({error}); download or save its files again"
        ) from error
