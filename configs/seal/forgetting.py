r"""Remedies for forgetting, on the streams of `continual.py`: what is left of the first of eight passages.

What it shows: 16 streams of 8 made-up passages, learned one after the other from the policy's edits. Beside SEAL's sum
of adapters: a smaller learning rate, replay of old edits, a penalty on overlap with earlier adapters, one on leaving
the model before any edit on other texts, the mean of the adapters, and one adapter for each passage, found by the words
of the question or by an oracle. All take as many inner updates and optimizer steps; replay and the other texts are
trained on beside the edits. The report has a table and a plot of all of them.

Cost: 896 inner updates and about 25,000 answers; 27 minutes on one CPU core beside other jobs. docs/results.md has the
results with a trained policy. It needs `pip install 'selfadapt[retrieval]'`.

    selfadapt evaluate --config=configs/seal/forgetting.py --workdir=runs/forgetting

With a trained policy, and other strengths:

    selfadapt evaluate --config=configs/seal/forgetting.py --workdir=runs/forgetting-trained \
        --config.protocol.policy=runs/quickstart --config.protocol.rate_factor=0.1 --config.protocol.orthogonality=5.0
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run; `selfadapt/protocols/defaults.py` and `selfadapt/defaults.py` explain every field."""
    config = defaults.protocol("continual")
    config.name = "forgetting"
    config.model = "tiny"
    config.protocol.variants = ("none", "policy")
    config.protocol.remedies = (
        *("sum", "smaller", "replay", "orthogonal", "anchored", "mean"),
        *("retrieved", "retrieved_oracle"),
    )
    config.protocol.runs = 2
    config.protocol.streams = 8  # per run
    config.protocol.passages = 8  # per stream
    config.evaluation.contexts = 128  # one for each
    return config
