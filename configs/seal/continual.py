r"""SEAL's continual self-edits on the embedded model: what remains of the first passages after eight.

What it shows: 16 streams of 8 made-up passages. At each step a stream's model writes an edit of the next passage,
learns it on top of what it learned before, and answers the questions of all passages so far (arXiv 2506.10943,
section 5). Beside the policy's edits: no edit, the passage alone, and the edits of a perfect author. The report has a
heat map of each.

Cost: 384 inner updates and about 11,000 answers; 8 to 11 minutes on one CPU core beside other jobs. docs/results.md
has the results with a trained policy.

    selfadapt evaluate --config=configs/seal/continual.py --workdir=runs/continual

With a trained policy, and the untrained one beside it on the same streams:

    selfadapt evaluate --config=configs/seal/continual.py --workdir=runs/continual-trained \
        --config.protocol.policy=runs/quickstart --config.protocol.variants=none,passage,untrained,policy
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run; `selfadapt/protocols/defaults.py` and `selfadapt/defaults.py` explain every field."""
    config = defaults.protocol("continual")
    config.name = "continual"
    config.model = "tiny"
    config.protocol.runs = 2
    config.protocol.streams = 8  # per run
    config.protocol.passages = 8  # per stream
    config.evaluation.contexts = 128  # one for each
    return config
