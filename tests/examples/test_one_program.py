"""The rounds of `examples/one_program.py` run in one program and train the policy."""

import importlib.util
import pathlib

import numpy as np
import pytest

FILE = pathlib.Path(__file__).parents[2] / "examples" / "one_program.py"


@pytest.mark.slow
def test_rounds_in_one_program_train_the_policy(capsys):
    spec = importlib.util.spec_from_file_location("one_program", FILE)
    one_program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(one_program)
    rewards = one_program.main(["--rounds=2", "--contexts=4", "--edits=2", "--tokens=32", "--steps=2"])
    assert rewards.shape == (2,) and np.isfinite(rewards).all() and (rewards < 0).all()
    assert "round 2: -" in capsys.readouterr().out
