"""Every field of an experiment, with its default and its meaning.

A config file starts from `experiment()` and sets its own fields. A hyper-parameter that is `None` in the config is
taken from the preset that `config.preset` names (`selfadapt.presets`), when a run resolves its config (`resolve`).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict, config_dict

from selfadapt.errors import InvalidValueError
from selfadapt.presets import EMBEDDED, POLICY_UPDATES, PRESETS, PRESETS_OF


def experiment(domain: str = "knowledge") -> ConfigDict:
    """Returns the fields that `selfadapt.experiment.train` reads; hyper-parameters are `None` until `resolve`.

    Args:
      domain: whose fields `config.domain` and `config.data` have: "knowledge" (also for a domain of your own), "arc",
        "instructions" or "weights_or_words".

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
    # domain: tiny for an embedded model, else the paper's; tiny_ways for "weights_or_words").
    config.preset = "auto"
    # How many devices each axis has (docs/scaling.md); one of them may be -1: all that the others leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # GiB on each device that batches are made for, in place of what is free at the time. Their shapes then depend on
    # the config alone; in bfloat16 a token can depend on the shape of its batch, also when a run resumes.
    config.free_memory_gib = config_dict.placeholder(float)
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
    for name in POLICY_UPDATES:
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

    for name, value in PRESETS[PRESETS_OF[domain][0]].items():
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
    # The questions of the rounds, which rewards come from: "given" with the passages, or "written": before the first
    # round the policy writes them and answers them with the passage at hand (docs/knowledge.md). Held-out passages are
    # asked the given ones.
    config.domain.questions = "given"
    # prompt: a key of PROMPTS or a template file. samples: texts of each passage, with temperature, top_p and
    # max_new_tokens; most: questions kept of a passage, 0 for all.
    config.domain.written = ConfigDict()


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


def _weights_or_words(config: ConfigDict) -> None:
    """Adds the fields of edits that choose how they are applied."""
    # Where tasks come from: "tiny_tables", or the dotted path of a module of your own with `make(config, model)`.
    config.data.source = "tiny_tables"
    # "free": the policy chooses by the markers that it writes. "words" or "weights": its prompt ends with this marker,
    # and lines of the other section are dropped.
    config.domain.way = "free"
    # most_words: the most lines of an edit that may be put into a prompt.


DOMAINS = {
    "knowledge": _knowledge,
    "arc": _arc,
    "instructions": _instructions,
    "weights_or_words": _weights_or_words,
}


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
    paper, tiny = PRESETS_OF.get(domain, PRESETS_OF["knowledge"])
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
