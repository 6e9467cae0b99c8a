"""LSE's loop, whole, on the embedded model "tiny_rules" and its world.

A model of a million parameters answers questions whose rule is hidden (codes, units, formats, the names in a database)
and that an instruction can state. Its editor reads the current instruction, and five answers beside the truth, and
rewrites the instruction. The reward is the accuracy on sixteen other questions with the new instruction, minus that
with the current one (arXiv 2603.18620). Before the first round the untrained editor grows a tree of instructions for
each of 32 environments, and REINFORCE trains on their nodes. The rows compare, on held-out environments, the seed
instruction (which is empty), one edit of the untrained and of each round's editor, and the whole rule. Over five seeds
the untrained editor's edits reach .14, those after six rounds .28 (docs/results.md).

Cost: about 3 minutes on one of 2 CPU cores beside other jobs.

    selfadapt train --config=lse/quickstart --workdir=runs/lse

How far the trained editor gets in many edits is measured by lse/evolve.
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment("instructions")
    config.name = "lse"
    config.model = "tiny_rules"
    config.data.source = "tiny_rules"
    config.rounds = 6
    config.outer.name = "reinforce"
    config.outer.reinforce.baseline = "task"  # the reward is the improvement
    config.evaluation.edits = 2
    return config
