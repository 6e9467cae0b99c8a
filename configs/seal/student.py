r"""A teacher and a student of different size: the embedded model writes, a model of half its layers learns.

SEAL's loop with `config.student`, a variant that the paper proposes and does not run (arXiv 2506.10943): the policy, of
four layers, writes the edits; each is applied to the student, of two layers, which stays as it was between rounds; the
reward is how well the adapted student answers. Two rounds of ReST-EM train the teacher to write what the student learns
from (docs/results.md).

Cost: 4 to 5 minutes on one of 2 CPU cores beside other jobs.

    selfadapt train --config=seal/student --workdir=runs/student

`tiny_small`, the student, was pretrained as the teacher was, with fewer layers:

    selfadapt pretrain --config=pretrain_tiny --config.model.num_hidden_layers=2 --workdir=runs/pretrain_tiny_small
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment()
    config.name = "student"
    config.model = "tiny"  # the teacher
    config.student = "tiny_small"
    config.data.path = "tiny_world"
    config.rounds = 2
    return config
