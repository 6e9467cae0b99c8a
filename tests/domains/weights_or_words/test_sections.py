"""Tests of the sections of an edit: how they are written, read and refused."""

import itertools

import pytest

from selfadapt.domains.weights_or_words import Sections, parse_sections
from selfadapt.errors import InvalidEdit


@pytest.mark.parametrize(("words", "weights"), [(("a", "b"), ()), ((), ("a",)), (("a",), ("b", "c = d"))])
def test_what_is_written_is_read(words, weights):
    sections = Sections(words, weights)
    assert parse_sections(sections.write(), most_words=2) == sections
    assert sections.way == ("both" if words and weights else "words" if words else "weights")


def test_sections_may_come_in_either_order_with_empty_lines_between():
    text = " weights: \n\n x = 1\n\nwords:\ny = 2 \nz\n"
    assert parse_sections(text, most_words=2) == Sections(("y = 2", "z"), ("x = 1",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the edit is empty"),
        ("\n \n", "the edit is empty"),
        ("x = 1", "the edit does not begin with 'words:' or 'weights:'"),
        ("both:\nx = 1", "does not begin with"),
        ("x = 1\nwords:\ny = 2", "does not begin with"),
        ("words:", "there are no lines under 'words:'"),
        ("words:\nx\nweights:\n", "there are no lines under 'weights:'"),
        ("words:\nx\nweights:\ny\nwords:\nz", "the marker 'words:' occurs twice"),
        ("words:\na\nb\nc", "there are 3 lines under 'words:', over 2"),
    ],
)
def test_an_edit_of_another_form_is_refused_with_the_reason(text, reason):
    with pytest.raises(InvalidEdit, match=reason):
        parse_sections(text, most_words=2)


def test_there_may_be_any_number_of_lines_to_train_on():
    lines = tuple(map(str, itertools.islice(itertools.count(), 40)))
    assert parse_sections("weights:\n" + "\n".join(lines), most_words=2).weights == lines
