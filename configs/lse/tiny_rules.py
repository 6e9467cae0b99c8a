"""LSE in the world of rules, longer: more environments, deeper trees, and rounds that use all their nodes.

As `lse/quickstart`, with 64 training environments, trees of four rounds of two edits (at most 576 situations), and 12
rounds of 32 situations. One run of 18 rounds (seed 0, 64 held-out environments): one edit of the untrained editor
reaches .154, of the editor after 6 rounds .264, after 12 rounds .405; the untrained editor at temperature 0.3 .358.
From round 14 on it collapsed, to 0 after 16. The number of rounds was chosen on that run.

Cost: about 6 minutes on 2 CPU cores.

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
    config.rounds = 12
    config.domain.environments = 64
    config.domain.tree_rounds = 4
    config.outer.name = "reinforce"
    config.outer.reinforce.baseline = "task"
    config.evaluation.contexts = 64
    config.evaluation.edits = 2
    return config
