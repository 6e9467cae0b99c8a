r"""SEAL's knowledge incorporation, whole, on the embedded model: the main job in a few minutes on a laptop.

What it shows: a model of a million parameters reads passages about made-up things, writes edits, is
finetuned on each edit and asked about the passage without seeing it. Two rounds of ReST-EM teach it to
write edits that teach. The ladder compares, on held-out passages, no adaptation, the passage alone, edits
of the untrained policy, of each round's policy, and of an oracle (gold question-answer lines).

Cost: under 5 minutes on 2 CPU cores and 4 GB, compilation included. docs/results.md has the numbers.

    selfadapt train --config=configs/quickstart.py --workdir=runs/quickstart

With another model all hyper-parameters become SEAL's (`config.preset`); here on SEAL's own data:

    selfadapt train --config=configs/quickstart.py --workdir=runs/squad \
        --config.model=PATH_OR_HUB_ID --config.data.path=squad_val.json
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment()
    config.name = "quickstart"
    config.model = "tiny"  # the embedded model, a Hugging Face directory, or a hub id
    config.data.path = "tiny_world"  # or a file of passages and questions
    config.rounds = 2
    config.contexts = 64  # passages per round
    config.edits = 5  # sampled for each passage
    config.evaluation.contexts = 64  # held-out passages
    return config
