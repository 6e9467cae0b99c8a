"""Tests of the rules of the tiny world: their pieces, questions and splits."""

import collections
import itertools
import random

import pytest

from selfadapt.domains.tiny.rules import families
from selfadapt.domains.tiny.rules.families import FAMILIES, VALUES, Rule, draw_rule, follow
from selfadapt.errors import InvalidValueError
from tests.domains.tiny.rules import reference


@pytest.fixture(scope="module")
def rules():
    """Rules by split and family."""
    rng = random.Random(0)
    return {
        split: {name: [draw_rule(rng, split, name) for _ in range(120)] for name in FAMILIES}
        for split in families.SPLITS
    }


@pytest.mark.parametrize(
    ("name", "question", "without", "instruction", "answer"),
    [
        ("codes", "apple 12", "apple12", "plum = Q\napple = K", "K12"),
        ("units", "heat 40", "40 C", "heat = F", "40 F"),
        ("formats", "date 3 7", "3-7", "date = /", "3/7"),
        (
            "sql",
            "count dogs age>40",
            "SELECT COUNT(*) FROM dogs WHERE age>40",
            "age = c2\ndogs = t7",
            "SELECT COUNT(*) FROM t7 WHERE c2>40",
        ),
        (
            "sql",
            "list teas origin!=nepal",
            "SELECT name FROM teas WHERE origin!='nepal'",
            "origin = c2",
            "SELECT name FROM teas WHERE c2!='nepal'",
        ),
    ],
)
def test_what_is_stated_is_followed_and_what_is_not_has_its_default(name, question, without, instruction, answer):
    family = FAMILIES[name]
    assert follow(family, "", question) == follow(family, "Be careful.", question) == without
    assert follow(family, instruction, question) == answer


def test_of_conflicting_lines_the_last_one_counts():
    assert follow(FAMILIES["codes"], "apple = K\napple = Q\nplum = Z", "apple 12") == "Q12"


def test_answers_follow_from_any_lines_as_in_the_reference(rules):
    rng = random.Random(1)
    for rule in itertools.chain.from_iterable(rules["train"].values()):
        keys = rng.choices([*rule.values, *rng.sample(list(VALUES), 4)], k=5)
        lines = [f"{key} = {rng.choice(VALUES[key])}" for key in keys]
        question = rule.family.ask(rng, rng.choice(rule.asked))
        assert follow(rule.family, "\n".join(lines), question) == reference.answer(lines, question)


def test_an_answer_depends_on_the_keys_that_its_question_uses_and_on_no_other(rules):
    rng = random.Random(2)
    for rule in itertools.chain.from_iterable(rules["train"].values()):
        question = rule.family.ask(rng, rng.choice(rule.asked))
        truth = rule.family.answer(question, rule.values)
        changed = {key for key in rule.values if rule.family.answer(question, rule.values | {key: "other"}) != truth}
        assert changed == set(rule.family.uses(question)) != set()


def test_a_rule_has_five_or_six_pieces_whose_values_are_distinct_and_no_defaults(rules):
    for name, some in itertools.chain.from_iterable(found.items() for found in rules.values()):
        for rule in some:
            assert len(set(rule.values.values())) == len(rule.pieces) == {"codes": 6, "sql": 6}.get(name, 5)
            assert not rule.family.defaults.items() & rule.values.items()
            assert rule.pieces == tuple(sorted(rule.pieces))


def test_every_rule_is_in_one_split_and_every_piece_in_all(rules):
    pieces = collections.defaultdict(set)
    for split, found in rules.items():
        for rule in itertools.chain.from_iterable(found.values()):
            assert rule.split == split
            pieces[split].update(rule.pieces if rule.name == "units" else rule.values)
    assert pieces["pretraining"] == pieces["train"] == pieces["heldout"]


def test_half_of_all_rules_are_for_pretraining_and_a_quarter_is_held_out():
    rng = random.Random(3)
    drawn = [
        Rule("codes", tuple(zip(rng.sample(list(FAMILIES["codes"].values), 6), rng.sample("ABCDEFGH", 6), strict=True)))
        for _ in range(2000)
    ]
    counts = collections.Counter(rule.split for rule in drawn)
    for split, share in {"pretraining": 0.5, "train": 0.25, "heldout": 0.25}.items():
        assert counts[split] / 2000 == pytest.approx(share, abs=0.04)


def test_no_two_families_have_a_key_in_common():
    assert len(VALUES) == sum(len(family.values) for family in FAMILIES.values())
    assert len(VALUES) == len({key for family in FAMILIES.values() for group in family.groups for key in group})
    assert set(reference.DEFAULT_UNITS.items()) == set(FAMILIES["units"].defaults.items())
    assert reference.FORMATS == FAMILIES["formats"].defaults


def test_an_unknown_split_is_an_error():
    with pytest.raises(
        InvalidValueError, match="no rules in the split 'test'; choose one of pretraining, train, heldout"
    ):
        draw_rule(random.Random(0), "test", "codes")
