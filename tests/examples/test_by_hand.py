"""The loop of `examples/by_hand.py` runs and learns."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

FILE = pathlib.Path(__file__).parents[2] / "examples" / "by_hand.py"


@pytest.mark.slow
def test_the_loop_assembled_by_hand_trains_the_policy(capsys):
    spec = importlib.util.spec_from_file_location("by_hand", FILE)
    by_hand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(by_hand)
    before = by_hand.load_model("tiny")
    state = by_hand.main(["--rounds=1", "--contexts=4", "--edits=3", "--tokens=32"])
    (learned,) = re.findall(r"round 1: an edit gains .* learned from (\d+) edits", capsys.readouterr().out)
    assert 1 <= int(learned) <= 4  # the best of each passage, if it beats the passage alone
    assert (state.round, state.policy.version) == (1, 1)
    assert state.student is state.policy
    name = "q_proj"
    assert not np.array_equal(state.policy.model.params["layers"][name], before.params["layers"][name])


def test_the_loop_is_a_page():
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 100
