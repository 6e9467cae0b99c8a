"""Real processes on this machine: they share values, stop together, and end when one of them fails.

With `-s` the times of docs/launch.md are printed; SELFADAPT_HEARTBEAT_SECONDS sets another heartbeat timeout than 5 s.
"""

import os
import pathlib
import signal
import time

import pytest

from tests.parallel.processes.processes import Processes

PART = str(pathlib.Path(__file__).with_name("part.py"))
HEARTBEAT = int(os.environ.get("SELFADAPT_HEARTBEAT_SECONDS", "5"))
MARGIN = 5  # seconds after the heartbeat timeout within which all processes must have ended


def start(work, directory, count=2, started=2, patience=60):
    """Starts processes that do `work` (a function of part.py), `started` of `count`."""
    return Processes(count, [PART, work, str(patience)], directory, heartbeat=HEARTBEAT, started=started)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of two processes that nothing happens to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY_OF_PROCESS_0", "secret")
        with start("healthy", tmp_path_factory.mktemp("healthy")) as run:
            assert run.wait(300) == [0, 0], run.output(0) + run.output(1)
            return [run.output(index) for index in range(2)]


def test_process_0_is_the_main_one_and_its_values_reach_all(outputs):
    assert "main: True selfadapt[0]" in outputs[0] and "main: False selfadapt[1]" in outputs[1]
    assert all("from process 0: 0\n" in output for output in outputs)


def test_processes_at_different_barriers_fail(outputs):
    for index, output in enumerate(outputs):
        assert f"barrier: sync_global_devices name mismatch ('name {index}')" in output


def test_only_process_0_asks_an_endpoint(outputs):
    assert all("verdicts: [1.0, 0.0]" in output for output in outputs)


def test_a_process_that_is_late_is_not_taken_for_dead(outputs):
    assert all("late but not dead" in output for output in outputs)


@pytest.mark.parametrize(
    "work, victim, kill",
    [
        pytest.param("collective", 1, signal.SIGKILL, id="a killed worker"),
        pytest.param("asleep", 0, signal.SIGKILL, id="a killed coordinator", marks=pytest.mark.slow),
        pytest.param("asleep", 1, signal.SIGSTOP, id="a hung worker"),
    ],
)
def test_a_lost_process_ends_the_others_in_the_stated_time(tmp_path, work, victim, kill):
    with start(work, tmp_path) as run:
        run.until("ready")
        run.send(victim, kill)
        began = time.monotonic()
        (status,) = run.wait(60, of=[1 - victim])
        seconds = time.monotonic() - began
        output = run.output(1 - victim)
        print(f"{work}, {kill.name} to process {victim}: process {1 - victim} ended after {seconds:.1f} s")
        assert seconds < HEARTBEAT + MARGIN
        # JAX aborts the process, unless the collective it was in failed before JAX noticed that its peer is gone.
        said = {-signal.SIGABRT: "another task died", 1: "If another process failed first, its output has the cause"}
        assert status in said and said[status] in output, output
        assert status == -signal.SIGABRT or work == "collective"


@pytest.mark.parametrize(
    "work, status, message",
    [
        ("user_error", 2, "selfadapt[1]: error: the file on this host is broken\n"),
        ("fault", 1, "KeyError: 'a fault of the program'\nselfadapt[1]: error: this process failed (above)"),
    ],
)
def test_a_failure_of_one_process_keeps_its_status_and_ends_the_others(tmp_path, work, status, message):
    with start(work, tmp_path) as run:
        assert run.wait(60, of=[1]) == [status], run.output(1)
        began = time.monotonic()
        assert message in run.output(1)
        (other,) = run.wait(60, of=[0])
        seconds = time.monotonic() - began
        print(f"{work} in process 1: process 0 ended after {seconds:.1f} s")
        assert seconds < HEARTBEAT + MARGIN
        assert other not in (0, 2, 75, 130)  # so that launchers restart it


def test_an_error_that_process_0_finds_for_all_ends_all_with_status_2(tmp_path):
    with start("refused", tmp_path) as run:
        assert run.wait(60) == [2, 2]
        assert "selfadapt[0]: error: the workdir belongs to another experiment\n" in run.output(0)
        assert "selfadapt[1]: error: process 0: the workdir belongs to another experiment\n" in run.output(1)


def test_sigterm_to_one_process_stops_all_at_the_same_step(tmp_path):
    with start("terminated", tmp_path) as run:
        run.until("ready")
        run.send(1, signal.SIGTERM)
        assert run.wait(60) == [75, 75], run.output(0)
        assert "stopped by SIGTERM, all work saved" in run.output(0)
        steps = {run.output(index).partition("stopped at ")[2].partition(".")[0] for index in range(2)}
        assert len(steps) == 1 and steps.pop().isdigit()


def test_a_process_that_waits_for_others_in_vain_ends(tmp_path):
    with start("asleep", tmp_path, started=1, patience=1) as run:
        assert run.wait(60) == [-signal.SIGABRT]
        assert "waiting up to 1 s for all processes of this run at 127.0.0.1:" in run.output(0)
