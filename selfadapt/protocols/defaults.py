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
    config = experiment()
    for field in _OUTER_LOOP:
        del config[field]
    config.evaluation = ConfigDict({"contexts": config_dict.placeholder(int)})  # passages that streams are drawn from
    # runs of `streams` streams of `passages` passages; seed: of the draws. disjoint: no passage is in two streams; else
    # each run draws with the seed `seed` + run, as SEAL does.
    config.protocol = ConfigDict({"name": name, "runs": 1, "streams": 16, "passages": 8, "seed": 42, "disjoint": True})
    # What streams learn: "none", "passage", "policy", "oracle", or "untrained" (beside a trained policy).
    config.protocol.variants = ("none", "passage", "policy", "oracle")
    # The policy that streams start from: a workdir of `selfadapt train`, or a directory; "": `config.model` itself.
    config.protocol.policy = ""
    return config
