r"""SEAL's knowledge incorporation without given questions: the policy writes those that its rewards come from.

What it shows: the experiment of `configs/quickstart.py`, except that before the first round the untrained policy writes
questions about each training passage and answers them with the passage at hand (docs/knowledge.md). The passages that
policies are evaluated on are asked the given questions, so the ladder can be compared with the quickstart's of the same
seed. `questions.json` in the workdir and the report have the questions.

Cost: that of the quickstart, and the writing of about 1000 questions.

    selfadapt train --config=seal/self_written --workdir=runs/self_written

With your own passages, which need no questions, and held-out ones that have some:

    selfadapt train --config=seal/self_written --workdir=runs/mine --config.model=PATH_OR_HUB_ID \
        --config.data.path=passages.json --config.data.eval_path=squad_val.json
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment()
    config.name = "self_written"
    config.model = "tiny"
    config.data.path = "tiny_world"
    config.domain.questions = "written"
    config.rounds = 2
    config.contexts = 64  # passages per round
    config.edits = 5  # sampled for each passage
    config.evaluation.contexts = 64  # held-out passages
    return config
