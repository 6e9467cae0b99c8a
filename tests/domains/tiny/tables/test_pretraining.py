"""Tests of the documents that the model of the world of tables is pretrained on."""

import collections
import itertools
import pathlib
import random

import pytest

from selfadapt.config import load_config
from selfadapt.domains.tiny import model
from selfadapt.domains.tiny.rules.families import write_piece
from selfadapt.domains.tiny.tables import pretraining
from selfadapt.domains.tiny.tables.cases import FACTS, VALUES, draw_case
from selfadapt.domains.weights_or_words import parse_sections

CONFIG = pathlib.Path(__file__).parents[4] / "configs" / "pretrain_tiny_tables.py"
KINDS = list(pretraining.SHARES)


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.make_tokenizer(1024)


@pytest.fixture(scope="module")
def documents(tokenizer):
    return list(itertools.islice(pretraining.documents(tokenizer, seed=0), 600))


@pytest.fixture(scope="module")
def edits():
    """Edits of each kind of case with the cases."""
    rng = random.Random(0)
    cases = {kind: [draw_case(rng, "pretraining", kind) for _ in range(600)] for kind in FACTS}
    return {kind: [(case, pretraining.draw_edit(rng, case)) for case in some] for kind, some in cases.items()}


def test_each_kind_of_document_has_its_share_of_tokens_and_fits(documents):
    counts = collections.Counter()
    for document in documents:
        assert len(document.tokens) == len(document.weights) <= 256
        counts[KINDS[document.kind]] += len(document.tokens)
    assert sum(pretraining.SHARES.values()) == pytest.approx(1)
    for kind, share in pretraining.SHARES.items():
        assert counts[kind] / counts.total() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("kind", FACTS)
def test_the_way_of_an_edit_does_not_depend_on_the_kind_of_its_case(edits, kind):
    counts = collections.Counter(edit.way for _, edit in edits[kind])
    assert all(counts[way] / 600 == pytest.approx(1 / 3, abs=0.06) for way in ("words", "weights", "both"))


def test_the_lines_of_a_rule_come_first_as_often_as_those_of_a_table_and_the_first_ones_are_words(edits):
    first, most = collections.Counter(), 0
    for case, edit in edits["mixed"]:
        groups = {key: name for name, lines in case.groups.items() for key, _ in lines}
        order = [groups[line.split(" = ")[0]] for line in (*edit.words, *edit.weights)]
        changes = sum(a != b for a, b in itertools.pairwise(order))
        first[order[0]] += 1
        most = max(most, len(edit.words) if edit.way == "both" else 0)
        assert changes <= 1
    assert first["rule"] / first["table"] == pytest.approx(1, abs=0.25) and most == 12


def test_lines_of_edits_are_right_wrong_or_left_out_and_fit_into_a_prompt(edits):
    stated = collections.Counter()
    for case, edit in itertools.chain.from_iterable(edits.values()):
        assert len(edit.words) <= 12 and parse_sections(edit.write(), most_words=12) == edit
        truth = dict(itertools.chain.from_iterable(case.groups.values()))
        lines = dict(line.split(" = ") for line in (*edit.words, *edit.weights))
        for key, value in truth.items():
            if edit.way == "weights":  # the others are cut
                stated["left out" if key not in lines else "right" if lines[key] == value else "wrong"] += 1
        assert all(lines[key] in VALUES[key] for key in lines) and set(lines) <= set(truth)
    for name, share in pretraining.STATED.items():
        assert stated[name] / stated.total() == pytest.approx(share, abs=0.02)


def test_answers_follow_from_the_lines_before_them(tokenizer, documents):
    checked = collections.Counter()
    for document in documents:
        kind = KINDS[document.kind]
        text = tokenizer.decode(document.tokens[:-1])
        learned = tokenizer.decode(document.tokens[document.weights > 0])
        if kind.endswith("edits"):
            prompt, edit = text.split("rewrite:\n")
            assert learned == f"{edit}<|endoftext|>" and " = " in edit and "words:" not in prompt
        elif kind == "table answers":
            lines = [line for line in text.split("\n") if line]
            first = len(lines) // 2
            assert sorted(lines[:first]) == sorted(lines[first:])
            assert learned == "".join(line.split(" = ")[1] + "\n" for line in lines[first:])
        checked[kind] += 1
    assert set(checked) == set(KINDS)


def test_a_rule_of_pretraining_is_never_one_of_the_tasks(edits):
    rules = {case.rule for case, _ in (*edits["rule"], *edits["mixed"])}
    assert {rule.split for rule in rules} == {"pretraining"}


def test_all_that_can_be_written_is_one_token_but_the_markers(tokenizer):
    for key, values in VALUES.items():
        assert len(tokenizer(write_piece((key, values[0])))["input_ids"]) == 3


def test_the_config_continues_this_world_from_the_model_of_rules():
    config = load_config(CONFIG)
    assert model.WORLDS[config.world] == pretraining.__name__.removesuffix(".pretraining")
    assert config.start == "tiny_rules" and config.row_tokens >= 256
