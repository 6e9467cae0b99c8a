r"""SEAL's continued pretraining as published: 200 and 2067 passages of SQuAD in one update (arXiv 2506.10943, table 2).

What it shows: whether edits teach when many passages are learned together, from the policy of two rounds. Published
accuracies in percent, graded by GPT-4.1, on all 974 questions (LoRA) or 500 of them (full finetuning):

| learned from | n=1, LoRA | n=200, LoRA (v1) | n=200, all weights (v2) | n=2067, all weights (v2) |
| --- | --- | --- | --- | --- |
| nothing | 32.7 | 32.7 | 32.7 | 29.0 |
| the passages alone | 33.5 | 32.2 | 36.0 | 31.2 |
| edits of the untrained policy | 39.7 | 41.0 | 50.6 | 43.4 |
| edits of GPT-4.1 | 46.3 | 39.4 | 59.4 | 49.2 |
| edits of the trained policy | 47.0 | 43.8 | 58.2 | 46.4 |

Its column n=1 is of configs/seal/paper/knowledge_qwen2p5_7b.py, whose inner update has other hyper-parameters (one edit
by lines, batch 1, 10 epochs).

`--config=FILE:v1` is the LoRA of the paper's first version: 5 edits with the passage after each (2,000 sequences for
200 passages), 3 epochs, 8 sequences per step. `FILE:v2`, the default, is its second version's full finetuning: the
passage once (1,200 sequences), one epoch at 7e-5 with 3% of warm-up, 500 sampled questions.

Cost: of each variant and size one training (v2: 150 and 1,551 optimizer steps of 8 sequences), of each policy 10,335
edits (v1: 1,000); 500 or 974 requests to the judge before and after. A training of all weights takes up to 24 bytes for
each of the 7.6 billion weights, beside the models in bfloat16: a slice of several chips (config.mesh.fsdp).
`selfadapt plan` puts v2 at 326 s at the roofline of 4 v5p chips for 2067 passages, and v1 at 57 s. Not run: no
accelerator was available; tests/test_paper_configs.py runs both on a shrunken model with few, short passages.

Data: SEAL's squad_val.json, from its repository; the policy is the workdir of
configs/seal/paper/knowledge_qwen2p5_7b.py. Edits of GPT-4.1 in SEAL's schema are a further row with
`--config.evaluation.edits_from=GPT-4.1=FILE`. Set the judge's key in OPENAI_API_KEY, or choose
config.grader.name=containment for no requests.

    selfadapt evaluate --config=configs/seal/paper/continued_pretraining_qwen2p5_7b.py --workdir=runs/seal-cpt \
        --config.data.path=squad_val.json --config.protocol.policy=runs/seal --config.mesh.fsdp=4

Differences from SEAL's code:

- Our own wordings of the edit, answer and judge prompts, and no padding of training sequences
  (config.domain.padding=seal can be set for v1).
- AdamW's weights and moments are float32 also where the model computes in bfloat16.
- v2 learns at most 30 segments of an edit; an edit as a document is one segment, or one for each part between "---".
- The passages alone are one sequence each; SEAL's file has a second one with the bare title.
- Of v1, SEAL's row of the trained policy accumulates no gradient (4 sequences per step), and that of the passages alone
  has a rate of 1e-4; here all rows have one setting.
"""

from ml_collections import ConfigDict

from selfadapt.protocols import defaults


def get_config(version: str = "v2") -> ConfigDict:
    """Returns the run with the published settings.

    Args:
      version: "v1" (LoRA) or "v2" (all weights).
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"the version is {version!r}; it must be v1 or v2")
    config = defaults.protocol("pretraining")
    config.name = f"seal-continued-pretraining-qwen2.5-7b-{version}"
    config.preset = "seal"  # every other hyper-parameter; selfadapt/defaults.py lists them
    config.model = "Qwen/Qwen2.5-7B"
    config.dtype = "bfloat16"
    config.data.path = "squad_val.json"
    config.domain.split = "document"
    config.protocol.policy = "runs/seal"
    config.protocol.variants = ("none", "passage", "untrained", "policy")
    config.evaluation.edits = 5
    config.inner.batch_size = 4
    config.inner.gradient_accumulation = 2
    if version == "v1":
        config.protocol.sizes = (200,)
        config.evaluation.contexts = 200
        config.inner.epochs = 3
    else:
        config.protocol.sizes = (200, 2067)
        config.evaluation.contexts = 2067  # all of them
        config.protocol.train = "all"
        config.protocol.repeat_passage = False
        config.protocol.warmup_ratio = 0.03
        config.protocol.questions = 500
        config.inner.epochs = 1
        config.inner.learning_rate = 7e-5
        config.inner.seed = 43
    config.grader.name = "endpoint"
    config.grader.url = "https://api.openai.com/v1"
    config.grader.model = "gpt-4.1-2025-04-14"
    config.grader.api_key_env = "OPENAI_API_KEY"
    config.grader.cache = "seal_judge_cache.jsonl"
    return config
