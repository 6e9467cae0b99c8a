"""TensorBoard and Weights & Biases."""

import contextlib
import io
import sys
import types
import warnings

import pytest

from selfadapt.errors import UserError
from selfadapt.parallel import distributed
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.sinks import Sinks
from tests.telemetry.harness import events, options


def test_tensorboard_gets_the_numbers_of_events(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX import proto

    config = options(tensorboard=True)
    with MetricsWriter(tmp_path, Sinks(config.telemetry, tmp_path, config)) as writer:
        writer.event("evaluated", round=1, phase="eval", name="round1", mean=0.25, stderr=float("nan"))
        writer.event("phase", round=1, phase="sample", label="round 1", memory_bytes={"process": {"peak": 5}})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    data = file.read_bytes()
    while data:  # records of length, checksum, event, checksum
        size = int.from_bytes(data[:8], "little")
        event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + size :]
    assert found["evaluated/policy/mean"] == (1, 0.25)
    assert found["phase/sample/memory_bytes/process/peak"] == (1, 5.0)
    assert not any("label" in tag for tag in found)


def stand_in_wandb(server_answers):
    """A module with the part of wandb's interface that is used, and the list of calls to it."""
    calls = []

    class CommError(Exception):
        pass

    def init(**given):
        if not server_answers and given.get("mode") != "offline":
            raise CommError("no route to host")
        calls.append(("init", given["id"], given.get("mode")))
        return types.SimpleNamespace(
            define_metric=lambda *a, **k: None,
            log=lambda numbers: calls.append(("log", numbers)),
            finish=lambda exit_code: calls.append(("finish", exit_code)),
        )

    errors = types.SimpleNamespace(CommError=CommError, UsageError=type("UsageError", (Exception,), {}))
    return types.SimpleNamespace(init=init, errors=errors, Settings=dict), calls


def test_weights_and_biases_gets_the_numbers_and_how_the_run_ended(tmp_path, monkeypatch):
    module, calls = stand_in_wandb(server_answers=True)
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = options(wandb="memory")
    for failed in (False, True):
        sinks = Sinks(config.telemetry, tmp_path, config)
        with contextlib.suppress(KeyboardInterrupt), MetricsWriter(tmp_path, sinks) as writer:
            writer.event("round", round=1, reward_mean=0.5)
            if failed:
                raise KeyboardInterrupt
    (_, first, _), log, end, (_, second, _), _, stopped = calls
    assert first == second  # a resumed workdir continues its run
    assert log == ("log", {"round/reward_mean": 0.5, "round": 1})
    assert (end, stopped) == (("finish", 0), ("finish", 1))


def test_without_a_connection_the_run_is_stored_offline(tmp_path, monkeypatch):
    module, calls = stand_in_wandb(server_answers=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = options(wandb="memory")
    with pytest.warns(UserWarning, match="cannot be reached.*stored offline"):
        Sinks(config.telemetry, tmp_path, config)
    assert [(call[0], call[2]) for call in calls] == [("init", "offline")]


@pytest.fixture
def fresh_wandb():
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # wandb caches the environment of its first run
    yield
    wandb.teardown()


def test_weights_and_biases_works_offline_and_continues_its_run(tmp_path, monkeypatch, fresh_wandb):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = options(wandb="memory")
    for _ in range(2):
        with MetricsWriter(tmp_path, Sinks(config.telemetry, tmp_path, config)) as writer:
            writer.event("round", round=1, reward_mean=0.5)
    kept = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert kept and {path.name for path in kept} == {f"run-{(tmp_path / 'wandb' / 'run_id.txt').read_text()}.wandb"}
    assert any(b"round/reward_mean" in path.read_bytes() for path in kept)


def test_a_missing_login_is_an_error_before_compute(tmp_path, monkeypatch, fresh_wandb):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal
    config = options(wandb="memory")
    with pytest.raises(UserError, match=r"config\.telemetry\.wandb: .*WANDB_MODE=offline"):
        Sinks(config.telemetry, tmp_path, config)


def broken_tensorboard(*methods):
    def fail(*_, **__):
        raise ConnectionError("no route")

    made = types.SimpleNamespace(add_scalar=lambda *a, **k: None, flush=lambda: None, close=lambda: None)
    for method in methods:
        setattr(made, method, fail)
    return types.SimpleNamespace(SummaryWriter=fail if not methods else lambda _: made)


@pytest.mark.parametrize("methods", [(), ("add_scalar",), ("close",)])
def test_a_sink_that_fails_warns_once_and_the_run_continues(tmp_path, monkeypatch, methods):
    monkeypatch.setitem(sys.modules, "tensorboardX", broken_tensorboard(*methods))
    config = options(tensorboard=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with MetricsWriter(tmp_path, Sinks(config.telemetry, tmp_path, config)) as writer:
            for number in range(3):
                writer.event("round", round=number, reward_mean=0.5)
    assert [str(each.message) for each in warned] == ["TensorBoard failed and receives no more of this run: no route"]
    assert len(events(tmp_path, "round")) == 3


def test_other_processes_open_no_sinks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", broken_tensorboard())
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    config = options(tensorboard=True, profile="0:1")
    Sinks(config.telemetry, tmp_path, config).write({"event": "round", "time": "2026-01-01T00:00:00", "round": 1})
