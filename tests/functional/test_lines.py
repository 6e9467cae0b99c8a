"""Lines of an edit as rows, compared with Python's own splitting of the text."""

import jax
import numpy as np
import pytest

from selfadapt import load_model
from selfadapt.functional.lines import split_lines, token_kinds, training_rows

WIDTH, MOST = 5, 3
# One token for each character; ";" stands for a token with a line break after some text, and "$" ends the sequence.
ALPHABET = "ab;\n $"
split = jax.jit(split_lines, static_argnums=(3, 4))
KINDS = np.asarray([0, 0, 3, 2, 1, 2])


def expected_lines(text):
    """Returns the lines of a text by Python's rules, before anything is cut."""
    lines = text.replace("$", "\n").replace(";", ";\n").split("\n")
    return [line.strip(" ") for line in lines if line.strip(" ")]


@pytest.fixture(scope="module")
def texts():
    """Random texts of up to twelve characters, an empty one, and one that is a single long line."""
    generator = np.random.default_rng(0)
    drawn = ["".join(generator.choice(list(ALPHABET), generator.integers(1, 13))) for _ in range(200)]
    return ["", "abababababab", *drawn]


def test_lines_are_those_that_python_splits_a_text_into(texts):
    tokens = np.full((len(texts), 12), ALPHABET.index("a"))  # what follows a text is not part of it
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = [ALPHABET.index(character) for character in text]
    lengths = np.asarray([len(text) for text in texts])
    lines = jax.tree.map(np.asarray, split(tokens, lengths, KINDS, MOST, WIDTH))
    assert {0, 1, 2, 3} == set(lines.counts.tolist())
    for n, text in enumerate(texts):
        wanted = expected_lines(text)
        found = [
            "".join(ALPHABET[token] for token in lines.tokens[n, i, : lines.lengths[n, i]].tolist())
            for i in range(int(lines.counts[n]))
        ]
        assert found == [line[:WIDTH] for line in wanted[:MOST]]
        assert bool(lines.cut[n]) == (len(wanted) > MOST or any(len(line) > WIDTH for line in wanted))
        assert not lines.lengths[n, len(found) :].any()


@pytest.mark.parametrize("end", [[], [9, 8]])
def test_a_row_is_prefix_line_and_end(end):
    text = np.asarray([[1, 1, 3, 0]])
    lines = split(text, np.asarray([4]), KINDS, 2, 3)
    prefix, lengths = np.asarray([[6, 7, 0]]), np.asarray([2])
    rows, row_lengths = jax.jit(training_rows, static_argnums=4)(lines, prefix, lengths, np.asarray(end, np.int32), 8)
    wanted = [[6, 7, 1, 1, *end], [6, 7, 0, *end]]
    assert row_lengths.tolist() == [[len(row) for row in wanted]]
    for row, expected in zip(rows[0].tolist(), wanted, strict=True):
        assert row == expected + [0] * (8 - len(expected))


def test_every_token_of_a_tokenizer_has_its_kind():
    tokenizer = load_model("tiny").tokenizer
    kinds = token_kinds(tokenizer, len(tokenizer) + 2)
    newline, space, word = (tokenizer(text)["input_ids"][0] for text in ("\n", "  ", " city"))
    assert kinds[[newline, space, word, tokenizer.eos_token_id]].tolist() == [2, 1, 0, 2]
    assert (kinds[len(tokenizer) :] == 2).all()
