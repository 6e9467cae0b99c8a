"""Pretrains the embedded model: a decoder of 1M parameters that reads and writes about the tiny world.

4.3M tokens; reading appears between 2M and 3M. It then answers every question about a passage that it has at
hand, and writes edits of every quality.

Cost: 13 minutes on 2 CPU cores that other jobs shared, 1 GB.

    selfadapt pretrain --config=configs/pretrain_tiny.py --workdir=runs/pretrain_tiny

The workdir's `model` is what the package ships as `selfadapt/assets/tiny`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config that the embedded model was made with."""
    config = ConfigDict()
    config.world = "knowledge"  # a key of selfadapt.domains.tiny.model.WORLDS
    config.start = ""  # a model's directory to continue from, such as an interrupted run's; "" for random weights
    config.seed = 0
    config.steps = 1400
    config.rows = 16  # of a batch
    config.row_tokens = 192
    config.save_every = 500  # steps
    config.check = ConfigDict({"passages": 64})  # held-out ones that the finished model is checked on
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
