"""LSE in the world of rules, longer: more environments, deeper trees, and rounds that use all their nodes.

As `lse/quickstart`, with 64 training environments, trees of four rounds of two edits (at most 576 situations), and 18
rounds of 32 situations. The run has not been measured yet.

    selfadapt train --config=lse/tiny_rules --workdir=runs/lse_tiny_rules
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment("instructions")
    config.name = "lse_tiny_rules"
    config.model = "tiny_rules"
    config.data.source = "tiny_rules"
    config.rounds = 18
    config.domain.environments = 64
    config.domain.tree_rounds = 4
    config.outer.name = "reinforce"
    config.outer.reinforce.baseline = "task"
    config.evaluation.contexts = 64
    config.evaluation.edits = 2
    return config
