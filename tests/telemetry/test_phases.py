import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import pytest
from selfadapt.telemetry.phases.phases import Telemetry

from selfadapt import Update, adapt, generate, load_model, log_likelihood
from selfadapt.cli import main
from selfadapt.config import load_config
from selfadapt.defaults import experiment
from selfadapt.engine import flops
from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.engine.adapt.training_step import adapter_losses
from selfadapt.errors import UserError
from selfadapt.experiment import train
from selfadapt.files import read_jsonl
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Spec
from selfadapt.models.model import Model
from selfadapt.parallel import distributed
from selfadapt.telemetry import compilation, meter, phases
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.sinks import Sinks
from tests.worlds import random_world_model

RAW = {
    "model_type": "mistral",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": None,
}
ARCHITECTURE = ModelConfig.from_json(RAW)


def options(**changes):
    config = experiment()
    for name, value in changes.items():
        config.telemetry[name] = value
    return config


@contextlib.contextmanager
def started(workdir, **changes):
    with MetricsWriter(workdir) as writer, Telemetry(options(**changes), workdir, writer) as meters:
        yield meters


def events(workdir, name):
    return [event for event in read_jsonl(pathlib.Path(workdir) / "metrics.jsonl") if event["event"] == name]


@pytest.fixture(scope="module")
def model():
    return load_model("tiny")


def test_counts_go_to_the_innermost_collector_alone():
    meter.add("adapt", tokens=1)  # nobody collects
    with meter.collect() as outer:
        meter.add("adapt", tokens=2)
        with meter.collect() as inner:
            meter.add("adapt", tokens=4, seconds=0.5)
        meter.add("adapt", tokens=8)
    assert dict(outer["adapt"]) == {"calls": 2, "tokens": 10}
    assert dict(inner["adapt"]) == {"calls": 1, "tokens": 4, "seconds": 0.5}


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def masked_attention(length):
    """What a program computes of attention beyond what a causal model needs."""
    return 4 * 4 * 32 * 3 * (length * length - length * (length + 1) / 2)


def test_counted_operations_are_those_of_the_compiled_programs_but_for_small_ones():
    time = 64
    params, tokens = Model.random(ARCHITECTURE, seed=0).params, jnp.zeros((1, 1, time), jnp.int32)
    compiled = xla_flops(lambda p: decoder.logits(p, ARCHITECTURE, decoder.forward(p, ARCHITECTURE, tokens)), params)
    counted = flops.forward(ARCHITECTURE, 0, time, logits=time) + masked_attention(time)
    assert counted == pytest.approx(compiled, rel=0.03)

    start = initial_adapters(ARCHITECTURE, [Update(["x"], rank=8, targets="all-linear")])
    batch = {"tokens": tokens, "weights": jnp.ones((1, 1, time))}
    compiled = xla_flops(
        jax.grad(lambda lora, p: adapter_losses(lora, p, ARCHITECTURE, batch, False).sum()), start.lora, params
    )
    counted = flops.training(ARCHITECTURE, time, adapter=flops.adapter_size(ARCHITECTURE, start.specs[0]))
    assert counted + 3 * masked_attention(time) == pytest.approx(compiled, rel=0.05)


def test_a_window_bounds_the_pairs_that_attention_is_counted_for():
    windowed = ModelConfig.from_json(RAW | {"sliding_window": 4})
    each = 4 * 4 * 32 * 3
    difference = flops.forward(ARCHITECTURE, 0, 10, logits=0) - flops.forward(windowed, 0, 10, logits=0)
    assert difference == each * (sum(range(1, 11)) - (1 + 2 + 3 + 4 * 7))


def test_reading_a_prompt_and_writing_after_it_takes_what_reading_both_takes():
    specs = [Spec(rank=2, alpha=4, targets=("q_proj",))]
    size = flops.adapter_size(ARCHITECTURE, specs[0])
    assert size == 3 * 2 * (128 + 128)
    written = flops.of_generate(ARCHITECTURE, specs, [(0, 10)], [[6]])
    assert written == flops.forward(ARCHITECTURE, 0, 15, logits=6, adapter=size)
    shared = flops.of_generate(ARCHITECTURE, specs, [(0, 10)], [[6, 6]])
    assert shared == 2 * written - flops.forward(ARCHITECTURE, 0, 10, logits=1, adapter=size)  # one prefill


def test_programs_count_real_tokens_and_padding_apart(model):
    with meter.collect() as counts:
        adapters = adapt(model, [Update(["The sky is green."], epochs=2), Update(["The sea is red. It is."])])
        generate(model, ["The sky is", "The"], max_new_tokens=3, num_samples=2)
        log_likelihood(model, ["The sky"], [" is green."])
    length = len(model.tokenizer("The sky is green.")["input_ids"])
    other = len(model.tokenizer("The sea is red. It is.")["input_ids"])
    assert adapters.stats["tokens"] == counts["adapt"]["tokens"]
    epochs = Update(["x"]).epochs
    assert counts["adapt"]["tokens"] == 2 * length + epochs * other
    assert counts["adapt"]["padded_tokens"] == adapters.stats["padded_tokens"] >= counts["adapt"]["tokens"]
    assert counts["adapt"]["flops"] == flops.of_adapt(model.config, adapters.specs, [[length] * 2, [other] * epochs])
    assert counts["generate"]["texts"] == 4
    assert 0 < counts["generate"]["prefill_seconds"] < counts["generate"]["seconds"]
    prompt = model.tokenizer("The sky")["input_ids"]
    target = model.tokenizer(" is green.", add_special_tokens=False)["input_ids"]
    assert counts["log_likelihood"]["tokens"] == len(prompt) + len(target)
    assert counts["log_likelihood"]["flops"] > 0


def test_a_phase_says_rates_padding_share_of_the_peak_compilation_and_memory(tmp_path):
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
    assert phase["flop_share"] == pytest.approx(1e9 / phase["seconds"] / devices["peak_flops"])
    assert phase["compile"]["programs"] + phase["compile"]["cache_hits"] >= 1 and phase["compile"]["seconds"] > 0
    memory = phase["memory_bytes"]["process"]
    assert 0 < memory["in_use"] <= memory["peak"]
    (round_,) = events(tmp_path, "telemetry")
    assert round_["flops"] == 1e9 and round_["programs"]["adapt"]["tokens"] == 600
    assert sum(each["share"] for each in round_["phases"].values()) == pytest.approx(1.0)
    assert round_["edits"] == {"scored": 10}


def test_without_a_known_rate_the_share_is_null_and_the_reason_is_said(tmp_path):
    with started(tmp_path) as meters, meters.phase("sample"):
        meter.add("generate", flops=5.0)
    (devices,), (phase,) = events(tmp_path, "devices"), events(tmp_path, "phase")
    assert devices["peak_flops"] is None and "config.telemetry.peak_flops" in devices["peak_flops_source"]
    assert phase["flop_share"] is None and phase["flops"] == 5.0


def test_devices_with_memory_of_their_own_are_listed_one_by_one(monkeypatch):
    class Device:
        def __init__(self, number):
            self.number = number

        def __str__(self):
            return f"TPU_{self.number}"

        def memory_stats(self):
            return {"bytes_in_use": self.number, "peak_bytes_in_use": 8, "bytes_limit": 16, "num_allocs": 1}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(0), Device(1)])
    assert phases.memory() == {f"TPU_{n}": {"in_use": n, "peak": 8, "limit": 16} for n in (0, 1)}


def test_a_phase_inside_another_is_counted_once(tmp_path):
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
    assert first == second  # the workdir goes on as the same run
    assert log == ("log", {"round/reward_mean": 0.5, "round": 1})
    assert (end, stopped) == (("finish", 0), ("finish", 1))


def test_a_run_whose_server_does_not_answer_is_kept_offline(tmp_path, monkeypatch):
    module, calls = stand_in_wandb(server_answers=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = options(wandb="memory")
    with pytest.warns(UserWarning, match="does not answer.*kept offline"):
        Sinks(config.telemetry, tmp_path, config)
    assert [(call[0], call[2]) for call in calls] == [("init", "offline")]


@pytest.fixture
def fresh_wandb():
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it keeps the environment of its first run
    yield
    wandb.teardown()


def test_weights_and_biases_works_offline_and_goes_on_with_its_run(tmp_path, monkeypatch, fresh_wandb):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = options(wandb="memory")
    for _ in range(2):
        with MetricsWriter(tmp_path, Sinks(config.telemetry, tmp_path, config)) as writer:
            writer.event("round", round=1, reward_mean=0.5)
    kept = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert kept and {path.name for path in kept} == {f"run-{(tmp_path / 'wandb' / 'run_id.txt').read_text()}.wandb"}
    assert any(b"round/reward_mean" in path.read_bytes() for path in kept)


def test_weights_and_biases_without_a_login_is_said_before_compute(tmp_path, monkeypatch, fresh_wandb):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody to ask
    config = options(wandb="memory")
    with pytest.raises(UserError, match=r"config\.telemetry\.wandb: .*WANDB_MODE=offline"):
        Sinks(config.telemetry, tmp_path, config)


def broken_tensorboard(*methods):
    def fail(*_, **__):
        raise ConnectionError("nobody answers")

    made = types.SimpleNamespace(add_scalar=lambda *a, **k: None, flush=lambda: None, close=lambda: None)
    for method in methods:
        setattr(made, method, fail)
    return types.SimpleNamespace(SummaryWriter=fail if not methods else lambda _: made)


@pytest.mark.parametrize("methods", [(), ("add_scalar",), ("close",)])
def test_a_sink_that_fails_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, methods):
    monkeypatch.setitem(sys.modules, "tensorboardX", broken_tensorboard(*methods))
    config = options(tensorboard=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with MetricsWriter(tmp_path, Sinks(config.telemetry, tmp_path, config)) as writer:
            for number in range(3):
                writer.event("round", round=number, reward_mean=0.5)
    assert [str(each.message) for each in said] == [
        "TensorBoard failed and gets nothing more of this run: nobody answers"
    ]
    assert len(events(tmp_path, "round")) == 3


def test_other_processes_open_no_sinks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", broken_tensorboard())
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    config = options(tensorboard=True, profile="0:1")
    Sinks(config.telemetry, tmp_path, config).write({"event": "round", "time": "2026-01-01T00:00:00", "round": 1})


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
def test_what_cannot_be_done_is_said_with_its_remedy(monkeypatch, changes, message):
    for module in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        phases.check(options(**changes).telemetry)


def test_the_window_can_be_given_on_the_command_line(tmp_path, capsys):
    quickstart = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
    assert main(["train", f"--config={quickstart}", f"--workdir={tmp_path / 'run'}", "--profile", "5-10"]) == 2
    assert "'5-10'; it must be START:STOP" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_window_of_seconds_is_traced(tmp_path):
    with started(tmp_path, profile="0:60") as meters, meters.phase("sample"):
        jax.jit(lambda x: x + 1.5)(jnp.ones(3)).block_until_ready()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_window_after_the_end_is_said(tmp_path):
    warned = pytest.warns(UserWarning, match="ended before second 50")
    with warned, started(tmp_path, profile="50:60") as meters, meters.phase("sample"):
        pass
    assert not (tmp_path / "profile").exists()


COMPILE = """
import jax, jax.numpy as jnp, json, sys
from selfadapt.telemetry import compilation
directory = compilation.use_cache()
compilation.counts()
x = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(json.dumps([directory, compilation.counts()]))
"""


def compile_in_another_process(tmp_path, **environment):
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    clean |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(pathlib.Path(__file__).parents[2])} | environment
    done = subprocess.run([sys.executable, "-c", COMPILE], env=clean, capture_output=True, text=True, check=True)
    return *json.loads(done.stdout), done.stderr


def test_a_second_process_compiles_nothing_again(tmp_path):
    directory, first, _ = compile_in_another_process(tmp_path)
    assert pathlib.Path(directory).is_relative_to(tmp_path / "selfadapt")
    assert first["compiled"] > 0 and first["cache_hits"] == 0
    _, second, _ = compile_in_another_process(tmp_path)
    assert second["compiled"] == 0 and second["cache_hits"] == first["compiled"]


def test_a_damaged_entry_of_the_cache_is_compiled_again(tmp_path):
    directory, first, _ = compile_in_another_process(tmp_path)
    for file in pathlib.Path(directory).glob("*-cache"):
        file.write_bytes(file.read_bytes()[:100])  # as a process leaves it that was killed while writing
    _, second, _ = compile_in_another_process(tmp_path)
    assert second["compiled"] == first["compiled"]


def test_the_cache_can_be_moved_and_turned_off(tmp_path):
    elsewhere = str(tmp_path / "elsewhere")
    assert compile_in_another_process(tmp_path, SELFADAPT_COMPILATION_CACHE=elsewhere)[0] == elsewhere
    assert compile_in_another_process(tmp_path, JAX_COMPILATION_CACHE_DIR=elsewhere)[1]["cache_hits"] > 0
    assert compile_in_another_process(tmp_path, SELFADAPT_COMPILATION_CACHE="0")[0] is None
    (tmp_path / "file").write_text("")
    directory, counts, said = compile_in_another_process(tmp_path, SELFADAPT_COMPILATION_CACHE=str(tmp_path / "file"))
    assert directory is None and counts["compiled"] > 0 and "cannot be written" in said


def test_counting_compilations_starts_at_the_first_call():
    before = compilation.counts()
    jax.jit(lambda x: x - 2.75)(jnp.ones(11))
    after = compilation.counts()
    assert after["compiled"] + after["cache_hits"] > before["compiled"] + before["cache_hits"]


def test_a_run_says_what_every_phase_and_round_cost(tmp_path):
    overrides = {
        "model": str(random_world_model(tmp_path / "model")),
        "prompt": "notes",
        "answer.style": "short",
        "inner.preset": "tiny",
        "rounds": "1",
        "contexts": "2",
        "edits": "2",
        "evaluation.contexts": "2",
        "sampling.max_new_tokens": "8",
        "select.method": "best",
        "telemetry.peak_flops": "1e12",
    }
    train(load_config(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py", overrides), tmp_path / "run")
    phases = events(tmp_path / "run", "phase")
    first_round = [phase["phase"] for phase in phases if phase["label"] == "round 1"]
    assert first_round == ["baseline", "sample", "apply and score", "improve"]
    assert all(phase["flop_share"] > 0 for phase in phases if phase["phase"] != "save")
    start, after = events(tmp_path / "run", "telemetry")
    assert (start["round"], after["round"]) == (0, 1)
    assert start["edits"] == {"scored": 4 * 2, "sampled": 2}  # none, passage, oracle and the untrained policy
    assert after["edits"] == {"scored": 2 + 2 * 2 + 2, "sampled": 2 * 2 + 2}
