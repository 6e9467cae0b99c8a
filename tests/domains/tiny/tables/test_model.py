"""Tests of the embedded model "tiny_tables": it looks lines up, and writes edits of each way for each kind of case."""

import pathlib

import pytest
import transformers

from selfadapt.domains.tiny.tables import check
from selfadapt.domains.tiny.tables.cases import FACTS
from selfadapt.domains.tiny.tables.pretraining import make_tokenizer
from selfadapt.models.model import load_model

SHIPPED = pathlib.Path(__file__).parents[4] / "selfadapt" / "assets" / "tiny_tables"


def test_the_shipped_model_takes_at_most_four_megabytes_and_has_the_tokenizer_of_the_world():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 4e6
    assert transformers.AutoTokenizer.from_pretrained(SHIPPED).get_vocab() == make_tokenizer(1024).get_vocab()


@pytest.fixture(scope="module")
def found():
    return check.check(load_model("tiny_tables"), cases=8, edits=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTS)
def test_the_shipped_model_uses_the_lines_of_a_prompt_and_knows_nothing_without_them(found, kind):
    assert found[kind]["looked_up"] > 0.95 and found[kind]["unknown"] < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTS)
def test_the_shipped_model_writes_edits_of_each_way_for_each_kind_of_case(found, kind):
    assert found[kind]["invalid"] < 0.35 and found[kind]["right"] > 0.4
    for way in ("words", "weights", "both"):
        assert found[kind][way] > 0.03, way
