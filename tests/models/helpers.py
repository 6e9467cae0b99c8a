"""Small random checkpoints of every family, made by transformers itself, for tests to share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# Each family with the options that set it apart.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "qwen2-tied": {"tie_word_embeddings": True},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"head_dim": 24, "tie_word_embeddings": True},
}


def tiny_torch_model(family: str, seed: int = 0, **config_changes: Any):
    """Returns a small torch model whose norms and biases differ from their defaults.

    Args:
      family: a key of `FAMILIES`.
      seed: seeds the weights.
      **config_changes: fields of its config to set otherwise.
    """
    import torch
    import transformers

    torch.set_num_threads(1)  # at these sizes threads only wait for each other
    base = family.split("-")[0]
    fields = SHAPE | FAMILIES[family] | {"attn_implementation": "eager"} | config_changes
    config = transformers.CONFIG_MAPPING[base](**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(noise * 0.3 + (0.0 if name.endswith("bias") else 1.0))
            else:
                weight.copy_(noise * (0.5 if "embed" in name else 1.5 / weight.shape[1] ** 0.5))
    return model


def tiny_checkpoint(family: str, directory: Path | str, *, seed: int = 0, tokenizer: bool = False, **config_changes):
    """Writes a small random checkpoint; returns the torch model that it holds.

    Args:
      family: a key of `FAMILIES`.
      directory: where to write it.
      seed: seeds the weights.
      tokenizer: whether to add a tokenizer of one token per character.
      **config_changes: fields of its config to set otherwise.
    """
    model = tiny_torch_model(family, seed, **config_changes)
    model.save_pretrained(directory)
    if tokenizer:
        character_tokenizer().save_pretrained(directory)
    return model


def character_tokenizer():
    """Returns a tokenizer whose ids 3 to 96 are the printable ASCII characters; 0 to 2 are special."""
    import tokenizers
    import transformers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(32 + i): 3 + i for i in range(94)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
