"""Pretrains a model of the tiny world of grids: a decoder of 1M parameters that solves few-shot puzzles.

    selfadapt pretrain --config=configs/pretrain_tiny_grids.py --workdir=runs/pretrain_tiny_grids

The workdir's `model` is for config.model of experiments with config.data.path="tiny_grids".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = ConfigDict()
    config.world = "grids"  # a key of selfadapt.domains.tiny.model.WORLDS
    config.start = ""  # a model's directory to continue from, such as an interrupted run's; "" for random weights
    config.seed = 0
    config.steps = 4500
    config.rows = 16  # of a batch
    config.row_tokens = 192
    config.save_every = 500  # steps
    config.check = ConfigDict({"tasks": 64})  # of each kind, that the finished model is checked on
    config.model = ConfigDict(  # in the words of a Llama's config.json
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
        }
    )
    config.optimizer = ConfigDict(
        {"matrix_rate": 1e-2, "vector_rate": 3e-3, "embedding_rate": 0.03, "decay_share": 0.4}
    )
    return config
