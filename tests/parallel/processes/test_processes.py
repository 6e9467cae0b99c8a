"""Real processes on this machine, over loopback: they meet, they end together, and none hangs when another dies."""

import pathlib
import signal
import time

import pytest

from tests.parallel.processes.processes import HEARTBEAT, Processes

PART = str(pathlib.Path(__file__).with_name("part.py"))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_meet_and_end_in_good_order(tmp_path, count):
    with Processes(count, [PART, "agree"], tmp_path) as run:
        assert run.wait(300) == [0] * count, run.output(0)
        assert all("agreed" in run.output(index) for index in range(count))


def test_only_process_0_asks_an_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_PROCESS_0", "secret")
    with Processes(2, [PART, "judged"], tmp_path) as run:
        assert run.wait(300) == [0, 0], run.output(0) + run.output(1)
        assert all("verdicts [1.0, 0.0]" in run.output(index) for index in range(2))


def test_a_process_that_is_late_is_not_taken_for_dead(tmp_path):
    with Processes(2, [PART, "late"], tmp_path, heartbeat=HEARTBEAT) as run:
        assert run.wait(300) == [0, 0], run.output(0) + run.output(1)


@pytest.mark.parametrize("work", ["collective", "stuck"])
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_ends_the_others_in_the_stated_time(tmp_path, victim, work):
    with Processes(3, [PART, work], tmp_path, heartbeat=HEARTBEAT) as run:
        run.until("waiting")
        run.send(victim, signal.SIGKILL)
        start = time.monotonic()
        statuses = run.wait(3 * HEARTBEAT)
        took = time.monotonic() - start
        others = [index for index in range(3) if index != victim]
        assert [statuses[index] for index in others] == [76, 76], run.output(others[0])
        assert took < HEARTBEAT + 3
        for index in others:
            assert f"selfadapt[{index}]: error: process {victim} has died" in run.output(index)
            assert "start all processes again" in run.output(index)
            assert "stack trace" not in run.output(index)


def test_a_stopped_process_ends_the_others_too(tmp_path):
    with Processes(2, [PART, "collective"], tmp_path, heartbeat=HEARTBEAT) as run:
        run.until("waiting")
        run.send(1, signal.SIGSTOP)
        time.sleep(HEARTBEAT + 3)
        assert "process 1 has died: nothing was heard" in run.output(0)
        run.send(1, signal.SIGCONT)
        assert run.wait(2 * HEARTBEAT) == [76, 76]


def test_an_error_of_the_user_on_one_process_ends_all_with_its_status(tmp_path):
    with Processes(3, [PART, "user_error"], tmp_path) as run:
        assert run.wait(300) == [2, 2, 2], run.output(0)
        assert "selfadapt[1]: error: the file that only this host has is broken" in run.output(1)
        assert "process 1 has stopped at an error" in run.output(0) and "process 1 has" in run.output(2)


def test_a_fault_on_one_process_ends_the_others(tmp_path):
    with Processes(2, [PART, "fault"], tmp_path) as run:
        assert run.wait(300) == [76, 1], run.output(0)
        assert "process 1 has stopped at a fault of the program" in run.output(0)
        assert "KeyError: 'a fault of the program'" in run.output(1)


def test_processes_at_different_meetings_are_told_so(tmp_path):
    with Processes(2, [PART, "astray"], tmp_path) as run:
        assert run.wait(300)[1] == 1
        assert "process 0 is at 'barrier here False' and this process at 'barrier here True'" in run.output(1)


def test_sigterm_to_one_process_stops_all_at_the_same_step(tmp_path):
    with Processes(3, [PART, "terminated"], tmp_path) as run:
        run.until("waiting")
        run.send(2, signal.SIGTERM)
        assert run.wait(300) == [0, 0, 0], run.output(0)
        last = {run.output(index).rpartition("stopped at")[2] for index in range(3)}
        assert len(last) == 1 and "." in last.pop()


def test_sigterm_ends_a_process_that_does_not_catch_it(tmp_path):
    with Processes(2, [PART, "collective"], tmp_path, heartbeat=HEARTBEAT) as run:
        run.until("waiting")
        run.send(1, signal.SIGTERM)
        assert run.wait(3 * HEARTBEAT) == [76, -signal.SIGTERM]


def test_processes_that_wait_for_others_in_vain_end(tmp_path):
    with Processes(2, [PART, "absent"], tmp_path) as run:
        assert run.wait(300) == [76, 76], run.output(0)
        assert "not all processes of this run have come within 3 s" in run.output(0)
