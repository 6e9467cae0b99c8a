r"""Continued pretraining on the embedded model: accuracy when 1, 64 or 256 passages are learned in one update.

What it shows: 256 made-up passages, three edits of each. One update learns the edits of n passages as documents (SEAL's
second experiment, arXiv 2506.10943, section 4.1 and table 2), and all n passages are asked about without showing them.
Beside the policy's edits: no update, the passages alone, and the edits of a perfect author. The report has a curve of
accuracy against n for each.

Cost: 54 inner updates of up to 1,024 sequences, and about 8,000 answers.

    selfadapt evaluate --config=configs/seal/continued_pretraining.py --workdir=runs/pretraining

With a trained policy, and the untrained one beside it on the same passages; and with all weights instead of an adapter:

    selfadapt evaluate --config=configs/seal/continued_pretraining.py --workdir=runs/pretraining-trained \
        --config.protocol.policy=runs/quickstart --config.protocol.variants=none,passage,untrained,policy
    selfadapt evaluate --config=configs/seal/continued_pretraining.py --workdir=runs/pretraining-all \
        --config.protocol.train=all --config.inner.learning_rate=1e-3

More passages: `--config.protocol.sizes=1,16,64,256,1000 --config.evaluation.contexts=1000`.
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run; `selfadapt/protocols/defaults.py` and `selfadapt/defaults.py` explain every field."""
    config = defaults.protocol("pretraining")
    config.name = "continued-pretraining"
    config.model = "tiny"
    config.protocol.sizes = (1, 64, 256)
    config.protocol.singles = 16  # passages that n = 1 is the mean over
    config.protocol.repeat_passage = False
    config.evaluation.contexts = 256
    config.evaluation.edits = 3  # per passage
    config.domain.split = "document"  # an edit is one sequence
    config.inner.rank = 32
    config.inner.alpha = 64.0
    config.inner.learning_rate = 3e-3
    config.inner.batch_size = 2
    config.inner.epochs = 8
    config.inner.warmup_steps = 0
    return config
