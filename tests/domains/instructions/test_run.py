"""A whole run of instruction editing on a random model."""

import pytest

from selfadapt.defaults import experiment
from selfadapt.experiment import train
from selfadapt.files import read_jsonl
from selfadapt.search import Tree
from tests.domains.instructions.worlds import random_rules_model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = experiment("instructions")
    config.model = str(random_rules_model(tmp_path_factory.mktemp("model")))
    config.preset = "tiny_lse"
    config.outer.name, config.outer.reinforce.baseline = "reinforce", "task"
    config.rounds, config.contexts, config.edits = 1, 2, 2
    config.domain.environments, config.domain.batch, config.evaluation.contexts = 2, 2, 2
    config.sampling.max_new_tokens, config.answer.max_new_tokens = 12, 4
    config.evaluation.controls = False
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return train(config, workdir), workdir


def test_a_run_has_the_rows_of_no_edit_each_policy_and_the_oracle(finished):
    summary, workdir = finished
    assert [row["name"] for row in summary["ladder"]] == ["none", "untrained", "round1", "oracle"]
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    oracle = [edit for edit in edits if edit["policy"] == "oracle"]
    assert len(oracle) == 2 and all(edit["sequences"][0].count(" = ") > 2 for edit in oracle)
    written = [edit for edit in edits if edit["phase"] == "train"]
    assert len(written) == 4 and all(len(edit["answers"]) == 16 for edit in written)
    assert summary["rounds"][0]["selected"] > 0 or all(edit["reward"] == 0 for edit in written)
    trees = [Tree.load(path) for path in sorted((workdir / "trees").glob("*/tree.json"))]
    assert len(trees) == 2 and all(tree.total_selections == 3 for tree in trees)
    assert "grow trees" in summary["timings"] and "Held-out environments" in (workdir / "report.html").read_text()
