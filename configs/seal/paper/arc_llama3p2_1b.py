r"""SEAL's few-shot ARC as published: Llama-3.2-1B-Instruct, one round of ReST-EM (arXiv 2506.10943, v1).

What it shows: a policy learns which augmentations and hyper-parameters to train with before a task is solved. Published
success rates over (task, edit) pairs on 8 held-out tasks with 5 edits each: in-context learning 0% (0 of 8 tasks),
directives of the untrained policy 20% (8 of 40), after one round 72.5% (29 of 40). The oracle directive solves all 8,
because tasks were chosen so. Only the in-context result is in SEAL's repository; the others cannot be checked there.

Cost: published, 2 to 3 hours on one H100 or similar. Inner updates: 165 in the round (11 tasks x 15 edits), 40 for each
policy and for random directives, 8 for the oracle, 80 for the controls (none with config.evaluation.controls=False),
and at most 206 for the best constant directive, of which 198 search it on the training tasks (none with
config.evaluation.search=0). `selfadapt plan` puts a round at no more than 412 s at the roofline of 4 v5p chips
(docs/reproduction.md). Not run: no accelerator was available. tests/test_paper_configs.py runs it on a shrunken
model with small tasks.

Data: ARC-AGI's files. Of the 12 training and 10 held-out tasks that SEAL's repository keeps, those below are the 11
that its script iterates over and the 8 that are in its results.

    selfadapt train --config=seal/paper/arc_llama3p2_1b --workdir=runs/arc --config.model=PATH_OR_HUB_ID \
        --config.data.path=arc-agi_training_challenges.json --config.data.solutions=arc-agi_training_solutions.json \
        --config.data.eval_path=arc-agi_evaluation_challenges.json \
        --config.data.eval_solutions=arc-agi_evaluation_solutions.json

Differences from SEAL's code:

- Our own wordings of the prompts (config.domain.prompt takes SEAL's from a template file), and grids without brackets.
- Which 11 training and 8 held-out tasks gave the published numbers is not documented; see "Data".
- A text that is no directive is an invalid edit: it is scored as the model that is not adapted and never learned from.
  SEAL samples again until the text is JSON, and a directive that lacks a key or trains for more than 375 steps trains
  nothing (config.domain.lenient=True does the same).
- Training tasks come in an order that the seed reproduces, and 250 of more are a random choice of all; SEAL's order
  depends on Python's hashes. Steps are counted as they are run, partial batches included.
- Each test is asked with all demonstrations, in two orders under each of six transformations; SEAL's base prompts leave
  one demonstration out, and each transformation gets one prompt.
- Edits of all tasks are trained together, with one seed; adapters are float32 beside bfloat16 weights. Padding is not
  trained on.
- The policy's finetuning counts the directive only, and its adapter is on PEFT's default projections for Llama.
- Held-out directives come from the seeds of the evaluation, and the adapters of each from one initial adapter per seed.
"""

from ml_collections import ConfigDict

from selfadapt import defaults

TRAINING = (
    *("44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd"),
    *("67e8384a", "6d0aefbc", "6e02f1e3", "8be77c9e", "8d5021e8"),
)
HELD_OUT = ("59341089", "66e6c45b", "68b67ca3", "903d1b4a", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc")


def get_config() -> ConfigDict:
    """Returns the experiment with the published settings."""
    config = defaults.experiment("arc")
    config.name = "seal-arc-llama3.2-1b"
    config.preset = "seal_arc"  # every hyper-parameter; selfadapt/presets.py lists them
    config.model = "meta-llama/Llama-3.2-1B-Instruct"
    config.dtype = "bfloat16"
    config.domain.chat = True
    config.data.path = "arc-agi_training_challenges.json"
    config.data.solutions = "arc-agi_training_solutions.json"
    config.data.ids = TRAINING
    config.data.eval_path = "arc-agi_evaluation_challenges.json"
    config.data.eval_solutions = "arc-agi_evaluation_solutions.json"
    config.data.eval_ids = HELD_OUT
    config.rounds = 1
    config.at_once = 8  # a directive has up to 250 training tasks of thousands of tokens
    config.evaluation.edits = 5
    config.evaluation.search = 11
    return config
