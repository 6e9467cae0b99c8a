"""Tests of the embedded model "tiny_grids": the one that is shipped, and the program that makes it."""

import json
import pathlib

import numpy as np
import pytest
import transformers

from selfadapt.config import load_config
from selfadapt.domains.tiny import model
from selfadapt.domains.tiny.grids import check, pretraining
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import load_model

ROOT = pathlib.Path(__file__).parents[4]
CONFIG = ROOT / "configs" / "pretrain_tiny_grids.py"
SHIPPED = ROOT / "selfadapt" / "assets" / "tiny_grids"


def test_the_shipped_model_takes_at_most_eight_megabytes():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 8e6


def test_the_shipped_tokenizer_is_that_of_the_world():
    shipped = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    assert shipped.get_vocab() == pretraining.make_tokenizer(1024).get_vocab()


def test_the_shipped_model_solves_tasks_and_writes_directives_of_every_quality():
    found = check.check(load_model("tiny_grids"), tasks=16, directives=8)
    recorded = {"step": 0.75, "composition": 0.25, "train": 0.125}
    assert {name: found[name] for name in recorded} == pytest.approx(recorded, abs=0.07)  # one task of 16
    assert found["valid_directives"] > 0.95
    for field, shares in found["values"].items():
        likely = {value: share for value, share in shares.items() if share > 0.03}
        assert len(likely) == {"learning_rate": 6, "epochs": 4}.get(field, 2), (field, shares)
        assert max(likely.values()) < 1.6 / len(likely), (field, shares)


@pytest.fixture
def small(monkeypatch):
    """The config with a small model, and without the check, which the shipped model is tested with."""
    monkeypatch.setattr(check, "check", lambda model, **sizes: sizes)
    config = load_config(CONFIG)
    config.steps, config.save_every, config.rows = 60, 50, 2
    config.model.update(
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"num_key_value_heads": 2}
    )
    return config


def losses(workdir):
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "loss"]


@pytest.mark.slow
def test_the_program_learns_and_continues_from_what_it_wrote(small, tmp_path):
    made = model.pretrain(small, tmp_path / "first")
    loaded = load_model(tmp_path / "first" / "model")
    for name, leaf in made.params["layers"].items():
        np.testing.assert_array_equal(loaded.params["layers"][name], leaf)
    first = losses(tmp_path / "first")
    assert first[-1] < 0.8 * first[0]
    small.start, small.steps = str(tmp_path / "first" / "model"), 1
    model.pretrain(small, tmp_path / "more")
    assert losses(tmp_path / "more") == [pytest.approx(first[-1], rel=0.2)]


def test_a_start_of_other_sizes_is_an_error(small, tmp_path):
    small.start = "tiny"
    with pytest.raises(InvalidValueError, match="config.start: tiny is not a model of the sizes of config.model"):
        model.pretrain(small, tmp_path)
