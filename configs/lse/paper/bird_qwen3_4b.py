r"""LSE on text-to-SQL as published: Qwen3-4B-Instruct-2507 edits instructions for itself (arXiv 2603.18620).

What it shows: an editor that is trained on the improvement of one edit improves instructions over many. Published
execution accuracy on five databases of BIRD's Mini-Dev: seed instruction 57.2%, untrained editor with the tree 62.2%,
trained editor 67.3%; trained on the score after the edit, with GRPO's advantages, 63.0%. Each is the best score of 25
rounds on the problems that chose it. Numbers of single databases, trees and checkpoints are not published.

Cost: 200 trees x 20 rounds of one edit, each with 50 problems of the holdout and 10 of a summary (about 250,000
answers); then 500 rounds of 32 situations x 4 edits x 50 problems (64,000 edits, 4 million answers with those to the
current instructions). Not run: no accelerator was available. tests/domains/instructions/test_configs.py builds it with
generated databases.

Data: LSE's `train_prompt.json` with BIRD's training databases, and BIRD's `dev.json` with its databases.

    selfadapt train --config=lse/paper/bird_qwen3_4b --workdir=runs/lse_bird --config.model=PATH_OR_HUB_ID \
        --config.data.path=train_prompt.json --config.data.databases=train_databases \
        --config.data.eval_path=dev.json --config.data.eval_databases=dev_databases

The evaluation in rounds is lse/paper/evolve_bird_qwen3_4b. LSE's scripts have other sizes than the paper, 16 situations
x 8 edits: --config.contexts=16 --config.edits=8.

Differences from LSE's code:

- Our own wordings of the prompts (config.domain.prompt takes a template file for that of edits).
- Answers are greedy and each problem is answered once; LSE samples them at temperature 0.7, and averages 8 answers in
  its evaluation. Edits are sampled without top_k and presence penalty.
- A round's edits are one optimizer step without ratios, which one on-policy step of PPO is too. Learning rate, weight
  decay and the clipping of gradients are the defaults of LSE's trainer.
- A holdout is drawn by LSE's rule; the seed is that of the run plus the number of earlier trees of the database.
- Situations take turns in the order of their potential, and come again after the last. An edit without an instruction
  makes no node.
- The checkpoint is that of the last round; LSE picks one on a separate set.
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment with the published settings."""
    config = defaults.experiment("instructions")
    config.name = "lse-bird-qwen3-4b"
    config.preset = "lse"  # every hyper-parameter; selfadapt/presets.py lists them
    config.model = "Qwen/Qwen3-4B-Instruct-2507"
    config.dtype = "bfloat16"
    config.data.source = "sql"
    config.data.path, config.data.databases = "train_prompt.json", "train_databases"
    config.data.eval_path, config.data.eval_databases = "dev.json", "dev_databases"
    config.domain.chat = True
    config.rounds = 500  # 4 epochs of about 4,000 nodes
    config.evaluation.contexts = 5  # databases
    config.answer.max_new_tokens = 2048  # LSE's limit for this data
    config.outer.name = "reinforce"
    config.outer.reinforce.baseline = "task"
    config.outer.reinforce.train = "all"
    return config
