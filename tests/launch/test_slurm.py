"""launch/slurm.sbatch with stand-ins for SLURM: how tasks start, and whether the job is requeued when they end."""

import pathlib
import sys

import pytest

from tests.launch.harness import LAUNCH, executable, recorder, records, run

ARGUMENTS = ("--config=configs/quickstart.py", "--workdir=runs/a")


@pytest.fixture
def cluster(tmp_path):
    """A directory with the commands of SLURM."""
    fake = pathlib.Path(__file__).with_name("fake_slurm.py").read_text()
    for name in ("sbatch", "srun", "scontrol"):
        executable(tmp_path / "bin" / name, f"#!{sys.executable}\n{fake}")
    return tmp_path / "bin"


def submit(cluster, *arguments, script=LAUNCH / "slurm.sbatch", **environment):
    """Runs a job; returns it and the calls of scontrol."""
    calls = cluster / "calls"
    size = ("--nodes=2", "--ntasks-per-node=2")
    done = run("sbatch", *size, script, *arguments, path=cluster, SCONTROL_CALLS=calls, **environment)
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_each_task_reaches_jax_with_its_number_and_its_gpu(cluster, tmp_path):
    (tmp_path / "records").mkdir()
    override = '--config.data.path=my data, "one".json'
    selfadapt = recorder(tmp_path / "selfadapt")
    done, calls = submit(cluster, *ARGUMENTS, override, SELFADAPT=selfadapt, RECORD=tmp_path / "records")
    assert done.returncode == 0, done.stderr
    tasks = records(tmp_path / "records")
    # JAX chooses a port from the job's number.
    assert {task["coordinator_address"] for task in tasks} == {f"node001:{65535 - 2**12 + 1 + 4242 % 2**12}"}
    assert [task["num_processes"] for task in tasks] == [4] * 4
    assert [task["process_id"] for task in tasks] == [0, 1, 2, 3]
    assert [task["local_device_ids"] for task in tasks] == [[0], [1], [0], [1]]
    assert all(task["argv"] == ["train", *ARGUMENTS, override] for task in tasks)
    assert calls == []


@pytest.mark.parametrize(
    "status, restarts, requeued",
    [
        (0, 0, False),
        (2, 0, False),
        (130, 0, False),
        (75, 0, True),
        (75, 500, True),  # a time limit is no failure
        (134, 0, True),
        (137, 19, True),
        (134, 20, False),
    ],
)
def test_the_job_is_requeued_where_a_restart_helps(cluster, tmp_path, status, restarts, requeued):
    selfadapt = executable(tmp_path / "selfadapt", f"#!/bin/sh\nexit {status}\n")
    done, calls = submit(cluster, *ARGUMENTS, SELFADAPT=selfadapt, SLURM_RESTART_COUNT=restarts)
    assert done.returncode == status
    assert calls == (["requeue 4242"] if requeued else [])


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("--workdir=a",), "--config=FILE is missing"),
        (("--config=a",), "--workdir=DIR is missing"),
        (ARGUMENTS, "there is no command /nowhere"),
    ],
)
def test_a_job_that_cannot_start_names_what_is_missing(cluster, arguments, complaint):
    done, calls = submit(cluster, *arguments, SELFADAPT="/nowhere")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Usage: sbatch" in done.stderr
    assert calls == []
