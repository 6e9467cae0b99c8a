"""Pretrains a decoder of 1M parameters that follows instructions of a few lines and rewrites them after a summary.

9.8M tokens. It has not been run to its end. After 700 steps (8 minutes on 2 CPU cores that other jobs shared) the
answers of units had a loss of 0.04 nats per token, those of SQL 0.28, of codes 0.47, of formats 0.53, and fell slowly.
Steps and rates are those of the other embedded models, with rows that are longer.
`selfadapt pretrain` logs the loss of each kind of document, and at the end what `selfadapt.domains.tiny.rules.check`
finds on held-out environments: the accuracy with the seed instruction, with the whole rule and after one edit, and what
the lines of edits are.

    selfadapt pretrain --config=configs/pretrain_tiny_rules.py --workdir=runs/pretrain_tiny_rules
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config of the model of the tiny world of rules."""
    config = ConfigDict()
    config.world = "rules"  # a key of selfadapt.domains.tiny.model.WORLDS
    config.start = ""  # a model's directory to continue from, such as an interrupted run's; "" for random weights
    config.seed = 0
    config.steps = 1200
    config.rows = 16  # of a batch
    config.row_tokens = 256  # the longest edit's document has about as many
    config.save_every = 400  # steps
    config.check = ConfigDict({"environments": 32})  # held-out ones
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
