"""Tests of the documents that the model of the tiny world of grids is pretrained on, and of their tokens."""

import collections
import itertools
import json

import numpy as np
import pytest
import transformers

from selfadapt.domains.arc.directive import Directive
from selfadapt.domains.arc.tasks import Pair
from selfadapt.domains.tiny.grids import dsl, pretraining
from selfadapt.domains.tiny.grids.format import EPOCHS, RATES, CompactFormat, examples_text
from selfadapt.domains.tiny.grids.source import TinyGrids
from tests.domains.tiny.grids.rules import pretrained_compositions

KINDS = list(pretraining.SHARES)


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.make_tokenizer(1024)


@pytest.fixture(scope="module")
def documents(tokenizer):
    return list(itertools.islice(pretraining.documents(tokenizer, seed=0), 1800))


@pytest.fixture(scope="module")
def texts(tokenizer, documents):
    return [(KINDS[d.kind], tokenizer.decode(d.tokens, skip_special_tokens=True)) for d in documents]


def pairs_of(text):
    """The examples of a document."""
    blocks = [block.split("\n->\n") for block in text.split("Directive: ")[0].removesuffix("\n\n").split("\n\n")]
    return [Pair(*(tuple(tuple(map(int, row)) for row in side.split("\n")) for side in block)) for block in blocks]


def test_a_cell_a_line_break_and_each_part_of_a_directive_are_one_token(tokenizer):
    assert tokenizer.tokenize("01\n23\n->\n9\n\n5") == ["0", "1", "Ċ", "2", "3", "Ċ->Ċ", "9", "ĊĊ", "5"]
    for rate, epochs, flag, loss in itertools.product(RATES, EPOCHS, (True, False), ("all", "target")):
        text = CompactFormat().directive_text(Directive(flag, not flag, flag, flag, loss, rate, epochs))
        values = json.loads(text)
        parts = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        assert "".join(parts) == text
        # A value follows each key, and the braces come last.
        written = [*values["data_generation"].values(), *values["training"].values()]
        assert len(parts) == 15 and [json.loads(part) for part in parts[1::2]] == written


def test_an_example_of_three_by_three_cells_takes_24_tokens(tokenizer):
    task = TinyGrids().tasks("heldout", 1)[0]
    text = examples_text([Pair(((1, 2, 3),) * 3, ((4, 5, 6),) * 3)])
    assert text == "123\n123\n123\n->\n456\n456\n456\n\n" and len(tokenizer.encode(text)) == 24
    format = CompactFormat()
    assert format.edit_prompt(task) == examples_text(task.train) + "Directive: "
    prompt = format.answer_prompt(task.train, task.tests[0]) + format.answer(task.solutions[0])
    assert prompt == examples_text([*task.train, Pair(task.tests[0], task.solutions[0])])


def test_an_answer_is_read_up_to_its_empty_line():
    format = CompactFormat()
    assert format.parse_answer(format.answer(((1, 2), (3, 4))) + "9") == ((1, 2), (3, 4))
    assert [format.parse_answer(text) for text in ("", "12\n3", "1a", "->")] == [None] * 4


def test_each_kind_of_document_has_its_share_of_tokens_and_fits(documents):
    counts = collections.Counter()
    for document in documents:
        assert 2 <= len(document.tokens) == len(document.weights) <= 192
        counts[KINDS[document.kind]] += len(document.tokens)
    for kind, share in pretraining.SHARES.items():
        assert counts[kind] / counts.total() == pytest.approx(share, abs=0.01)


def test_weights_mark_outputs_inputs_and_directives(tokenizer, documents):
    document = next(d for d in documents if KINDS[d.kind] == "directive" and len(d.tokens) == 24 * 2 + 17)
    first, second = [0.1] * 12 + [0.3] * 12, [0.1] * 12 + [1.0] * 12
    assert document.weights.tolist() == [*first, *second, 0.0, *[1.0] * 16]
    assert document.tokens[-1] == tokenizer.eos_token_id
    examples = next(d for d in documents if KINDS[d.kind] == "step")
    assert examples.weights[-1] == 0 and examples.weights[-2] == 1


def test_every_document_is_explained_by_a_rule_of_pretraining(texts):
    rules = {"step": dsl.simple_rules(), "composition": tuple(pretrained_compositions())}
    for kind, some in rules.items():
        for text in [text for found, text in texts if found == kind][:30]:
            examples = [tuple(map(np.array, pair)) for pair in pairs_of(text)]
            assert len(examples) >= 2
            assert any(dsl.explains(rule, examples) for rule in some), text


def test_directives_are_uniform_and_independent_of_the_rule(texts):
    """Counts over documents: values by whether one step explains the examples, and by the size of the outputs."""
    groups = collections.defaultdict(list)
    for kind, text in texts:
        if kind != "directive":
            continue
        pairs = pairs_of(text)
        grown = any(len(p.output) * len(p.output[0]) != len(p.input) * len(p.input[0]) for p in pairs)
        groups["tiled" if grown else "other"].append(CompactFormat().parse_directive(text.split("Directive: ")[1]))
    assert {name: len(found) > 60 for name, found in groups.items()} == {"tiled": True, "other": True}
    for found in (*groups.values(), [d for own in groups.values() for d in own]):
        for field, values in {
            **dict.fromkeys(("basic", "size", "chain", "repeat"), (False, True)),
            "loss": ("all", "target"),
            "learning_rate": RATES,
            "epochs": EPOCHS,
        }.items():
            counts = collections.Counter(getattr(directive, field) for directive in found)
            expected = len(found) / len(values)
            chi_squared = sum((counts[value] - expected) ** 2 / expected for value in values)
            assert set(counts) <= set(values) and chi_squared < 11 + 2.5 * len(values), (field, counts)


def test_the_tokenizer_takes_any_text_and_survives_being_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("naïve {x} 0.5", '{"data_generation": {"use_basic_augmentations": maybe', "1 2\n3"):
        assert tokenizer.decode(tokenizer.encode(text)) == text == loaded.decode(loaded.encode(text))
