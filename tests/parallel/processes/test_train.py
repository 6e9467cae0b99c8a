"""A whole run on several processes, each with two devices, is the run of one process with one device."""

import json
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parallel.processes.processes import Processes

WEIGHTS = 5e-5  # the most that a weight may differ by; the largest weight is 5.5
LOSSES = 1e-5  # relative
RUN = [
    *("-m", "selfadapt", "train", "--config=configs/quickstart.py"),
    *("--config.rounds=1", "--config.contexts=2", "--config.edits=1", "--config.evaluation.contexts=2"),
    *("--config.sampling.max_new_tokens=48", "--config.outer.rest_em.select=best"),
    # Fewer shapes, and so fewer programs to compile.
    *("--config.domain.split=document", "--config.domain.max_segments=1", "--config.evaluation.controls=false"),
]


def command(workdir):
    return [*RUN, f"--workdir={workdir}"]


def same(workdir, other):
    """Asserts that two workdirs hold the same run."""
    summary, reference = (json.loads((each / "summary.json").read_text()) for each in (workdir, other))
    for part in ("ladder", "extras", "paired", "invalid"):
        assert summary[part] == reference[part]
    for facts, expected in zip(summary["rounds"], reference["rounds"], strict=True):
        ours, theirs = facts.pop("metrics"), expected.pop("metrics")
        assert set(ours) == set(theirs) == {"loss_first", "loss_last"}
        np.testing.assert_allclose(list(ours.values()), [theirs[name] for name in ours], rtol=LOSSES)
        assert facts == expected
    assert (workdir / "edits.jsonl").read_bytes() == (other / "edits.jsonl").read_bytes()  # texts, answers, verdicts
    weights, expected = (load_file(each / "policy" / "model.safetensors") for each in (workdir, other))
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=WEIGHTS, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of the run of one process."""
    directory = tmp_path_factory.mktemp("alone")
    with Processes(1, command(directory / "run"), directory, devices=1) as run:
        assert run.wait(900) == [0], run.output(0)
    summary = json.loads((directory / "run" / "summary.json").read_text())
    assert any(0 < row["mean"] < 1 for row in summary["ladder"])  # so that there is something to get wrong
    return directory / "run"


@pytest.mark.slow
def test_two_processes_of_which_one_was_killed_give_the_result_of_one(alone, tmp_path):
    workdir = tmp_path / "run"
    with Processes(2, command(workdir), tmp_path, heartbeat=5) as run:
        run.until("round 1: sample:", 900, of=[0])
        run.send(1, signal.SIGKILL)
        assert run.wait(60)[0] not in (0, 2, 75, 130), run.output(0)
    with Processes(2, command(workdir), tmp_path) as run:
        assert run.wait(900) == [0, 0], run.output(0) + run.output(1)
        assert "round1" in run.output(0) and "The report is" in run.output(0)
        printed = [line for line in run.output(1).splitlines() if "[Gloo]" not in line]
        assert [line for line in printed if not line.startswith("selfadapt: waiting up to")] == []
    same(workdir, alone)
