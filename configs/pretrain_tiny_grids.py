r"""Pretrains the embedded model "tiny_grids": a decoder of 1M parameters that solves few-shot puzzles on small grids.

8.0M tokens. This config is one run of as many steps as made the weights that ship, which were made in three parts, each
from the weights of the one before, since the machine was shared (the first two were stopped after 2000 and 250 steps):

    selfadapt pretrain --config=pretrain_tiny_grids --workdir=runs/1 \
        --config.steps=4500 --config.optimizer.decay_share=0.4
    selfadapt pretrain --config=pretrain_tiny_grids --workdir=runs/2 --config.start=runs/1/model --config.seed=1 \
        --config.steps=1500 --config.save_every=250 --config.optimizer.decay_share=0.6
    selfadapt pretrain --config=pretrain_tiny_grids --workdir=runs/3 --config.start=runs/2/model --config.seed=2 \
        --config.steps=350 --config.optimizer.decay_share=0.95

It then solves 79% of new tasks of one step in context, 40% of the compositions that it was pretrained on and 12.5% of
those of training tasks (48 tasks of each), and writes directives of all values, 99% of them valid.

Cost: about 0.28 s per step on 2 CPU cores with nothing beside it.

    selfadapt pretrain --config=configs/pretrain_tiny_grids.py --workdir=runs/pretrain_tiny_grids
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config of a run as long as the one that made the embedded model."""
    config = ConfigDict()
    config.world = "grids"  # a key of selfadapt.domains.tiny.model.WORLDS
    config.start = ""  # a model's directory to continue from, such as an interrupted run's; "" for random weights
    config.seed = 0
    config.steps = 2600
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
        {"matrix_rate": 1e-2, "vector_rate": 3e-3, "embedding_rate": 0.03, "decay_share": 0.13}
    )
    return config
