"""Tests of the tokenizer with whole words and bytes."""

import pytest
import transformers

from selfadapt.models.tiny_tokenizer import END_OF_TEXT, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["The fox eats plums.", "Question: Who? Answer: The fox"])


@pytest.mark.parametrize(
    "text",
    [
        "The fox eats plums.",
        "",
        " ",
        "two  spaces,\ttabs\n\nand  newlines \r\n ",
        "naïve café, 漢字 and 😀 — “quotes”",
        "a , b . c don't 12,5% (x_y)",
        "\u00a0\u200b\x00\x7f",
        "The foxes eat; THE FOX",
    ],
)
def test_any_text_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_single_tokens_and_everything_else_is_bytes(tokenizer):
    assert tokenizer.tokenize("The fox eats plums.") == ["The", "Ġfox", "Ġeats", "Ġplums", "."]
    assert tokenizer.tokenize(" foxy") == ["Ġ", "f", "o", "x", "y"]
    assert len(tokenizer.encode("é")) == 2


def test_the_end_of_text_ends_and_pads(tokenizer):
    assert tokenizer.encode(END_OF_TEXT) == [0] == [tokenizer.eos_token_id]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.decode([0], skip_special_tokens=True) == ""


def test_saved_files_load_as_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The fox\n eats  é."
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.eos_token_id, loaded.pad_token_id) == (0, 0)


def test_pieces_are_single_tokens_and_the_longest_one_wins():
    pieces = build_tokenizer(["0.5"], pieces=['{"a": ', "\n\n", "\n->\n", "0.01", "0.001", "a.", "a.b"])
    text = '{"a": 0.001, 0.01}\n\n1\n->\n\n.*axb1a.b'
    assert [pieces.decode([token]) for token in pieces.encode(text)] == [
        *('{"a": ', "0.001", ",", " ", "0.01", "}", "\n\n", "1", "\n->\n", "\n", ".", "*", "a", "x", "b", "1", "a.b")
    ]
