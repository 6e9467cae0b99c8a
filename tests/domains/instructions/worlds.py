"""A random model with the tokenizer of the tiny world of rules, small enough that whole runs are fast."""

import pathlib

from selfadapt.domains.tiny.model import save
from selfadapt.domains.tiny.rules.pretraining import make_tokenizer
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model


def random_rules_model(directory: pathlib.Path, hidden_size: int = 16) -> pathlib.Path:
    """Writes the model as a Hugging Face directory and returns the directory."""
    tokenizer = make_tokenizer(512)
    raw = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = Model.random(ModelConfig.from_json(raw, source="the test's config"), seed=0, tokenizer=tokenizer)
    model.generation_config = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save(model, directory)
    return directory
