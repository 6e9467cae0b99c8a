"""What a launcher's environment asks for, and a process that is alone; real processes are in tests/distributed."""

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
def asked(monkeypatch):
    """Records what JAX would be asked for, instead of waiting for processes that do not exist."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    before = signal.getsignal(signal.SIGTERM)
    yield calls
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("environment", [{}, {"SELFADAPT_DISTRIBUTED": "0"}, {"SELFADAPT_COORDINATOR": ""}])
def test_nothing_is_initialised_unless_asked_for(asked, environment):
    distributed.initialize(environment=environment)
    assert asked == []


def test_a_complete_environment_says_who_and_where(asked):
    distributed.initialize(environment=COMPLETE)
    (arguments,) = asked
    assert arguments["coordinator_address"] == "10.0.0.1:8476"
    assert (arguments["num_processes"], arguments["process_id"]) == (4, 3)
    assert arguments["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize("how", [{"asked": True, "environment": {}}, {"environment": {"SELFADAPT_DISTRIBUTED": "1"}}])
def test_jax_finds_the_cluster_where_it_is_left_to_it(asked, how):
    distributed.initialize(**how)
    assert "coordinator_address" not in asked[0]


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
    ],
)
def test_an_environment_that_is_half_set_or_wrong_is_named(asked, changes, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(environment=COMPLETE | changes)
    assert asked == []


def test_where_jax_knows_no_cluster_the_error_says_what_to_set(monkeypatch):
    def nowhere(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nowhere)
    with pytest.raises(UserError, match="JAX knows no cluster here.*SELFADAPT_COORDINATOR"):
        distributed.initialize(asked=True, environment={})


def test_a_call_that_comes_after_jax_was_used_is_an_error():
    jax.devices()
    with pytest.raises(UserError, match="comes too late"):
        distributed.initialize(environment=COMPLETE)


def test_a_process_alone_is_the_main_one_and_never_waits():
    assert distributed.is_main() and distributed.process_count() == 1 and distributed.label() == "selfadapt"
    assert distributed.broadcast({"a": [1]}) == {"a": [1]}
    distributed.barrier("nobody else")
    distributed.close(2, "has ended")


def test_sigterm_is_noted_once_it_is_caught(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(distributed, "_sigterm", False)
    try:
        distributed.catch_sigterm()
        assert not distributed.preempted(1)
        signal.raise_signal(signal.SIGTERM)
        assert distributed.preempted(2)
    finally:
        signal.signal(signal.SIGTERM, before)
