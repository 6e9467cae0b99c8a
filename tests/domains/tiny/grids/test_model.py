"""Tests of the program that makes a model of the tiny world of grids."""

import json
import pathlib

import numpy as np
import pytest

from selfadapt.config import load_config
from selfadapt.domains.tiny import model
from selfadapt.domains.tiny.grids import check
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import load_model

ROOT = pathlib.Path(__file__).parents[4]
CONFIG = ROOT / "configs" / "pretrain_tiny_grids.py"


@pytest.fixture
def small(monkeypatch):
    """The config with a small model, and without the check, which would compile more than it tests."""
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
