r"""SEAL's continual self-edits as published: 64 streams of 8 passages of SQuAD (arXiv 2506.10943, section 5, table 5).

What it shows: forgetting. Published means over 64 sequences, graded by GPT-4.1, from the trained policy of two rounds:
accuracy 30.8 before any edit (mean of the first row), 41.5 on a passage just after its edit (the diagonal), 24.7 after
eight edits (the last row), so forgetting of 16.7 points; the first passage falls from 38.3 to 18.9. The published
standard errors are the mean of the 8 runs' standard deviations over 8.

Cost: 512 inner updates, 512 edits, and 64 x (8 + 36) passages asked about with 5 questions each: about 14,000 requests
to the judge. `selfadapt plan` puts the device's work at 104 s at the roofline of 8 v5p chips, with all streams at once
(docs/reproduction.md). Not run: no accelerator was available; tests/test_paper_configs.py runs it on a shrunken model
with few, short passages. A stream's accumulated adapter has rank 32 to 256 on the query and value projections: 40 MB
(float32) for each of its steps.

Data: SEAL's squad_val.json, from its repository; the policy is the workdir of
configs/seal/paper/knowledge_qwen2p5_7b.py. Set the judge's key in OPENAI_API_KEY, or choose
config.grader.name=containment for no requests.

    selfadapt evaluate --config=configs/seal/paper/continual_qwen2p5_7b.py --workdir=runs/seal-continual \
        --config.data.path=squad_val.json --config.protocol.policy=runs/seal

Differences from SEAL's code:

- Adapters are not merged into bfloat16 weights after each step but kept as float32 factors; nothing is rounded away.
- Our own wordings of the edit, answer and judge prompts, and no padding of training sequences, as in the config above.
- Seeds of edits and of inner updates are fixed; SEAL's are not.
- Of an empty edit the passage alone is learned; SEAL learns it twice. An update that diverges leaves its stream as it
  was.
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config() -> ConfigDict:
    """Returns the run with the published settings."""
    config = defaults.protocol("continual")
    config.name = "seal-continual-qwen2.5-7b"
    config.preset = "seal"  # every hyper-parameter; selfadapt/presets.py lists them
    config.model = "Qwen/Qwen2.5-7B"
    config.dtype = "bfloat16"
    config.data.path = "squad_val.json"
    config.data.shuffle = False  # SEAL draws from the passages in the order of the file
    config.evaluation.contexts = 2067  # all of them
    config.protocol.policy = "runs/seal"
    config.protocol.runs = 8
    config.protocol.streams = 8
    config.protocol.passages = 8
    config.protocol.seed = 42
    config.protocol.disjoint = False
    config.protocol.variants = (
        "policy",
    )  # the published row; "none", "passage", "untrained" and "oracle" are controls
    config.grader.name = "endpoint"
    config.grader.url = "https://api.openai.com/v1"
    config.grader.model = "gpt-4.1-2025-04-14"
    config.grader.api_key_env = "OPENAI_API_KEY"
    config.grader.cache = "seal_judge_cache.jsonl"
    return config
