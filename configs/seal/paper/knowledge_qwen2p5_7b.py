r"""SEAL's knowledge incorporation as published: Qwen2.5-7B, SQuAD, two rounds of ReST-EM (arXiv 2506.10943, v1).

What it shows: single-passage incorporation. Published mean no-context accuracy over 200 passages, graded by GPT-4.1:
base model 32.7, trained on the passage 33.5, with the untrained model's implications 39.7, after one round 43.7 (42.7
by the saved results), after two 47.0. Standard errors are about 2 points.

Cost: published, one adapter at a time: 750 inner updates per round, about 6 hours on two H100. Not run: no accelerator
was available. `selfadapt plan` estimates it for a TPU slice; tests/test_paper_configs.py runs one round of it on a
shrunken model with few, short passages.

Data: SEAL's squad_train.json and squad_val.json, from its repository. The judge gets about 35,000 short requests: 3,900
per round (50 x 5 edits x 3 runs x 4.9 questions, and the baselines), 15,600 for the rows of the evaluation (200
passages x 3 runs x 4.9 questions each) and 11,700 for its controls (none with config.evaluation.controls=False); equal
answers are graded once. Set the key in OPENAI_API_KEY, or choose config.grader.name=containment for no requests.

    selfadapt train --config=configs/seal/paper/knowledge_qwen2p5_7b.py --workdir=runs/seal \
        --config.data.path=squad_train.json --config.data.eval_path=squad_val.json

Differences from SEAL's code:

- Our own wordings of the edit, answer and judge prompts (config.domain.prompt, config.domain.answer_prompt and
  config.grader.prompt take SEAL's from template files).
- The passages of each round are chosen by our seed; SEAL's choice is not reproducible.
- Training sequences are not padded (config.domain.padding=seal fills each to 2048 tokens with trained end-of-sequence
  tokens, as SEAL does), and are truncated at the model's context, not at 2048 tokens.
- Evaluation trains three adapters per edit, as for rewards, where SEAL trains one; on other seeds than the rewards.
- Inner seeds are fixed and shared by all edits; SEAL takes them from the clock.
- Adapters and their optimizer state are float32 beside bfloat16 weights, and the policy is merged into a float32 master
  copy; SEAL merges in bfloat16.
- The finetuning's loss counts the edit only. SEAL's script leaves this to TRL's default, which masks prompts.
- The baseline is scored once per round, not with every request.
"""

from ml_collections import ConfigDict

from selfadapt import defaults


def get_config() -> ConfigDict:
    """Returns the experiment with the published settings."""
    config = defaults.experiment()
    config.name = "seal-knowledge-qwen2.5-7b"
    config.preset = "seal"  # every hyper-parameter; selfadapt/presets.py lists them
    config.model = "Qwen/Qwen2.5-7B"
    config.dtype = "bfloat16"
    config.data.path = "squad_train.json"
    config.data.eval_path = "squad_val.json"
    config.rounds = 2
    config.grader.name = "endpoint"
    config.grader.url = "https://api.openai.com/v1"
    config.grader.model = "gpt-4.1-2025-04-14"
    config.grader.api_key_env = "OPENAI_API_KEY"
    config.grader.cache = "seal_judge_cache.jsonl"
    return config
