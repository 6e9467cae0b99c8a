"""Continues the pretraining of "tiny_rules": the embedded model "tiny_tables" looks up facts and marks its edits.

1.0M tokens. On 8 held-out cases of each kind it then answers all questions about lines of its prompt right, and 12% of
its edits are invalid. For each kind 44% to 50% are words, 25% to 28% weights and 12% to 19% both. Of their lines 89%
are right for rules, 81% for tables, and 62% where there are both. `selfadapt pretrain` logs the loss of each
kind of document, and at the end what `selfadapt.domains.tiny.tables.check` finds.

Cost: 23 minutes on 2 CPU cores that were busy with other jobs.

    selfadapt pretrain --config=configs/pretrain_tiny_tables.py --workdir=runs/pretrain_tiny_tables

The workdir's `model` is what the package ships as `selfadapt/assets/tiny_tables`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config of the model of the tiny world of tables."""
    config = ConfigDict()
    config.world = "tables"  # a key of selfadapt.domains.tiny.model.WORLDS
    config.start = "tiny_rules"
    config.seed = 0
    config.steps = 250
    config.rows = 16  # of a batch
    config.row_tokens = 256  # the longest edit's document has 240
    config.save_every = 50  # steps
    config.check = ConfigDict({"cases": 32})  # held-out ones of each kind
    config.model = ConfigDict(  # those of the model to start from, in the words of a Llama's config.json
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
        {"matrix_rate": 8e-3, "vector_rate": 2e-3, "embedding_rate": 0.02, "decay_share": 0.5}
    )
    return config
