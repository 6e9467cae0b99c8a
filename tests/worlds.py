"""Models with the tiny world's tokenizer that are small enough for whole runs, or quickly compiled."""

import dataclasses
import pathlib

import jax

from selfadapt.domains.tiny import world
from selfadapt.domains.tiny.model import save
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model, load_model
from selfadapt.models.tiny_tokenizer import build_tokenizer


def random_world_model(directory: pathlib.Path, **changes) -> pathlib.Path:
    """Writes the model as a Hugging Face directory and returns the directory.

    Args:
      directory: where to write it.
      **changes: fields of its config.json to set otherwise.
    """
    tokenizer = build_tokenizer(world.every_text(), max_length=1024)
    raw = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    } | changes
    generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = ModelConfig.from_json(raw, source="the test's config")
    model = Model.random(config, seed=0, tokenizer=tokenizer)
    model.generation_config = generation
    save(model, directory)
    return directory


def first_layer(name: str = "tiny") -> Model:
    """Returns an embedded model without its layers after the first."""
    model = load_model(name)
    params = {**model.params, "layers": jax.tree.map(lambda leaf: leaf[:1], model.params["layers"])}
    config = dataclasses.replace(model.config, num_layers=1)
    return Model(config, params, model.tokenizer, generation_config=model.generation_config)
