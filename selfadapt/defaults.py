"""Every field of an experiment, with its default and its meaning, and the presets of its hyper-parameters.

A config file starts from `experiment()` and sets its own fields. A hyper-parameter that is `None` in the config is
taken from the preset that `config.preset` names, when a run resolves its config (`resolve`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from selfadapt.errors import InvalidValueError
from selfadapt.types import Update

_TRAINING = (
    "rank",
    "alpha",
    "targets",
    "optimizer",
    "learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "schedule",
    "warmup_steps",
    "max_grad_norm",
    "weight_decay",
)


def _update(group: str, **changes: Any) -> dict[str, Any]:
    """Returns the hyper-parameters of an `Update` as config fields: those of the class, with changes."""
    values: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Update) if f.name in _TRAINING}
    values |= changes
    if not isinstance(values["targets"], str):
        values["targets"] = ",".join(values["targets"])
    values["alpha"] = float(values["alpha"])
    return {f"{group}.{name}": value for name, value in values.items()}


# ReST-EM's finetuning of the embedded models.
_TINY_FINETUNING = _update(
    "outer.rest_em", rank=16, alpha=32.0, targets="all-linear", learning_rate=2e-3, epochs=6, batch_size=10
)

# All hyper-parameters by field name; the presets of a domain have the same fields.
PRESETS: dict[str, dict[str, Any]] = {
    # SEAL, knowledge incorporation (arXiv 2506.10943, section 4.1 and appendix B): two rounds on Qwen2.5-7B.
    "seal": {
        "contexts": 50,
        "edits": 5,
        "inner_runs": 3,
        "sampling.temperature": 1.0,
        "sampling.top_p": 0.95,
        "sampling.max_new_tokens": 8192,
        "answer.max_new_tokens": 64,
        "answer.stop": (),  # to the end of the sequence
        "evaluation.contexts": 200,
        "domain.prompt": "implications",
        "domain.answer_prompt": "full",
        "domain.max_segments": 0,
        "domain.baseline": "unchanged",
        **_update("inner"),  # the defaults of `Update` are those of appendix B.3
        **_update(
            "outer.rest_em",
            rank=64,
            alpha=128.0,
            targets="all-linear",
            learning_rate=3e-4,
            epochs=2,
            batch_size=10,
        ),
        "outer.rest_em.select": "best",  # ties to the first, also where the best edit hurts
    },
    # The embedded model of a million parameters and its world; chosen on seed 0 (docs/results.md).
    "tiny": {
        "contexts": 64,
        "edits": 5,
        "inner_runs": 1,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 160,
        "answer.max_new_tokens": 8,
        "answer.stop": ("\n",),
        "evaluation.contexts": 64,
        "domain.prompt": "notes",
        "domain.answer_prompt": "short",
        "domain.max_segments": 8,
        "domain.baseline": "passage",
        **_update(
            "inner",
            rank=8,
            alpha=16.0,
            targets="all-linear",
            learning_rate=1e-2,
            epochs=8,
            batch_size=16,
            warmup_steps=2,
        ),
        **_TINY_FINETUNING,
        "outer.rest_em.select": "best_improving",
    },
    # SEAL, few-shot ARC (section 4.2 and appendix A): one round on Llama-3.2-1B-Instruct. Rate, epochs and loss of the
    # inner update are those of the directive.
    "seal_arc": {
        "contexts": 11,
        "edits": 15,
        "inner_runs": 1,
        "sampling.temperature": 0.8,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 128,
        "answer.max_new_tokens": 1856,  # a grid of 30 x 30, with two tokens per cell, and its end
        "answer.stop": ("\n\n",),
        "evaluation.contexts": 8,
        "domain.permutations": 2,
        "domain.max_tokens": 8192,
        "domain.max_examples": 250,
        "domain.max_steps": 375,
        "domain.oracle_augmentations": ("basic", "size", "chain", "repeat"),
        "domain.oracle_rate": 1e-4,
        "domain.oracle_epochs": 2,
        "domain.rates": (1e-5, 1e-4, 1e-3),
        "domain.epochs": (1, 2),
        **_update(
            "inner",
            rank=128,
            alpha=16.0,
            targets="q_proj,v_proj,gate_proj,down_proj,up_proj",
            batch_size=2,
            schedule="cosine",
            warmup_steps=11,
        ),
        **_update(
            "outer.rest_em",
            rank=16,
            alpha=16.0,
            targets="q_proj,v_proj",
            learning_rate=5e-5,
            epochs=8,
            batch_size=5,
            schedule="cosine",
        ),
        "outer.rest_em.select": "solved",
    },
    # The embedded model "tiny_grids" and its world.
    "tiny_arc": {
        "contexts": 32,
        "edits": 5,
        "inner_runs": 1,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 32,
        "answer.max_new_tokens": 48,
        "answer.stop": ("\n\n",),
        "evaluation.contexts": 64,
        "domain.permutations": 1,
        "domain.max_tokens": 192,
        "domain.max_examples": 12,
        "domain.max_steps": 64,
        "domain.oracle_augmentations": (),
        "domain.oracle_rate": 3e-3,
        "domain.oracle_epochs": 4,
        "domain.rates": (1e-3, 3e-3, 1e-2),
        "domain.epochs": (2, 4),
        **_update(
            "inner",
            rank=16,
            alpha=32.0,
            targets="all-linear",
            batch_size=2,
            schedule="cosine",
            warmup_steps=2,
        ),
        **_TINY_FINETUNING,
        "outer.rest_em.epochs": 18,  # directives are short, and few solve a task
        "outer.rest_em.select": "improvement",  # not edits of tasks that are solved in context
    },
    # LSE (arXiv 2603.18620, appendix A): 32 situations a round with 4 edits each, 10 problems in a summary.
    "lse": {
        "contexts": 32,
        "edits": 4,
        "inner_runs": 1,
        "invalid_reward": -1.0,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 16384,
        "answer.max_new_tokens": 4096,
        "answer.stop": (),  # to the end of the sequence
        "evaluation.contexts": 10,
        "domain.environments": 200,
        "domain.batch": 10,
        "domain.tree_rounds": 20,
        "domain.tree_edits": 1,
        "domain.selection": "ucb",
        "domain.ucb_c": 2.0,
        **_update(
            "outer.rest_em", rank=64, alpha=128.0, targets="all-linear", learning_rate=3e-4, epochs=2, batch_size=10
        ),
        "outer.rest_em.select": "best_improving",
    },
    # The embedded model "tiny_rules" and its world.
    "tiny_lse": {
        "contexts": 32,
        "edits": 4,
        "inner_runs": 1,
        "invalid_reward": -1.0,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 96,  # twelve lines of eight
        "answer.max_new_tokens": 16,
        "answer.stop": ("\n",),
        "evaluation.contexts": 32,
        "domain.environments": 32,
        "domain.batch": 5,
        "domain.tree_rounds": 3,
        "domain.tree_edits": 2,
        "domain.selection": "ucb",
        "domain.ucb_c": 0.3,
        **_TINY_FINETUNING,
        "outer.rest_em.select": "best_improving",
    },
}
# The updates by gradient train an adapter like ReST-EM's. SEAL's paper has no values for them (it found GRPO and PPO
# unstable): a tenth of its learning rate is a start. Those of "tiny" were chosen on seed 100 (docs/results.md). LSE's
# code takes one step per round on all edits.
_POLICY_UPDATES = ("reinforce", "rloo", "grpo", "ppo", "dpo")
_POLICY_TRAINING: dict[str, dict[str, Any]] = {
    "seal": dict.fromkeys(_POLICY_UPDATES, {"learning_rate": 3e-5, "batch_size": 50, "epochs": 2}),
    "tiny": dict.fromkeys(_POLICY_UPDATES, {"learning_rate": 1e-3, "batch_size": 16, "epochs": 2})
    | {
        "grpo": {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2},
        "dpo": {"learning_rate": 3e-4, "batch_size": 8, "epochs": 4},
    },
    "lse": dict.fromkeys(
        _POLICY_UPDATES, {"learning_rate": 1e-6, "batch_size": 128, "epochs": 1, "weight_decay": 0.01}
    ),
}
for _name, _values in PRESETS.items():
    _own = {name: _values[f"outer.rest_em.{name}"] for name in ("rank", "alpha", "targets")} | {"schedule": "constant"}
    for _outer, _training in _POLICY_TRAINING[_name.partition("_")[0]].items():
        # Without ratios to the policy that wrote the edits, those of an earlier epoch are of another policy.
        _once = {"epochs": 1} if _outer in ("reinforce", "rloo") else {}
        _values |= _update(f"outer.{_outer}", **_own | _training | _once)
        del _values[f"outer.{_outer}.gradient_accumulation"]
# Models that come with the package, which the presets "tiny" are for.
EMBEDDED = ("tiny", "tiny_grids", "tiny_rules")


def experiment(domain: str = "knowledge") -> ConfigDict:
    """Returns the fields that `selfadapt.experiment.train` reads; hyper-parameters are `None` until `resolve`.

    Args:
      domain: whose fields `config.domain` and `config.data` have: "knowledge" (also for a domain of your own), "arc"
        or "instructions".

    Raises:
      InvalidValueError: there is no such domain.
    """
    if domain not in DOMAINS:
        raise InvalidValueError(f"there is no domain {domain!r} (there are {', '.join(DOMAINS)})")
    config = ConfigDict()
    config.name = "experiment"
    config.seed = 0
    config.model = "tiny"  # the embedded model, a Hugging Face directory, or a hub id
    config.student = ""  # the model that is adapted and scored, where it is not the policy: like `model`
    config.dtype = "float32"  # or bfloat16
    # Hyper-parameters that are None: "seal", "tiny", "seal_arc", "tiny_arc", "lse", "tiny_lse", or "auto" (those of the
    # domain: tiny for an embedded model, else the paper's).
    config.preset = "auto"
    # How many devices each axis has (docs/scaling.md); one of them may be -1: all that the others leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.rounds = 2
    config.shuffle_rewards = False  # a control: rewards permuted among the edits of each task
    config.at_once = 64  # edits applied and scored together; more are a little faster and take more memory
    # contexts: tasks per round; edits: sampled for each; inner_runs: adapters trained for each edit, with seeds that
    # all edits share, whose verdicts are averaged.
    config.halving = ()  # further inner runs, by stage, of the better half of the edits left (docs/outer_updates.md)

    config.data = ConfigDict()  # where tasks come from
    # The domain: a module of selfadapt.domains, or the dotted path of your own; the other fields are the domain's.
    config.domain = ConfigDict({"name": domain})
    DOMAINS[domain](config)

    config.sampling = ConfigDict()  # top_p and temperature of edits; their most tokens
    config.answer = ConfigDict()  # greedy; max_new_tokens, and the strings that end an answer
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
    config.grader.prompt = config_dict.placeholder(str)  # a template file for the judges

    # How the edits of a round are scored: "inner" (the questions that the adapted model answers), "proxy" (ratings of
    # their texts by a rubric; no inner update is run), or "both", of which the policy learns from `rubric.learn_from`.
    config.reward = "inner"
    # In a round, an edit that cannot be applied has a reward this much above its task's without an edit; None: it is
    # scored as the student as it is.
    config.invalid_reward = config_dict.placeholder(float)
    # Who rates: "auto" (the tiny world checks edits), "model" (the policy as it is), or "endpoint", with the fields of
    # the grader "endpoint". prompt: a template file with {context} and {edit}.
    config.rubric = ConfigDict({"name": "auto", "learn_from": "inner"})
    for field in ("url", "model", "api_key_env", "cache", "prompt"):
        config.rubric[field] = config_dict.placeholder(str)
    config.rubric.max_requests = config_dict.placeholder(int)

    # The inner update: the fields of `selfadapt.Update`. targets: names with commas between them, or "all-linear".
    config.inner = ConfigDict({"seed": 0})

    # The outer update: a module of selfadapt.outer, or the dotted path of your own; each has a group of fields.
    config.outer = ConfigDict({"name": "rest_em"})
    # ReST-EM. select: "best" (k per task), "best_improving" (k of those above the baseline by the margin),
    # "improvement" (all of these), "solved" (all of reward 1), "top_fraction" (of all edits). z: standard errors over
    # inner runs that rewards are lowered by before. The rest are the fields of the finetuning's `Update`.
    config.outer.rest_em = ConfigDict({"k": 1, "margin": 0.0, "fraction": 0.2, "z": 0.0, "seed": 0})
    config.outer.rest_em.merge = True  # into the weights; or keep it as an adapter, with the student left as it was
    config.outer.rest_em.keep_master = True  # float32 copies of merged weights, where `dtype` is another

    # The updates by gradient (docs/outer_updates.md). train: "lora" (the fields of an `Update`) or "all" weights.
    # batch_size: edits, or pairs, of an optimizer step. update_student: as ReST-EM's merge, the student is the trained
    # policy; else it stays as it was. normalize: the loss is averaged over "tokens", within each "edit" first, or
    # divided by a "constant". kl, entropy: coefficients of the divergence from the starting policy and of the entropy.
    for name in _POLICY_UPDATES:
        config.outer[name] = ConfigDict({"train": "lora", "update_student": False, "seed": 0})
        if name != "dpo":
            normalize = "edit" if name == "grpo" else "tokens"
            config.outer[name].update({"normalize": normalize, "kl": 0.0, "entropy": 0.0})
    # baseline: "running" (the mean of earlier rounds, of which `decay` remains in a round), "task" (the reward without
    # an edit), "task_logit" (the same, as a difference of log-odds), or "none".
    config.outer.reinforce.update({"baseline": "running", "decay": 0.5})
    # Ratios are clipped to 1 - clip and 1 + clip_high; divide_by_std: advantages are in standard deviations of a task.
    config.outer.grpo.update({"clip": 0.2, "clip_high": 0.2, "divide_by_std": True})
    # value_clip: of the value head; discount and trace: gamma and lambda; baseline: "task" or "none"; whiten: give
    # advantages mean 0 and standard deviation 1.
    config.outer.ppo.update({"clip": 0.2, "value_clip": 0.2, "discount": 1.0, "trace": 0.95})
    config.outer.ppo.update({"baseline": "task", "whiten": True})
    config.outer.dpo.update({"beta": 0.1, "margin": 0.0})  # margin: least difference of rewards of a pair

    config.evaluation = ConfigDict({"edits": 1, "controls": True})  # controls: rows beside the ladder
    # Training tasks on which the best constant edit is searched, in a domain whose edits can be; 0 for no such row.
    config.evaluation.search = 0
    # Files of edits, each a row of the evaluation: NAME=FILE. The student is adapted to the first `edits` texts that
    # the file has of each held-out passage (docs/knowledge.md).
    config.evaluation.edits_from = ()
    # Added to the inner seeds, so that evaluation does not reuse those that rewards were measured with.
    config.evaluation.seed_offset = 1000
    config.evaluation.low_temperature = 0.3  # of a control row: the untrained policy's edits, less random

    # What an interrupted run resumes from. Results do not depend on it.
    config.checkpoint = ConfigDict({"directory": "", "keep": 2})  # "": in the workdir; or another, gs://... as well
    config.checkpoint.every_seconds = 300.0  # how often training in progress is saved

    # What a run reports beside metrics.jsonl (docs/telemetry.md); results do not depend on it.
    config.telemetry = ConfigDict({"tensorboard": False})
    config.telemetry.wandb = config_dict.placeholder(str)  # a project of Weights & Biases
    config.telemetry.profile = config_dict.placeholder(str)  # START:STOP, seconds of the run to trace
    config.telemetry.peak_flops = config_dict.placeholder(float)  # of one device, where its rate is not known

    for name, value in PRESETS[_PRESETS_OF[domain][0]].items():
        *groups, leaf = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[leaf] = config_dict.placeholder(type(value))
    return config


def _knowledge(config: ConfigDict) -> None:
    """Adds the fields of the knowledge domain."""
    config.data.path = "tiny_world"  # or SEAL's JSON, a SQuAD file, a `datasets` directory or hub id, "tfds:squad"
    config.data.split = ""  # of a source that has several
    config.data.eval_path = ""  # held-out passages; by default some of `path` are held out
    config.data.shuffle = True  # in SEAL's random order, or in that of the source
    config.data.skip_long = False  # leave out passages longer than the model's context, instead of an error
    # prompt: a key of selfadapt.domains.knowledge.prompts.PROMPTS, or a template file (.txt). answer_prompt: a style
    # ("full", "short", or "cot": reasoning first, which needs some hundred answer.max_new_tokens and no line break in
    # answer.stop), or a template file. max_segments: the most sequences of an edit, 0 for all. baseline: what an
    # edit is compared with, adapting to the "passage" alone or the "unchanged" model.
    config.domain.chat = False  # wrap the prompt in the tokenizer's chat template, for instruct models
    # Of an edit, train only on what follows the first line that begins with this; "" for the prompt's own marker, which
    # only "implications-cot" has.
    config.domain.keep_after = ""
    config.domain.split = "lines"  # how an edit becomes sequences: "lines" or "document"
    config.domain.padding = "none"  # "seal": sequences filled to 2048 tokens, as SEAL's code trains
    # A reference row of the evaluation: the student untrained, with the passage in the prompt of each question.
    config.domain.passage_in_prompt = False


def _arc(config: ConfigDict) -> None:
    """Adds the fields of few-shot ARC."""
    config.data.path = "tiny_grids"  # or a file of ARC-AGI's challenges, or a folder with a file per task
    config.data.solutions = ""  # the file of solutions, where `path` has none
    config.data.ids = ()  # tasks to keep, by id; all by default
    # The same for held-out tasks; without `eval_path` the first ones of `path` are held out.
    config.data.eval_path = ""
    config.data.eval_solutions = ""
    config.data.eval_ids = ()
    config.data.skip_long = False  # leave out tasks that do not fit into the model's context, instead of an error
    config.domain.prompt = "directive"  # or a template file (.txt) with {examples}
    config.domain.chat = False  # write prompts with the tokenizers' chat templates, for instruct models
    config.domain.lenient = False  # read directives as SEAL's code does: what cannot be used trains nothing
    # permutations: orders of the examples under each of the six transformations that a task is asked with.
    # max_examples, max_tokens: the most training tasks of a directive, and tokens of one. max_steps: the most optimizer
    # steps. oracle_augmentations (of "basic", "size", "chain" and "repeat"), oracle_rate, oracle_epochs: the reference
    # directive. rates, epochs: those that random directives and the search for the best constant one choose from.


def _instructions(config: ConfigDict) -> None:
    """Adds the fields of instruction editing."""
    # Where environments come from: "tiny_rules", "choice" (each subject is one), "sql" (each database), or the dotted
    # path of a module of your own with `make(config, model)`.
    config.data.source = "tiny_rules"
    # Of "choice" and "sql": a folder or hub id of data sets, or BIRD's file of questions; the subjects or databases to
    # use, all by default; the same of held-out environments. holdout: the problems that instructions are scored on.
    config.data.update({"path": "", "ids": (), "eval_path": "", "eval_ids": (), "holdout": 50})
    # Of "sql": the folder of databases, and BIRD's file of their schemas ("": made from the databases).
    config.data.update({"databases": "", "schemas": "", "eval_databases": "", "eval_schemas": ""})
    # How an instruct model is asked for an instruction, "rewrite" or a template file (.txt), and whether the prompt is
    # written with its chat template. An embedded model has its own form.
    config.domain.prompt = "rewrite"
    config.domain.chat = False
    # environments: the training environments, of which the untrained editor grows a tree each; batch: the problems of a
    # summary. tree_rounds: rounds of growth, each of tree_edits edits of the node that the rule `selection` chooses
    # ("ucb", "best" or "deepest"); ucb_c: the weight of exploration (docs/search.md).


DOMAINS = {"knowledge": _knowledge, "arc": _arc, "instructions": _instructions}
# Of each domain, the preset with a paper's values and that of the embedded model.
_PRESETS_OF = {"knowledge": ("seal", "tiny"), "arc": ("seal_arc", "tiny_arc"), "instructions": ("lse", "tiny_lse")}


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a config in which the preset's values stand for every hyper-parameter that is `None`.

    Args:
      config: an experiment. Fields that it lacks are not added.

    Raises:
      InvalidValueError: `config.preset` names no preset, or one of another domain.

    >>> config = experiment()
    >>> config.inner.rank = 4
    >>> resolved = resolve(config)
    >>> resolved.preset, resolved.inner.rank, resolved.inner.epochs
    ('tiny', 4, 8)
    """
    resolved = ConfigDict(config.to_dict())
    preset = resolved.get("preset", "auto")
    domain = resolved.get("domain", ConfigDict()).get("name", "")
    paper, tiny = _PRESETS_OF.get(domain, _PRESETS_OF["knowledge"])
    if preset == "auto":
        preset = tiny if resolved.get("model") in EMBEDDED else paper
    fitting = [paper, tiny] if domain in DOMAINS else list(PRESETS)
    if preset not in fitting:
        raise InvalidValueError(f"config.preset is {preset!r}; it must be auto or one of {', '.join(fitting)}")
    if "preset" in resolved:
        resolved.preset = preset
    for name, value in PRESETS[preset].items():
        *groups, leaf = name.split(".")
        group: Any = resolved
        for part in groups:
            group = group.get(part, ConfigDict())
        if leaf in group and group[leaf] is None:
            group[leaf] = value
    return resolved.lock()
