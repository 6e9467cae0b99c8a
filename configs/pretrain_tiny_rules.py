"""Pretrains the embedded model "tiny_rules": a decoder of 1M parameters that follows instructions and rewrites them.

4.9M tokens; looking up the lines of codes and formats appears between 1.6M and 2.5M. On held-out environments (32) it
then answers all questions right with the whole rule and none without one, and all its edits are valid: of their lines
48% to 55% are right, 25% to 28% wrong, and the rest about nothing in the rule.
`selfadapt pretrain` logs the loss of each kind of document, and at the end what `selfadapt.domains.tiny.rules.check`
finds.

Cost: 24 minutes on one CPU core beside other jobs.

    selfadapt pretrain --config=configs/pretrain_tiny_rules.py --workdir=runs/pretrain_tiny_rules

The workdir's `model` is what the package ships as `selfadapt/assets/tiny_rules`.
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
