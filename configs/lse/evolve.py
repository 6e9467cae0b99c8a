r"""LSE's evolution at test time in the world of rules: how good instructions become in twelve edits.

What it shows: instructions of held-out environments of the world of rules, edited in rounds: each round edits the node
of a tree that the rule selects (arXiv 2603.18620, algorithm 1). Beside the tree: a chain of edits, as many edits of
the seed instruction, no edit, and the whole rule. Reported is the accuracy of the instruction that other problems of
the holdout chose, beside that of the best one on the problems that chose it, which LSE reports. docs/results.md has
the results of all methods with editors that lse/quickstart trained.

    selfadapt evaluate --config=lse/evolve --workdir=runs/evolve

With a trained editor, and the untrained one beside it on the same environments:

    selfadapt evaluate --config=lse/evolve --workdir=runs/evolve_trained --config.protocol.policy=runs/lse \
        --config.protocol.variants=none,untrained_tree,untrained_chain,trained_tree,trained_chain,oracle

Beside other methods, with as many answers to problems (docs/lse.md; GEPA needs pip install 'selfadapt[gepa]'):

    selfadapt evaluate --config=lse/evolve --workdir=runs/evolve_methods \
        --config.protocol.variants=none,untrained_tree,untrained_gepa,untrained_textgrad,oracle

More edits: --config.domain.tree_rounds=12; another rule: --config.domain.selection=best.
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run; `selfadapt/protocols/defaults.py` and `selfadapt/defaults.py` explain every field."""
    config = defaults.protocol("evolve")
    config.name = "evolve"
    config.model = "tiny_rules"
    config.data.source = "tiny_rules"
    config.domain.tree_rounds = 6
    config.domain.tree_edits = 2
    return config
