"""What a launcher's environment requests, and a single process; several real ones are in tests/parallel/processes."""

import signal

import jax
import pytest

from selfadapt.errors import UserError
from selfadapt.parallel import distributed

COMPLETE = {
    "SELFADAPT_COORDINATOR": "10.0.0.1:8476",
    "SELFADAPT_NUM_PROCESSES": "4",
    "SELFADAPT_PROCESS_ID": "3",
}


@pytest.fixture
def requests(monkeypatch):
    """Records the arguments of `jax.distributed.initialize` instead of waiting for processes that do not exist."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("environment", [{}, {"SELFADAPT_DISTRIBUTED": "0"}, {"SELFADAPT_COORDINATOR": ""}])
def test_nothing_is_initialized_unless_requested(requests, environment):
    distributed.initialize(environment=environment)
    assert requests == []


def test_a_complete_environment_is_passed_to_jax(requests, capsys):
    distributed.initialize(environment=COMPLETE | {"SELFADAPT_HEARTBEAT_SECONDS": "7"})
    (arguments,) = requests
    assert arguments["coordinator_address"] == "10.0.0.1:8476"
    assert (arguments["num_processes"], arguments["process_id"]) == (4, 3)
    assert arguments["cluster_detection_method"] == "deactivate"
    assert arguments["heartbeat_timeout_seconds"] == 7
    assert capsys.readouterr().err == (
        "selfadapt: waiting up to 300 s for all processes of this run at 10.0.0.1:8476\n"
    )


@pytest.mark.parametrize(
    "how", [{"requested": True, "environment": {}}, {"environment": {"SELFADAPT_DISTRIBUTED": "1"}}]
)
def test_jax_detects_the_cluster_if_the_environment_does_not_name_it(requests, how):
    distributed.initialize(**how)
    assert "coordinator_address" not in requests[0]
    assert requests[0]["heartbeat_timeout_seconds"] == 30


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"SELFADAPT_PROCESS_ID": ""}, "but not SELFADAPT_PROCESS_ID"),
        ({"SELFADAPT_COORDINATOR": ""}, "but not SELFADAPT_COORDINATOR"),
        ({"SELFADAPT_COORDINATOR": "10.0.0.1"}, "must be HOST:PORT"),
        ({"SELFADAPT_NUM_PROCESSES": "four"}, "SELFADAPT_NUM_PROCESSES is 'four'"),
        ({"SELFADAPT_PROCESS_ID": "4"}, "numbered from 0 to 3"),
        ({"SELFADAPT_HEARTBEAT_SECONDS": "soon"}, "SELFADAPT_HEARTBEAT_SECONDS is 'soon'"),
        ({"SELFADAPT_HEARTBEAT_SECONDS": "0"}, "at least 1"),
        ({"SELFADAPT_HEARTBEAT_SECONDS": "1.5"}, "whole number"),
    ],
)
def test_an_incomplete_or_malformed_environment_is_an_error_that_names_the_variable(requests, changes, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(environment=COMPLETE | changes)
    assert requests == []


@pytest.mark.parametrize(
    "error, environment, message",
    [
        (
            ValueError("coordinator_address should be defined."),
            {},
            "JAX detects no cluster here.*SELFADAPT_COORDINATOR",
        ),
        (RuntimeError("Failed to start RPC server"), COMPLETE, "cannot join the run at 10.0.0.1:8476: Failed to start"),
    ],
)
def test_what_jax_refuses_is_an_error_that_the_user_can_fix(monkeypatch, error, environment, message):
    def refuse(**_):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=message):
        distributed.initialize(requested=True, environment=environment)


def test_initializing_after_jax_was_used_is_an_error():
    jax.devices()
    with pytest.raises(UserError, match="must be called before JAX is used"):
        distributed.initialize(environment=COMPLETE)


def test_a_single_process_is_the_main_one_and_never_waits():
    assert distributed.is_main() and distributed.process_count() == 1 and distributed.label() == "selfadapt"
    assert distributed.broadcast({"a": [1]}) == {"a": [1]}
    assert distributed.on_main(lambda: "result") == "result"
    distributed.barrier("nobody else")
    distributed.finish(2)


def test_sigterm_is_noted_once_it_is_caught():
    before = signal.getsignal(signal.SIGTERM)
    try:
        distributed.catch_sigterm()
        assert not distributed.preempted(1)
        signal.raise_signal(signal.SIGTERM)
        assert distributed.preempted(2)
        distributed.catch_sigterm()
        assert not distributed.preempted(3)
    finally:
        signal.signal(signal.SIGTERM, before)
