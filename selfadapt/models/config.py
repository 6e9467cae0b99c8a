"""The architecture of a model, as read from a Hugging Face `config.json`.

Old and new files use different fields for the same thing (`rope_theta` and `rope_scaling`, or
`rope_parameters`); what a file leaves out has the default that `transformers` gives it. An option
that the decoder does not compute is an error, so that no model is run with a wrong architecture.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from selfadapt.errors import UserError

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What transformers assumes of a field that the file leaves out (a null is something else).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
}


class ConfigError(UserError, ValueError):
    """A `config.json` in which a field is missing or makes no sense."""


class UnsupportedModelError(UserError, ValueError):
    """A model, or an option of one, that the decoder does not compute."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency scaling of rotary embeddings (`rope_type: "llama3"`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


# The logical axes (`selfadapt.parallel.sharding`) of what goes into each projection, and of what comes out of it.
PROJECTION_AXES = {
    "q_proj": ("hidden", "heads"),
    "k_proj": ("hidden", "kv_heads"),
    "v_proj": ("hidden", "kv_heads"),
    "o_proj": ("heads", "hidden"),
    "gate_proj": ("hidden", "mlp"),
    "up_proj": ("hidden", "mlp"),
    "down_proj": ("mlp", "hidden"),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that the decoder's shape and arithmetic depend on; hashable, hence static under `jit`.

    Attributes:
      family: "llama", "mistral", "qwen2" or "qwen3".
      qkv_bias: whether the query, key and value projections have biases.
      output_bias: whether the attention's output projection has one.
      mlp_bias: whether the three projections of the MLP have them.
      qk_norm: whether queries and keys are normalised per head (Qwen3).
      windows: for each layer the sliding window in tokens (a query sees itself and the `window - 1`
        tokens before it), 0 for full attention; `None` when every layer has full attention.
      eos_token_ids: the tokens that end a generation.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int, ...] | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def projections(self) -> dict[str, tuple[int, int]]:
        """Returns (features in, features out) of each linear layer of a block, by its Hugging Face name."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        query, value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, value),
            "v_proj": (hidden, value),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }

    @classmethod
    def from_json(
        cls, raw: dict[str, Any], *, source: str = "config.json", generation: dict[str, Any] | None = None
    ) -> ModelConfig:
        """Reads the architecture from the fields of a Hugging Face `config.json`.

        Args:
          raw: the file's content.
          source: where it comes from, for error messages.
          generation: the content of `generation_config.json`; its end-of-sequence tokens come first.

        Raises:
          UnsupportedModelError: the architecture or one of its options is not supported.
          ConfigError: a field is missing or makes no sense.
        """
        return _Reader(raw, source).config(generation or {})

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of a `config.json` that describes this architecture to `transformers`."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if (scaling := self.rope_scaling) is not None:
            rope |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position,
            }
        raw = {
            "architectures": [FAMILIES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.output_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_ids) or None,
        }
        if self.family == "llama":
            raw["mlp_bias"] = self.mlp_bias
        window = max(self.windows) if self.windows else None
        if self.family != "llama":
            raw["sliding_window"] = window
        if self.family in ("qwen2", "qwen3"):
            raw["use_sliding_window"] = window is not None
            raw["layer_types"] = [
                "sliding_attention" if size else "full_attention" for size in self.windows or [0] * self.num_layers
            ]
        return raw


class _Reader:
    """Reads typed fields of one `config.json`; every error names the file and the field."""

    def __init__(self, raw: dict[str, Any], source: str, defaults: dict[str, Any] | None = None):
        self.raw, self.source, self.defaults = raw, source, defaults or {}

    def config(self, generation: dict[str, Any]) -> ModelConfig:
        family = self._family()
        self.defaults = _DEFAULTS[family]
        self._refuse_what_is_not_computed()
        layers, hidden, heads = (
            self._count(field) for field in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        kv_heads = self._count("num_key_value_heads", heads)
        if heads % kv_heads:
            self._bad("num_key_value_heads", f"must divide num_attention_heads ({heads})")
        head_dim = self._count("head_dim", hidden // heads)
        if head_dim % 2:
            self._bad("head_dim", "must be even, since rotary embeddings turn pairs of features", head_dim)
        attention_bias = family in ("llama", "qwen3") and self._flag("attention_bias")
        theta, scaling = self._rope()
        return ModelConfig(
            family=family,
            vocab_size=self._count("vocab_size"),
            hidden_size=hidden,
            intermediate_size=self._count("intermediate_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=self._number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=self._count("max_position_embeddings"),
            tie_word_embeddings=self._flag("tie_word_embeddings"),
            qkv_bias=family == "qwen2" or attention_bias,
            output_bias=attention_bias,
            mlp_bias=family == "llama" and self._flag("mlp_bias"),
            qk_norm=family == "qwen3",
            windows=self._windows(family, layers),
            bos_token_id=next(iter(self._token_ids(self._get("bos_token_id"), "bos_token_id")), None),
            eos_token_ids=self._token_ids(generation.get("eos_token_id"), "eos_token_id")
            or self._token_ids(self._get("eos_token_id"), "eos_token_id"),
        )

    def _family(self) -> str:
        family = self.raw.get("model_type")
        supported = ", ".join(FAMILIES)
        if family not in FAMILIES:
            raise UnsupportedModelError(f"{self.source}: model_type is {family!r}; supported are {supported}")
        wrong = [name for name in self.raw.get("architectures") or [] if name != FAMILIES[family]]
        if wrong:
            raise UnsupportedModelError(
                f"{self.source}: architectures names {wrong[0]!r}; of a {family} model only the language model "
                f"{FAMILIES[family]!r} is supported"
            )
        return family

    def _refuse_what_is_not_computed(self) -> None:
        if quantization := self.raw.get("quantization_config"):
            self._unsupported("quantization_config", quantization, "none: weights in float32, bfloat16 or float16")
        if self.raw.get("hidden_act", "silu") not in ("silu", "swish"):
            self._unsupported("hidden_act", self.raw["hidden_act"], "'silu'")

    def _rope(self) -> tuple[float, RopeScaling | None]:
        # The old field wins over the new one, and inside it the base over the one at the top level, as in transformers.
        field = "rope_scaling" if self.raw.get("rope_scaling") else "rope_parameters"
        rope = self.raw.get(field) or {}
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            self._unsupported(field, rope, "one flat set of parameters for all layers")
        inside = _Reader(rope, f"{self.source}: {field}")
        partial = rope.get("partial_rotary_factor", self.raw.get("partial_rotary_factor"))
        if partial not in (None, 1, 1.0):
            self._unsupported("partial_rotary_factor", partial, "1 (all the features of a head are rotated)")
        theta = inside._number("rope_theta", self._number("rope_theta", 10000.0))
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "default":
            return theta, None
        if kind != "llama3":
            self._unsupported(f"{field}.rope_type", kind, "'default' and 'llama3'")
        original = self.raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        scaling = RopeScaling(
            factor=inside._number("factor"),
            low_freq_factor=inside._number("low_freq_factor"),
            high_freq_factor=inside._number("high_freq_factor"),
            original_max_position=int(original or self._count("max_position_embeddings")),
        )
        if not scaling.low_freq_factor < scaling.high_freq_factor:
            inside._bad("high_freq_factor", f"must exceed low_freq_factor ({scaling.low_freq_factor})")
        return theta, scaling

    def _windows(self, family: str, layers: int) -> tuple[int, ...] | None:
        types = self.raw.get("layer_types")
        if types is not None and (len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}):
            self._unsupported("layer_types", types, f"{layers} of 'full_attention' or 'sliding_attention'")
        window = None
        if family == "mistral" or (family in ("qwen2", "qwen3") and self._flag("use_sliding_window")):
            window = None if self._get("sliding_window") is None else self._count("sliding_window")
        if family in ("llama", "mistral"):
            layer_type = "sliding_attention" if window else "full_attention"
            if types is not None and set(types) != {layer_type}:
                self._unsupported("layer_types", types, f"{layer_type!r} in every layer of this {family} model")
            return (window,) * layers if window else None
        if types is None:
            first = self._count("max_window_layers", 28, minimum=0) if window else layers
            types = ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]
        if "sliding_attention" not in types:
            return None
        if window is None:
            self._bad("layer_types", "has sliding layers, but use_sliding_window is false or sliding_window null")
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)

    def _get(self, field: str, default: Any = None) -> Any:
        return self.raw.get(field, self.defaults.get(field, default))

    def _number(self, field: str, default: float | None = None) -> float:
        value = self._get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            self._bad(field, "must be a positive number")
        return float(value)

    def _count(self, field: str, default: int | None = None, minimum: int = 1) -> int:
        value = self._get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self._bad(field, f"must be a whole number of at least {minimum}")
        return value

    def _flag(self, field: str) -> bool:
        value = self.raw.get(field, False)
        if not isinstance(value, bool):
            self._bad(field, "must be true or false")
        return value

    def _token_ids(self, value: Any, field: str) -> tuple[int, ...]:
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            self._bad(field, "must be a token id, a list of them, or null", value)
        return tuple(ids)

    def _bad(self, field: str, remedy: str, value: Any = None) -> NoReturn:
        value = self._get(field) if value is None else value
        found = f"is {value!r}" if field in self.raw or value is not None else "is missing"
        raise ConfigError(f"{self.source}: {field} {found}; it {remedy}")

    def _unsupported(self, field: str, value: Any, supported: str) -> None:
        raise UnsupportedModelError(f"{self.source}: {field} is {value!r}; supported is {supported}")
