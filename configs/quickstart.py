"""SEAL's knowledge incorporation, whole, on the embedded model: the main job in a few minutes on a laptop.

What it shows: a model of a million parameters reads passages about made-up things, writes edits, is
finetuned on each edit and asked about the passage without seeing it. Two rounds of ReST-EM teach it to
write edits that teach. The ladder compares, on held-out passages, no adaptation, the passage alone, edits
of the untrained policy, of each round's policy, and of an oracle (gold question-answer lines).

Cost: under 5 minutes on 2 CPU cores and 4 GB, compilation included. docs/results.md has the numbers.

    selfadapt train --config=configs/quickstart.py --workdir=runs/quickstart

Another model, SEAL's own data (hyper-parameters then become SEAL's, see `config.inner.preset`):

    selfadapt train --config=configs/quickstart.py --workdir=runs/squad \
        --config.model=PATH_OR_HUB_ID --config.data.path=squad_val.json
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = ConfigDict()
    config.name = "quickstart"
    config.seed = 0
    config.model = "tiny"  # the embedded model, a Hugging Face directory, or a hub id
    config.dtype = "float32"  # or bfloat16
    config.domain = "knowledge"  # a module of selfadapt.domains, or the dotted path of your own
    config.rounds = 2
    config.contexts = 64  # passages a round
    config.edits = 5  # sampled for each passage
    config.baseline = "passage"  # what an edit is compared with: "passage" alone, or the "unchanged" model
    config.inner_runs = 1  # adapters trained for each edit, with common seeds; verdicts are averaged
    config.shuffle_rewards = False  # a control: rewards permuted among the edits of a passage
    config.at_once = 160  # edits applied and scored together

    config.data = ConfigDict()
    config.data.path = "tiny_world"  # or SEAL's JSON, a SQuAD file, a `datasets` directory or hub id, "tfds:squad"
    config.data.split = ""  # of a source that has several
    config.data.eval_path = ""  # held-out passages; by default some of `path` are held out
    config.data.skip_long = False  # leave out passages longer than the model's context, instead of an error

    config.prompt = "auto"  # a key of selfadapt.domains.prompts.PROMPTS, or a template file (.txt)
    config.chat = False  # wrap the prompt in the tokenizer's chat template, for instruct models
    config.split = "lines"  # how an edit becomes sequences: "lines" or "document"
    config.max_segments = 8  # the most sequences of an edit; 0 for all

    config.sampling = ConfigDict({"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 160})
    config.answer = ConfigDict({"max_new_tokens": 8, "stop": ("\n",), "style": "auto"})
    config.grader = ConfigDict({"name": "exact", "options": ConfigDict()})

    # The inner update. What is None comes from the preset: "tiny" for the embedded model, else "seal".
    config.inner = ConfigDict({"preset": "auto", "padding": "none", "seed": 0})
    config.inner.rank = config_dict.placeholder(int)
    config.inner.alpha = config_dict.placeholder(float)
    config.inner.targets = config_dict.placeholder(str)  # names with commas between them, or "all-linear"
    config.inner.learning_rate = config_dict.placeholder(float)
    config.inner.epochs = config_dict.placeholder(int)
    config.inner.batch_size = config_dict.placeholder(int)
    config.inner.warmup_steps = config_dict.placeholder(int)

    # The E-step: "best" (k a passage), "best_improving" (those above the baseline by the margin alone),
    # "improvement" (all of these), "top_fraction" (of all edits).
    config.select = ConfigDict({"method": "best_improving", "k": 1, "margin": 0.0, "fraction": 0.2})
    # The M-step: finetuning of the policy on the selected edits.
    config.policy_update = ConfigDict(
        {
            "rank": 16,
            "alpha": 32.0,
            "targets": "all-linear",
            "learning_rate": 2e-3,
            "epochs": 6,
            "batch_size": 10,
            "warmup_steps": 0,
            "seed": 0,
            "merge": True,  # into the weights; or keep it as an adapter, with the student left as it was
        }
    )
    config.evaluation = ConfigDict({"contexts": 64, "edits": 1})
    return config
