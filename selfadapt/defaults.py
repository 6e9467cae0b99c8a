"""The fields of an experiment, each with its default and its meaning; configs start from here and set their own."""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict


def experiment() -> ConfigDict:
    """Returns the fields that `selfadapt.experiment.train` reads, with SEAL's values where the paper gives any."""
    config = ConfigDict()
    config.name = "experiment"
    config.seed = 0
    config.model = "tiny"  # the embedded model, a Hugging Face directory, or a hub id
    config.dtype = "float32"  # or bfloat16
    # How many devices lie along each axis (docs/scaling.md); one of them may be -1: what the others leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.domain = "knowledge"  # a module of selfadapt.domains, or the dotted path of your own
    config.rounds = 2
    config.contexts = 50  # passages a round
    config.edits = 5  # sampled for each passage
    config.baseline = "passage"  # what an edit is compared with: "passage" alone, or the "unchanged" model
    config.inner_runs = 1  # adapters trained for each edit, with common seeds; verdicts are averaged
    config.shuffle_rewards = False  # a control: rewards permuted among the edits of a passage
    config.at_once = 64  # edits applied and scored together

    config.data = ConfigDict()
    config.data.path = "tiny_world"  # or SEAL's JSON, a SQuAD file, a `datasets` directory or hub id, "tfds:squad"
    config.data.split = ""  # of a source that has several
    config.data.eval_path = ""  # held-out passages; by default some of `path` are held out
    config.data.skip_long = False  # leave out passages longer than the model's context, instead of an error

    config.prompt = "auto"  # a key of selfadapt.domains.knowledge.prompts.PROMPTS, or a template file (.txt)
    config.chat = False  # wrap the prompt in the tokenizer's chat template, for instruct models
    config.split = "lines"  # how an edit becomes sequences: "lines" or "document"
    config.max_segments = 0  # the most sequences of an edit; 0 for all

    config.sampling = ConfigDict({"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 1024})
    config.answer = ConfigDict({"max_new_tokens": 64, "stop": ("\n",), "style": "auto"})
    # "auto" (exact match in the tiny world, containment on real text), "exact", "containment", "token-f1"
    # (`threshold`), "model" (the model itself judges), or "endpoint": any OpenAI-compatible `url` and `model`,
    # with the key in the environment variable `api_key_env`.
    config.grader = ConfigDict({"name": "auto"})
    config.grader.threshold = config_dict.placeholder(float)
    config.grader.url = config_dict.placeholder(str)
    config.grader.model = config_dict.placeholder(str)
    config.grader.api_key_env = config_dict.placeholder(str)
    config.grader.cache = config_dict.placeholder(str)  # a file; verdicts in it are not paid for again
    config.grader.max_requests = config_dict.placeholder(int)

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
    config.select = ConfigDict({"method": "best", "k": 1, "margin": 0.0, "fraction": 0.2})
    # The M-step: finetuning of the policy on the selected edits.
    config.policy_update = ConfigDict(
        {
            "rank": 64,
            "alpha": 128.0,
            "targets": "all-linear",
            "learning_rate": 3e-4,
            "epochs": 2,
            "batch_size": 10,
            "warmup_steps": 0,
            "seed": 0,
            "merge": True,  # into the weights; or keep it as an adapter, with the student left as it was
        }
    )
    config.evaluation = ConfigDict({"contexts": 200, "edits": 1})

    # What an interrupted run goes on from. Results do not depend on it.
    config.checkpoint = ConfigDict({"directory": "", "keep": 2})  # "": in the workdir; or another, gs://... as well
    config.checkpoint.every_seconds = 300.0  # adapters in flight are saved so often

    # What a run says of itself beside metrics.jsonl (docs/telemetry.md); results do not depend on it.
    config.telemetry = ConfigDict({"tensorboard": False})
    config.telemetry.wandb = config_dict.placeholder(str)  # a project of Weights & Biases
    config.telemetry.profile = config_dict.placeholder(str)  # START:STOP, seconds of the run to trace
    config.telemetry.peak_flops = config_dict.placeholder(float)  # of one device, where its rate is not known
    return config
