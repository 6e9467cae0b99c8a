"""The policy decides for each task between a context edit and a weight edit, or both, by what it writes.

An edit's lines stand under "words:" (they are put into the prompt of the model that answers), under "weights:" (a LoRA
adapter is trained on them), or some under each. The reward is the accuracy on sixteen questions. A third of the tasks
are rules that an instruction can state and that training on the statement does not teach; a third are tables of 20
facts, of which a prompt takes 12 lines; a third have both. The embedded model "tiny_tables" writes words more often
than weights or both, each about as often for every kind of task, and ReST-EM learns from the rewards which way pays for
which (RLOO, at this package's defaults, settles on words for every kind: docs/weights_or_words.md). The model that
answers stays the same: the policy is trained as an adapter.

The rows compare, on held-out tasks, no edit, the edits of the untrained and of each round's policy, and a perfect
author's; beside them what the untrained and the last policy write where they may use one way only, and a perfect author
with one way only. The report has the choice for each kind of task (docs/weights_or_words.md).

Cost: 4 to 5 minutes on one of 2 CPU cores. docs/weights_or_words.md has the results of two seeds.

    selfadapt train --config=lse/weights_or_words --workdir=runs/ways

Policies that are trained with one way only:

    selfadapt train --config=lse/weights_or_words --workdir=runs/words --config.domain.way=words
    selfadapt train --config=lse/weights_or_words --workdir=runs/weights --config.domain.way=weights
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment; `selfadapt/defaults.py` explains every field."""
    config = defaults.experiment("weights_or_words")
    config.name = "weights_or_words"
    config.model = "tiny_tables"
    config.data.source = "tiny_tables"
    config.rounds = 4
    config.outer.rest_em.merge = False
    return config
