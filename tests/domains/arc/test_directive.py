"""Directives: what is read, strictly and as SEAL reads them, and the reason why others are not."""

import dataclasses
import json

import pytest

from selfadapt.domains.arc import Directive, parse_directive, render_directive
from selfadapt.errors import InvalidEdit

GOOD = Directive(basic=True, size=False, chain=True, repeat=False, loss="target", learning_rate=1e-4, epochs=2)
FLAGS = ("use_basic_augmentations", "use_size_augmentations", "use_chain_augmentations", "use_repeat_augmentations")


def changed(group, **values):
    """The good directive's JSON with other values; `None` removes a key."""
    value = json.loads(render_directive(GOOD))
    value[group] = {key: each for key, each in (value[group] | values).items() if each is not None}
    return json.dumps(value)


def test_a_directive_is_read_as_it_was_written():
    for flag in ("basic", "size", "chain", "repeat"):
        alone = dataclasses.replace(GOOD, basic=False, chain=False, loss="all", epochs=375, learning_rate=1.0)
        alone = dataclasses.replace(alone, **{flag: True})
        assert parse_directive(render_directive(alone)) == alone
    by_hand = (
        ' {"training": {"learning_rate": 1, "num_train_epochs": 3, "strategy": "train_using_all_tokens"},\n'
        '"data_generation": {"use_repeat_augmentations": true, "use_size_augmentations": false, '
        '"use_basic_augmentations": false, "use_chain_augmentations": false}}\n'
    )
    assert parse_directive(by_hand) == Directive(False, False, False, True, "all", 1.0, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        (render_directive(GOOD)[:-1], "not JSON"),
        (render_directive(GOOD) + " So be it.", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "has no 'data_generation'"),
        ('{"data_generation": [], "training": {}}', "no object 'data_generation'"),
        (render_directive(GOOD).replace("true", "1", 1), "use_basic_augmentations must be true or false"),
        (changed("data_generation", use_chain_augmentations=None), "data_generation has no 'use_chain_augmentations'"),
        (changed("data_generation", use_all=True), "data_generation has an unknown key"),
        (changed("training", strategy=None), "training has no 'strategy'"),
        (changed("training", strategy="train"), "strategy must be one of"),
        (changed("training", strategy=["all"]), "strategy must be one of"),
        (changed("training", learning_rate="1e-4"), "learning_rate must be"),
        (changed("training", learning_rate=0), "learning_rate must be"),
        (changed("training", learning_rate=-1e-4), "learning_rate must be"),
        (changed("training", learning_rate=1.5), "learning_rate must be"),
        (changed("training", learning_rate=True), "learning_rate must be"),
        (changed("training", learning_rate=float("inf")), "Infinity"),
        (changed("training", learning_rate=float("nan")), "NaN"),
        (render_directive(GOOD).replace("0.0001", "1e999"), "learning_rate must be"),
        (changed("training", num_train_epochs=0), "num_train_epochs must be"),
        (changed("training", num_train_epochs=376), "num_train_epochs must be"),
        (changed("training", num_train_epochs=2.0), "num_train_epochs must be"),
        (changed("training", num_train_epochs=True), "num_train_epochs must be"),
        (render_directive(GOOD).replace('_epochs": 2', '_epochs": 2, "num_train_epochs": 3'), "a key twice"),
    ],
)
def test_what_cannot_be_used_is_an_invalid_edit_with_the_reason(text, reason):
    with pytest.raises(InvalidEdit, match=reason):
        parse_directive(text)


def test_read_leniently_a_missing_augmentation_means_none_and_no_training():
    found = parse_directive(changed("data_generation", use_size_augmentations=None), lenient=True)
    assert found == Directive(False, False, False, False, "target", 0.0, 0)


@pytest.mark.parametrize("change", [{"strategy": None}, {"learning_rate": None}, {"num_train_epochs": None}])
def test_read_leniently_a_missing_choice_of_the_training_means_no_training_on_all_tokens(change):
    found = parse_directive(changed("training", **change), lenient=True)
    assert found == Directive(True, False, True, False, "all", 0.0, 0)


def test_read_leniently_an_unknown_strategy_means_no_training_and_unknown_keys_nothing():
    found = parse_directive(changed("training", strategy="train"), lenient=True)
    assert (found.loss, found.epochs) == ("all", 0)
    assert parse_directive(changed("training", note="x"), lenient=True) == GOOD
    assert parse_directive(changed("training", num_train_epochs=0), lenient=True).epochs == 0


@pytest.mark.parametrize(
    "text", ["{", '{"training": {}}', changed("training", learning_rate=-1.0), changed("training", learning_rate="1")]
)
def test_read_leniently_what_seals_code_fails_on_is_invalid_still(text):
    with pytest.raises(InvalidEdit):
        parse_directive(text, lenient=True)
