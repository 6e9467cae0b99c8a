"""The fields of a run of an evaluation protocol."""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict

from selfadapt.defaults import experiment

_OUTER_LOOP = (
    *("student", "rounds", "contexts", "edits", "inner_runs", "halving", "at_once"),
    *("shuffle_rewards", "reward", "invalid_reward", "rubric", "outer"),
)


def protocol(name: str = "continual") -> ConfigDict:
    """Returns the fields that `selfadapt.protocols.run.evaluate` reads.

    They are those of `selfadapt.defaults.experiment` without the outer loop's, and `config.protocol`.

    Args:
      name: a module of `selfadapt.protocols`, or the dotted path of your own.
    """
    config = experiment("instructions" if name == "evolve" else "knowledge")
    for field in _OUTER_LOOP:
        del config[field]
    if config.domain.name == "knowledge":
        del config.domain.questions, config.domain.written  # of training passages
    config.evaluation = ConfigDict({"contexts": config_dict.placeholder(int)})  # passages that there are to draw from
    config.protocol = ConfigDict({"name": name})
    # What is learned: "none", "passage", "policy", "oracle", or "untrained" (beside a trained policy).
    config.protocol.variants = ("none", "passage", "policy", "oracle")
    # The trained policy: a workdir of `selfadapt train`, or a directory; "": `config.model` itself.
    config.protocol.policy = ""
    _FIELDS.get(name, lambda config: None)(config)
    return config


def _continual(config: ConfigDict) -> None:
    """Adds the fields of continual self-edits (docs/continual.md)."""
    # runs of `streams` streams of `passages` passages; seed: of the draws. disjoint: no passage is in two streams; else
    # each run draws with the seed `seed` + run, as SEAL does.
    config.protocol.update({"runs": 1, "streams": 16, "passages": 8, "seed": 42, "disjoint": True})
    # How streams learn it: "sum", as in SEAL, and remedies for forgetting, any of "smaller", "replay", "orthogonal",
    # "anchored", "mean", "retrieved", "retrieved_oracle". rate_factor: on the learning rate, of "smaller"; replayed:
    # earlier sequences for each new one, of "replay"; orthogonality: the penalty's weight, of "orthogonal".
    config.protocol.remedies = ("sum",)
    config.protocol.update({"rate_factor": 0.3, "replayed": 1, "orthogonality": 0.5})
    # Of "anchored": texts on which models are held near what they were before any edit ("tiny_world": documents of the
    # embedded model's pretraining; or a file with a text on each line), the penalty's weight, texts of each optimizer
    # step, and the tokens that are used of a text.
    config.protocol.update({"anchors": "tiny_world", "divergence": 1.0, "anchor_rows": 4, "anchor_tokens": 96})


def _pretraining(config: ConfigDict) -> None:
    """Adds the fields of continued pretraining (docs/continued_pretraining.md)."""
    config.evaluation.edits = 5  # of each passage
    config.evaluation.edits_from = ()  # files of edits, each a further variant: NAME=FILE
    # sizes: passages that are learned in one update; all are nested, the first ones of `evaluation.contexts`. Size 1 is
    # the mean over the first `singles` passages, each learned by a separate model.
    config.protocol.update({"sizes": (1, 64, 256), "singles": 16})
    config.protocol.train = "lora"  # or "all" weights; the hyper-parameters are those of `config.inner`
    config.protocol.repeat_passage = True  # learned with each of its edits (SEAL's first version), or once (its second)
    config.protocol.warmup_ratio = 0.0  # of the optimizer steps; where it is not 0, in place of `inner.warmup_steps`
    config.protocol.questions = 0  # the most questions about a subset, drawn with `seed`; 0: all
    config.protocol.seed = 42


def _evolve(config: ConfigDict) -> None:
    """Adds the fields of evolution at test time (docs/lse.md), beside those of growth in `config.domain`."""
    for field in ("inner", "grader"):
        del config[field]
    del config.domain.environments  # to train on
    # The model that answers, where it is not `model`, which the editor was trained from: a directory, a hub id, or
    # "endpoint": that of `protocol.student_endpoint`.
    config.student = ""
    # "none" (the seed instruction), "oracle", and EDITOR_SHAPE: the "untrained" editor, the "trained" one (`policy`) or
    # the one at an "endpoint" (`editor_endpoint`), and a "tree", a "chain" (each edit is of the one before it),
    # "best_of_n" (all edits are of the seed), "gepa" (GEPA, with as many answers as the tree) or "textgrad" (a critic,
    # and a rewrite that is kept if it is better).
    config.protocol.variants = ("none", "untrained_tree", "untrained_chain", "untrained_best_of_n", "oracle")
    # Parts of the holdout, each of which judges the instruction that the others chose.
    config.protocol.folds = 4
    # TextGrad: the most failures that the critic reads and characters of each, the most characters of an instruction,
    # whether the rewrite is told to write no examples, and whether one that is not better on the holdout is dropped.
    config.protocol.textgrad = ConfigDict({"max_failures": 6, "max_example_chars": 1200, "max_instruction_chars": 8192})
    config.protocol.textgrad.update({"forbid_fewshot": True, "revert_on_worse_holdout": True})
    # OpenAI-compatible endpoints, with the fields of the grader "endpoint". cache: a file; replies in it are not paid
    # for again. parameters: fields of every request as a JSON object, such as {"max_tokens": null} to send none.
    # timeout: seconds of a request; concurrency: the most requests at once.
    for group in ("editor_endpoint", "student_endpoint"):
        config.protocol[group] = ConfigDict({"timeout": 600.0, "concurrency": 8})
        for field in ("url", "model", "api_key_env", "cache", "parameters"):
            config.protocol[group][field] = config_dict.placeholder(str)
        config.protocol[group].max_requests = config_dict.placeholder(int)


_FIELDS = {"continual": _continual, "pretraining": _pretraining, "evolve": _evolve}
