"""Traces of a window of seconds."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from selfadapt.cli import main
from tests.telemetry.harness import started


def test_the_window_can_be_given_on_the_command_line(tmp_path, capsys):
    quickstart = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
    assert main(["train", f"--config={quickstart}", f"--workdir={tmp_path / 'run'}", "--profile", "5-10"]) == 2
    assert "'5-10'; it must be START:STOP" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_window_of_seconds_is_traced(tmp_path):
    with started(tmp_path, profile="0:60") as meters, meters.phase("sample"):
        jax.jit(lambda x: x + 1.5)(jnp.ones(3)).block_until_ready()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_window_after_the_end_of_the_run_is_a_warning(tmp_path):
    warned = pytest.warns(UserWarning, match="ended before second 50")
    with warned, started(tmp_path, profile="50:60") as meters, meters.phase("sample"):
        pass
    assert not (tmp_path / "profile").exists()
