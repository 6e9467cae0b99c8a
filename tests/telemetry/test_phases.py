"""Events of phases and rounds."""

import sys

import jax
import jax.numpy as jnp
import pytest

from selfadapt.errors import UserError
from selfadapt.telemetry import meter, phases
from tests.telemetry.harness import events, options, started


def test_a_phase_records_rates_padding_mfu_compilation_and_memory(tmp_path):
    numbers = {"tokens": 600, "padded_tokens": 900, "seconds": 2.0, "flops": 1e9}
    with started(tmp_path, peak_flops=1e12) as meters:
        with meters.phase("apply and score", round=1, label="round 1"):
            meter.add("adapt", **numbers)
            meter.add("edits", scored=10)
            jax.jit(lambda x: x * 3.25)(jnp.ones(7))
        meters.end_round(1)
    (devices,), (phase,) = events(tmp_path, "devices"), events(tmp_path, "phase")
    assert devices["peak_flops"] == 1e12 * jax.device_count()
    assert (phase["phase"], phase["round"], phase["label"]) == ("apply and score", 1, "round 1")
    assert phase["edits_per_second"] == {"scored": pytest.approx(10 / phase["seconds"])}
    assert phase["tokens_per_second"] == {"trained": 300.0}
    assert phase["padding_overhead"] == {"adapt": 0.5}
    assert phase["mfu"] == pytest.approx(1e9 / phase["seconds"] / devices["peak_flops"])
    assert phase["compile"]["programs"] + phase["compile"]["cache_hits"] >= 1 and phase["compile"]["seconds"] > 0
    memory = phase["memory_bytes"]["process"]
    assert 0 < memory["in_use"] <= memory["peak"]
    (round_,) = events(tmp_path, "telemetry")
    assert round_["flops"] == 1e9 and round_["programs"]["adapt"]["tokens"] == 600
    assert sum(each["share"] for each in round_["phases"].values()) == pytest.approx(1.0)
    assert round_["edits"] == {"scored": 10}


def test_without_a_known_peak_rate_mfu_is_null_with_the_reason(tmp_path):
    with started(tmp_path) as meters, meters.phase("sample"):
        meter.add("generate", flops=5.0)
    (devices,), (phase,) = events(tmp_path, "devices"), events(tmp_path, "phase")
    assert devices["peak_flops"] is None and "config.telemetry.peak_flops" in devices["peak_flops_source"]
    assert phase["mfu"] is None and phase["flops"] == 5.0


def test_devices_with_their_own_memory_are_listed_separately(monkeypatch):
    class Device:
        def __init__(self, number):
            self.number = number

        def __str__(self):
            return f"TPU_{self.number}"

        def memory_stats(self):
            return {"bytes_in_use": self.number, "peak_bytes_in_use": 8, "bytes_limit": 16, "num_allocs": 1}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(0), Device(1)])
    assert phases.memory() == {f"TPU_{n}": {"in_use": n, "peak": 8, "limit": 16} for n in (0, 1)}


def test_a_nested_phase_is_counted_once(tmp_path):
    with started(tmp_path) as meters:
        with meters.phase("save"):
            meter.add("adapt", flops=1.0)
            with meters.phase("evaluate"):
                meter.add("adapt", flops=2.0)
        meters.end_round(1)
    inner, outer = events(tmp_path, "phase")
    assert (inner["phase"], inner["flops"]) == ("evaluate", 2.0) and (outer["phase"], outer["flops"]) == ("save", 1.0)
    (round_,) = events(tmp_path, "telemetry")
    assert round_["flops"] == 3.0 and sum(each["share"] for each in round_["phases"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tensorboard": True}, r"needs the package tensorboardX.*pip install 'selfadapt\[tensorboard\]'"),
        ({"wandb": "project"}, r"needs the package wandb.*pip install 'selfadapt\[wandb\]'"),
        ({"profile": "10"}, "profile.*is '10'; it must be START:STOP"),
        ({"profile": "20:10"}, "START:STOP"),
        ({"profile": "a:b"}, "START:STOP"),
        ({"peak_flops": 0.0}, "peak_flops is 0.0"),
    ],
)
def test_unusable_options_are_errors_with_a_remedy(monkeypatch, changes, message):
    for module in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        phases.check(options(**changes).telemetry)
