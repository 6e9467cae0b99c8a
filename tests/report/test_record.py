"""What is recorded about an edit."""

import pytest

from selfadapt import ContextEdit, TokenSequence, Update
from selfadapt.report.record import training_texts
from selfadapt.types import Rejected


@pytest.mark.parametrize(
    ("what", "texts"),
    [
        (Update(["a b", ("prompt ", "target"), TokenSequence((1, 2, 3)), ((1, 2), (0, 1))]),
         ["a b", "prompt target", "3 tokens", "2 tokens"]),
        (ContextEdit("memo"), ["memo"]),
        (Rejected("no edit"), []),
    ],
)  # fmt: skip
def test_training_sequences_are_recorded_as_texts(what, texts):
    assert training_texts(what) == texts


def test_sequences_beyond_the_most_characters_are_counted():
    update = Update([("x" * 10, "y" * 10)] * 8)
    assert training_texts(update, most=45) == ["x" * 10 + "y" * 10] * 3 + ["(5 more)"]
    assert len(training_texts(update, most=160)) == 8
