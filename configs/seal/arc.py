r"""SEAL's few-shot ARC, whole, on the embedded model "tiny_grids" and its world.

A model of a million parameters reads four demonstrations of a rule on small grids and writes a directive: which
augmentations of the demonstrations to train on, how fast, how long and with which loss. Trained by it, it answers
the task's test. ReST-EM finetunes it on directives that solve tasks which it does not solve in context. The rows
compare, on held-out tasks, no adaptation (in-context learning), random directives, those of the untrained and of each
round's policy, the best constant directive, and an oracle's. Over five seeds .17 of the tasks are solved in context,
.23 with the untrained policy's directives, .33 after two rounds, and .48 with the oracle's (docs/results.md).

Cost: 9 to 11 minutes on 2 CPU cores beside other jobs.

    selfadapt train --config=seal/arc --workdir=runs/arc
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment("arc")
    config.name = "arc"
    config.model = "tiny_grids"
    config.data.path = "tiny_grids"
    config.rounds = 2
    config.outer.rest_em.merge = False  # directives improve, but the finetuned weights learn less from them
    config.evaluation.search = 8
    return config
