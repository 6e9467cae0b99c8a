"""Retrieval of adapters: BM25 against its formula, and batches that mix adapters against one prompt at a time."""

import collections
import logging
import math
import random
import sys

import pytest

from selfadapt import generate
from selfadapt.errors import InvalidValueError, MissingPackageError
from selfadapt.protocols.continual.retrieval import Index, generate_with, package
from tests.engine.tiny import prompts_of, random_adapters, tiny_model


def scores(texts, query, k1=1.5, b=0.75):
    """BM25 with the logarithm of one plus the odds as inverse document frequency, word by word."""
    words = [text.lower().split() for text in texts]
    mean = sum(map(len, words)) / len(words)
    found = []
    for own in words:
        counts, score = collections.Counter(own), 0.0
        for word in query.lower().split():
            having = sum(word in other for other in words)
            rarity = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
            score += rarity * counts[word] / (counts[word] + k1 * (1 - b + b * len(own) / mean)) if having else 0.0
        found.append(score)
    return found


def test_an_index_logs_nothing(caplog):
    with caplog.at_level(logging.DEBUG):
        Index(["red", "green"])
    assert not [record for record in caplog.records if record.name == "bm25s"]


def test_the_text_that_is_found_is_the_best_by_the_formula():
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(12)]
    answers = set()
    for _ in range(40):
        texts = [" ".join(draw.choices(vocabulary, k=draw.randint(3, 20))) for _ in range(6)]
        query = " ".join(draw.choices([*vocabulary, "unseen"], k=4))
        expected = scores(texts, query)
        (found,) = Index(texts).find([query])
        assert expected[found] == pytest.approx(max(expected), rel=1e-5)
        answers.add(found)
    assert len(answers) > 3


def test_of_equals_and_where_nothing_fits_the_first_text_is_found():
    assert Index(["a boat at sea", "a boat at sea", "a house"]).find(["Boat!", "the sea", "unseen", "", "HOUSE"]) == [
        *(0, 0, 0, 0, 2)
    ]
    assert Index(["", "the"]).find(["a question about words"]) == [0]


def test_an_index_does_not_log_that_it_is_built(caplog):
    caplog.set_level("NOTSET")  # of the root logger, as programs with verbose logs have it
    assert Index(["The river Avon", "The city of Bath"]).find(["Which city?"]) == [1]
    assert not caplog.records


def test_prompts_with_different_adapters_in_one_batch_are_continued_as_one_by_one():
    model = tiny_model()
    adapters = random_adapters(model.config, 4)
    prompts, chosen = prompts_of((5, 9, 5, 12, 7, 5), seed=1), [2, 0, 2, 3, 0, 3]  # none for adapter 1
    options = dict(max_new_tokens=6, return_details=True)
    found = generate_with(model, adapters, prompts, chosen, **options)
    alone = [
        generate(model, [prompt], adapters=adapters[index], **options)[0]
        for prompt, index in zip(prompts, chosen, strict=True)
    ]
    assert [each.tokens for each in found] == [each[0].tokens for each in alone]
    swapped = generate_with(model, adapters, prompts, [0, 2, 0, 2, 3, 2], **options)
    assert all(a.tokens != b.tokens for a, b in zip(found, swapped, strict=True))  # the choice makes a difference


def test_adapters_of_another_base_and_unknown_ones_are_named():
    model = tiny_model()
    other = random_adapters(tiny_model(num_layers=1).config, 2)
    with pytest.raises(InvalidValueError, match="made for another base"):
        generate_with(model, other, [[1, 2]], [0], max_new_tokens=2)
    for index in (-1, 2):
        with pytest.raises(InvalidValueError, match=f"prompt 1 chooses adapter {index} of a stack of 2"):
            generate_with(model, random_adapters(model.config, 2), [[1, 2]] * 2, [0, index], max_new_tokens=2)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'selfadapt\[retrieval\]'"):
        package()
