r"""LSE's evolution at test time on text-to-SQL as published: 25 edits of each of five databases (arXiv 2603.18620).

Published numbers are in lse/paper/bird_qwen3_4b, which trains the editor; they are those that the report calls the best
on the same problems. Which five databases of BIRD's Mini-Dev they are of is not published; here they are the first five
of `dev.json`.

Cost: 5 databases x 25 edits x 60 problems for each variant, 7,500 answers. Not run: no accelerator was available.

    selfadapt evaluate --config=lse/paper/evolve_bird_qwen3_4b --workdir=runs/evolve_bird \
        --config.model=PATH_OR_HUB_ID --config.protocol.policy=runs/lse_bird \
        --config.data.path=train_prompt.json --config.data.databases=train_databases \
        --config.data.eval_path=dev.json --config.data.eval_databases=dev_databases

Differences from LSE's code: those of lse/paper/bird_qwen3_4b. The problems of a summary are drawn anew each round, the
same for all variants.
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run with the published settings."""
    config = defaults.protocol("evolve")
    config.name = "lse-evolve-bird-qwen3-4b"
    config.preset = "lse"
    config.model = "Qwen/Qwen3-4B-Instruct-2507"
    config.dtype = "bfloat16"
    config.data.source = "sql"
    config.data.path, config.data.databases = "train_prompt.json", "train_databases"
    config.data.eval_path, config.data.eval_databases = "dev.json", "dev_databases"
    config.domain.chat = True
    config.domain.tree_rounds = 25
    config.sampling.temperature, config.sampling.top_p = 0.7, 0.8
    config.sampling.max_new_tokens = 4096
    config.answer.max_new_tokens = 2048
    config.evaluation.contexts = 5  # databases
    config.protocol.policy = "runs/lse_bird"
    config.protocol.variants = ("none", "untrained_tree", "untrained_chain", "trained_tree")
    config.protocol.folds = 5
    return config
