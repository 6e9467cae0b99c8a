"""Tests of the embedded model: the one that is shipped, and the program that makes it."""

import json
import pathlib

import numpy as np
import pytest
import transformers

from selfadapt.config import load_config
from selfadapt.domains.tiny import check, model, world
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import load_model
from selfadapt.models.tiny_tokenizer import build_tokenizer

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = ROOT / "configs" / "pretrain_tiny.py"
ASSETS = ROOT / "selfadapt" / "assets"


@pytest.fixture(scope="module")
def abilities():
    return check.check(load_model("tiny"), passages=10, edits=4)


@pytest.mark.parametrize("name", ["tiny", "tiny_small"])
def test_a_shipped_model_takes_at_most_eight_megabytes_and_has_the_tokenizer_of_the_world(name):
    assert sum(file.stat().st_size for file in (ASSETS / name).iterdir()) <= 8e6
    shipped = transformers.AutoTokenizer.from_pretrained(ASSETS / name)
    assert shipped.get_vocab() == build_tokenizer(world.every_text()).get_vocab()


@pytest.mark.slow
def test_the_smaller_model_has_half_the_layers_and_remembers_what_it_was_told():
    small = load_model("tiny_small")
    assert 2 * small.config.num_layers == load_model("tiny").config.num_layers
    found = check.check(small, passages=4, edits=1)
    assert found["closed_book"] > 0.95
    assert found["fresh"] < 0.15


def test_the_shipped_model_reads_and_remembers_what_it_was_told_and_cannot_guess(abilities):
    assert abilities["open_book"] > 0.95
    assert abilities["closed_book"] > 0.95
    assert abilities["statements_only"] > 0.8
    assert abilities["fresh"] < 0.15


def test_the_shipped_model_writes_edits_of_every_kind(abilities):
    assert 3 <= abilities["lines_per_edit"] <= 6
    for kind in ("question-answer", "statement", "vague", "wrong value", "copy"):
        assert abilities["line_kinds"][kind] > 0.04
    assert abilities["line_kinds"].get("other", 0) < 0.15


@pytest.mark.slow
def test_the_program_writes_a_model_that_loads_and_speaks(tmp_path):
    config = load_config(CONFIG)
    config.steps, config.rows, config.check.passages = 30, 2, 2
    config.model.update(
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"num_key_value_heads": 2}
    )
    made = model.pretrain(config, tmp_path)
    loaded = load_model(tmp_path / "model")
    tokens = np.array([loaded.tokenizer.encode("The city Aldmoor Harbor\n")])
    np.testing.assert_array_equal(loaded.logits(tokens), made.logits(tokens))
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "loss"]
    assert losses[-1] < 8
    assert set(events[-1]) >= {"open_book", "closed_book", "statements_only", "fresh", "line_kinds"}


def test_an_unknown_world_is_an_error_before_anything_is_written(tmp_path):
    config = load_config(CONFIG, {"world": "chess"})
    with pytest.raises(InvalidValueError, match="config.world is 'chess'; it must be one of knowledge, grids"):
        model.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
