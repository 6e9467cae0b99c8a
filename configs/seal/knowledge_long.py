r"""SEAL's knowledge incorporation over many rounds on the embedded model: how far it gets, and where it saturates.

The experiment of `configs/quickstart.py` with fewer passages and more edits of each per round, many more rounds, and a
policy gradient (RLOO) in place of ReST-EM. The student stays the untrained model, so that the rewards of all rounds can
be compared. The learning curve has the oracle as a line. On seed 0 the held-out accuracy goes from 0.21 to 0.72 in six
rounds and stays there (docs/results.md says why); the oracle's is 0.93, that of the untrained policy at a low
temperature 0.44.

Cost: 21 minutes on 2 CPU cores beside other jobs.

    selfadapt train --config=seal/knowledge_long --workdir=runs/long
    python -m benchmarks.gain runs/long
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment()
    config.name = "knowledge_long"
    config.model = "tiny"
    config.data.path = "tiny_world"
    config.rounds = 18
    config.contexts = 32
    config.edits = 8
    config.evaluation.contexts = 64
    config.outer.name = "rloo"
    config.outer.rloo.learning_rate = 1e-3
    config.outer.rloo.batch_size = 32
    return config
