r"""LSE on multiple choice as published: trained on SuperGPQA, evaluated on MMLU-Redux (arXiv 2603.18620).

Published accuracy on ten subjects of MMLU-Redux: seed instruction 67.6%, untrained editor with the tree 71.2%, trained
editor 73.3%. Each is the best score of 25 rounds on the problems that chose it. Which ten subjects is not published;
here they are the first ten.

Cost: as for lse/paper/bird_qwen3_4b. Not run: no accelerator was available.

Data: SuperGPQA-Redux of LSE's repository, by subfield, and MMLU-Redux 2.0 from the Hugging Face hub.

    selfadapt train --config=lse/paper/mmlu_qwen3_4b --workdir=runs/lse_mmlu --config.model=PATH_OR_HUB_ID \
        --config.data.path=supergpqa-redux-subfield

Differences from LSE's code: those of lse/paper/bird_qwen3_4b. In LSE's script for this data another model answers,
Qwen3-VL-4B-Instruct; here it is the model that edits (config.student names another).
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment with the published settings."""
    config = defaults.experiment("instructions")
    config.name = "lse-mmlu-qwen3-4b"
    config.preset = "lse"  # every hyper-parameter; selfadapt/presets.py lists them
    config.model = "Qwen/Qwen3-4B-Instruct-2507"
    config.dtype = "bfloat16"
    config.data.source = "choice"
    config.data.path = "supergpqa-redux-subfield"
    config.data.eval_path = "edinburgh-dawg/mmlu-redux-2.0"
    config.domain.chat = True
    config.rounds = 500  # 4 epochs of about 4,000 nodes
    config.evaluation.contexts = 10  # subjects
    config.outer.name = "reinforce"
    config.outer.reinforce.baseline = "task"
    config.outer.reinforce.train = "all"
    return config
