"""Pretrains the embedded model: a decoder of 1M parameters that reads and writes about the tiny world.

4.3M tokens; reading appears between 2M and 3M. It then answers every question about a passage that it has at
hand, and writes edits of every quality.

Cost: 13 minutes on 2 CPU cores that other jobs shared, 1 GB.

    selfadapt pretrain --config=configs/pretrain_tiny.py --workdir=runs/pretrain_tiny

The workdir's `model` is what the package ships as `selfadapt/assets/tiny`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config that the embedded model was made with."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.steps = 1400
    config.rows = 16  # of a batch
    config.row_tokens = 192
    config.check_passages = 64  # held-out passages that the finished model is checked on
    config.model = ml_collections.ConfigDict(  # in the words of a Llama's config.json
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
        }
    )
    config.optimizer = ml_collections.ConfigDict(
        {"matrix_rate": 1e-2, "vector_rate": 3e-3, "embedding_rate": 0.03, "decay_share": 0.4}
    )
    return config
