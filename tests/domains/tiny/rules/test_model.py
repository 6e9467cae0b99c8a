"""Tests of the embedded model "tiny_rules": it follows instructions, and writes ones of every quality."""

import pathlib

import pytest
import transformers

from selfadapt.domains.tiny.rules import check
from selfadapt.domains.tiny.rules.families import FAMILIES
from selfadapt.domains.tiny.rules.format import make_tokenizer
from selfadapt.models.model import load_model

SHIPPED = pathlib.Path(__file__).parents[4] / "selfadapt" / "assets" / "tiny_rules"


def test_the_shipped_model_takes_at_most_eight_megabytes_and_has_the_tokenizer_of_the_world():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 8e6
    assert transformers.AutoTokenizer.from_pretrained(SHIPPED).get_vocab() == make_tokenizer(1024).get_vocab()


@pytest.fixture(scope="module")
def found():
    return check.check(load_model("tiny_rules"), environments=8, edits=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_model_follows_instructions_and_knows_no_rule_without_them(found, family):
    assert found[family]["oracle"] > 0.95
    assert found[family]["seed"] < 0.1
    assert 0.1 < found[family]["half"] < 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_model_writes_valid_edits_of_every_quality(found, family):
    assert found[family]["valid"] > 0.9
    for kind in ("right", "wrong", "irrelevant"):
        assert 0.05 < found[family][kind] < 0.75, kind
