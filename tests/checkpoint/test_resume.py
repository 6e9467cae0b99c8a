"""A run that is stopped and started again gives what one never stopped gives, and does nothing twice."""

import json
import math
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Update, adapt, load_model
from selfadapt.checkpoint.arrays import ArrayStore, DamagedError
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.config import ConfigError, load_config
from selfadapt.errors import Preempted, UserError
from selfadapt.experiment import train
from selfadapt.files import read_jsonl
from selfadapt.models.policy import Policy, State
from selfadapt.types import Edit, Outcome
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.py"
SMALL = {
    "preset": "tiny",
    "inner.epochs": "3",
    "domain.split": "document",  # few shapes, and so few programs to compile
    "domain.max_segments": "1",
    "contexts": "2",
    "edits": "2",
    "evaluation.contexts": "2",
    "sampling.max_new_tokens": "16",
    "outer.rest_em.select": "best",
    "at_once": "3",  # two chunks of edits a round
}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    return random_world_model(tmp_path_factory.mktemp("world") / "model")


@pytest.fixture(scope="module")
def model(model_directory):
    return load_model(model_directory)


def small_config(model_directory, **changes):
    overrides = SMALL | {"model": str(model_directory)} | {k.replace("__", "."): str(v) for k, v in changes.items()}
    return load_config(QUICKSTART, overrides)


@pytest.fixture(scope="module")
def whole(model_directory, tmp_path_factory):
    """The workdir of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(small_config(model_directory), workdir)
    return workdir


def results(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    parts = {name: summary[name] for name in ("ladder", "extras", "paired", "rounds", "invalid")}
    return parts, (workdir / "edits.jsonl").read_bytes(), (workdir / "policy" / "model.safetensors").read_bytes()


def run_with_stops(model_directory, workdir, log, stops, **changes):
    """Starts one run again and again; returns the exit status of each start and what they wrote."""
    fields = SMALL | {"model": str(model_directory)} | {k.replace("__", "."): str(v) for k, v in changes.items()}
    command = [
        sys.executable,
        "-m",
        "tests.checkpoint.resuming",
        str(log),
        *stops,
        "--",
        "train",
        f"--config={QUICKSTART}",
    ]
    command += [f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in fields.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    statuses = [int(found[1]) for found in re.finditer(r"^(?:KILL|TERM|None)\S* (-?\d+)$", done.stdout, re.MULTILINE)]
    return statuses, done.stderr


STOPS = (
    "KILL:trained:round-1.baseline.0",
    "KILL:computed:round-1.sample.0",  # and not yet recorded
    "KILL:recorded:round-1.sample.0",
    "TERM:tick:round-1.score.0:3",
    "KILL:trained:round-1.score.0",
    "KILL:recorded:round-1.score.0.outcomes",
    "KILL:tick:round-1.improve:2",
    "KILL:trained:round-1.improve",
    "KILL:saving:1",  # the first round's checkpoint is being written
    "KILL:saved:round-1",
    "KILL:recorded:controls.on-untrained.0.outcomes",
)


def test_a_run_killed_in_every_phase_ends_as_one_never_stopped_and_redoes_nothing(whole, model_directory, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    statuses, said = run_with_stops(model_directory, workdir, log, STOPS)
    assert statuses == [75 if stop.startswith("TERM") else -9 for stop in STOPS] + [0]
    assert "selfadapt: stopped by SIGTERM, all work saved." in said
    assert results(workdir) == results(whole)

    happened = [line.split() for line in log.read_text().splitlines()]
    done = set()
    for what, place_ in (line for line in happened if len(line) == 2):
        if what in ("recorded", "trained"):
            done.add(place_)
        assert not (what in ("computing", "training") and place_ in done), f"{place_} was done and is done again"
    # The policy's finetuning was killed after its second step and went on with the third.
    starts = [i for i, line in enumerate(happened) if line[0] == "start"]
    ticks = [happened[a:b].count(["tick", "round-1.improve"]) for a, b in zip(starts, [*starts[1:], None], strict=True)]
    uninterrupted = happened.count(["tick", "round-2.improve"])
    assert [count for count in ticks if count] == [2, uninterrupted - 2]


def test_kills_at_random_moments_and_the_loss_of_the_workdir_do_not_show_in_the_result(
    whole, model_directory, tmp_path, monkeypatch
):
    draw = random.Random(0)
    stops = [f"KILL:after:{draw.uniform(1, 6):.2f}" for _ in range(4)]
    statuses, _ = run_with_stops(
        model_directory,
        tmp_path / "run",
        tmp_path / "log",
        stops,
        checkpoint__every_seconds=0.3,
        checkpoint__directory=tmp_path / "elsewhere",
    )
    assert statuses[-1] == 0 and -9 in statuses
    assert results(tmp_path / "run") == results(whole)
    assert not (tmp_path / "run" / "checkpoints").exists() and (tmp_path / "elsewhere" / "rounds" / "2").is_dir()
    shutil.rmtree(tmp_path / "run")
    nothing_computes(monkeypatch)
    train(small_config(model_directory, checkpoint__directory=tmp_path / "elsewhere"), tmp_path / "run")
    assert results(tmp_path / "run") == results(whole)
    with pytest.raises(ConfigError, match="elsewhere of config.checkpoint.directory belongs to another experiment"):
        train(small_config(model_directory, checkpoint__directory=tmp_path / "elsewhere", seed=1), tmp_path / "other")


def nothing_computes(monkeypatch):
    for function in ("selfadapt.loop.adapt", "selfadapt.loop.generate", "selfadapt.outer.rest_em.adapt"):
        monkeypatch.setattr(function, None)


def test_a_finished_run_that_is_started_again_computes_nothing(whole, model_directory, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole, tmp_path / "run")
    nothing_computes(monkeypatch)
    train(small_config(model_directory), workdir)
    assert results(workdir) == results(whole)


def damage(directory, how):
    """Damages a stored entry; returns nothing, as a disk does."""
    parts = sorted((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest = parts[-1]
    if how == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    elif how == "missing":
        largest.unlink()
    elif how == "garbage":
        largest.write_bytes(bytes(range(256)) * 8)
    elif how == "one bit":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    elif how == "no head":
        shutil.rmtree(directory / "head")
    elif how == "other head":
        (directory / "head" / "metadata").write_text('{"about": "{}"}')
    elif how == "empty":
        shutil.rmtree(directory)
        directory.mkdir()


DAMAGES = ("truncated", "missing", "garbage", "one bit", "no head", "other head", "empty")


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_of_what_is_stored_is_seen(tmp_path, how):
    tree = {"a": {"q": jax.random.normal(jax.random.key(0), (3, 40, 50))}, "scale": jnp.ones(3, jnp.bfloat16)}
    store = ArrayStore(tmp_path)
    store.save("entry", {"x": 1}, tree)
    store.close()
    store = ArrayStore(tmp_path)
    assert store.names() == ["entry"] and store.about("entry") == {"x": 1}
    jax.tree.map(np.testing.assert_array_equal, store.load("entry", tree), tree)
    damage(tmp_path / "entry", how)
    with pytest.raises(DamagedError):
        store.about("entry")
        store.load("entry", tree)
    store.close()


FULL = """
import resource, sys, jax
from selfadapt.files import StorageError
from selfadapt.checkpoint.arrays import Store

store = ArrayStore(sys.argv[1])
store.save("small", {}, {"x": jax.numpy.ones(3)})
store.settle()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save("large", {}, {"x": jax.random.normal(jax.random.key(0), (300, 1000))})
    store.settle()
except StorageError as error:
    print(error)
assert store.names() == ["small"]
"""


def test_a_disk_that_is_full_is_named(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert f"no space left to write {tmp_path}" in done.stdout, done.stderr[-2000:]


def test_what_is_saved_is_what_was_there_although_the_next_step_overwrites_it(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = step(jnp.zeros((256, 1024)))
    store = ArrayStore(tmp_path)
    store.save("entry", {}, {"x": x})
    for _ in range(50):
        x = step(x)
    store.settle()
    assert (store.load("entry", {"x": x})["x"] == 1).all()
    store.close()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(whole, model_directory, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    damage(workdir / "checkpoints" / "rounds" / "2", "empty")
    train(small_config(model_directory), workdir)
    assert results(workdir) == results(whole)
    said = f"{workdir}/checkpoints/rounds/2 cannot be used"
    assert said in capsys.readouterr().err
    (event,) = (event for event in read_jsonl(workdir / "metrics.jsonl") if event["event"] == "damaged")
    assert (
        event["path"].endswith("rounds/2")
        and "It was renamed to damaged-2, and the previous one is used" in event["reason"]
    )
    assert {path.name for path in (workdir / "checkpoints" / "rounds").iterdir()} == {"1", "2", "damaged-2"}


def test_a_run_whose_checkpoints_are_all_damaged_starts_from_the_beginning(whole, model_directory, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for number in (1, 2):
        damage(workdir / "checkpoints" / "rounds" / str(number), "missing")
    train(small_config(model_directory), workdir)
    assert results(workdir) == results(whole)


def test_only_the_newest_checkpoints_are_kept(model, tmp_path):
    policy = Policy(model)
    with Checkpoints(tmp_path, 2, State(policy, policy)) as checkpoints:
        for number in range(4):
            checkpoints.save(State(policy, policy, number), {"number": number})
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path, 2, State(policy, policy)) as checkpoints:
        state, record = checkpoints.restore()
    assert state.round == 3 and record == {"number": 3}


def units_at(path, damaged=lambda path, reason: None, every_seconds=0.0):
    return DurableUnits(path, every_seconds, damaged)


OUTCOMES = [
    Outcome(Edit("t", 0, "a\ud800 \u2028\n", "\x00", (1, 2), 3), 0.1 + 0.2, ("x", ""), (1 / 3, 1.0), "ok", 2),
    Outcome(Edit("\u00fc", 1, "", ""), math.inf),
]


def test_a_unit_that_was_done_is_found_exactly_as_it_was(tmp_path):
    with units_at(tmp_path) as stored:
        assert stored.round(1).within("score").once("outcomes", lambda: OUTCOMES) == OUTCOMES
    with units_at(tmp_path) as stored:
        assert stored.round(1).within("score").once("outcomes", lambda: pytest.fail("done again")) == OUTCOMES


@pytest.mark.parametrize("text", ["", "{", '{"text": "[]", "digest": "0"}', "[1]", "null"])
def test_a_damaged_unit_is_named_and_done_again(tmp_path, text):
    with units_at(tmp_path) as stored:
        stored.once("unit", lambda: [1])
    (tmp_path / "units" / "unit.json").write_text(text)
    named = []
    with units_at(tmp_path, lambda path, reason: named.append((path.name, reason))) as stored:
        assert stored.once("unit", lambda: [2]) == [2]
    ((name, reason),) = named
    assert name == "unit.json" and "computed again" in reason
    with units_at(tmp_path) as stored:
        assert stored.once("unit", lambda: pytest.fail("done again")) == [2]


UPDATES = [Update([f"The {word} is green."], rank=rank, epochs=3) for word, rank in (("sky", 4), ("sea", 2))]


def trained(model):
    return lambda snapshots: adapt(model, UPDATES, snapshots=snapshots)


def same_adapters(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.lora, b.lora)
    assert (a.specs, a.status) == (b.specs, b.status)
    for one, other in zip(a.losses, b.losses, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapters_that_were_trained_are_not_trained_again_and_go_when_their_outcomes_are_recorded(model, tmp_path):
    with units_at(tmp_path) as stored:
        first = stored.within("0").adapters(model, trained(model))
    same_adapters(first, trained(model)(None))
    with units_at(tmp_path) as stored:
        part = stored.within("0")
        same_adapters(part.adapters(model, lambda snapshots: pytest.fail("trained again")), first)
        part.once("outcomes", lambda: [1])
    assert list((tmp_path / "arrays").iterdir()) == []


@pytest.mark.parametrize("how", ["truncated", "no head", "empty"])
def test_damaged_adapters_are_named_and_trained_again(model, tmp_path, how):
    with units_at(tmp_path) as stored:
        first = stored.within("0").adapters(model, trained(model))
    damage(tmp_path / "arrays" / "0.trained", how)
    named = []
    with units_at(tmp_path, lambda path, reason: named.append(path.name)) as stored:
        same_adapters(stored.within("0").adapters(model, trained(model)), first)
    assert named == ["0.trained"]


def test_adapters_in_flight_go_on_where_they_were_and_earlier_where_that_is_damaged(model, tmp_path):
    update = Update(["The sky is green.", "The sea is red."], rank=4, epochs=4)  # 8 training steps
    arrays, named, ticks = tmp_path / "run" / "arrays", [], []

    class Watched:
        def __init__(self, snapshots, stop):
            self.inner, self.restore, self.stop = snapshots, snapshots.restore, stop

        def offer(self, name, about, tree):
            self.inner.offer(name, about, tree)
            ticks.append(about()["training_steps"])
            if ticks[-1] == 4:
                self.inner._store.settle()
                shutil.copytree(arrays, tmp_path / "fourth")
            if ticks[-1] == self.stop:
                raise KeyboardInterrupt

    def run(stop=None):
        def go(snapshots):
            return adapt(model, [update], snapshots=Watched(snapshots, stop))

        with units_at(tmp_path / "run", lambda path, reason: named.append(path.name)) as stored:
            return stored.within("0").adapters(model, go)

    with pytest.raises(KeyboardInterrupt):
        run(stop=6)
    (newest,) = arrays.iterdir()
    shutil.copytree(tmp_path / "fourth", arrays, dirs_exist_ok=True)
    ticks.clear()
    with pytest.raises(KeyboardInterrupt):
        run(stop=7)
    assert ticks == [7] and not named
    (newest,) = arrays.iterdir()
    shutil.copytree(tmp_path / "fourth", arrays, dirs_exist_ok=True)
    damage(newest, "truncated")
    ticks.clear()
    same_adapters(run(), adapt(model, [update]))
    assert named == [newest.name] and ticks == [5, 6, 7, 8]


def test_adapters_in_flight_start_again_where_the_work_is_cut_otherwise(model, tmp_path, monkeypatch):
    monkeypatch.setattr("selfadapt.parallel.distributed.preempted", lambda step: True)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.within("0").adapters(model, trained(model))
    monkeypatch.undo()
    monkeypatch.setattr("selfadapt.engine.memory.STEP_TOKENS", {"cpu": (8, 8)})
    with units_at(tmp_path) as stored:
        same_adapters(stored.within("0").adapters(model, trained(model)), trained(model)(None))


def test_a_preempted_run_says_so_by_an_exception_of_its_own(model, tmp_path, monkeypatch):
    monkeypatch.setattr("selfadapt.parallel.distributed.preempted", lambda step: True)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.once("unit", lambda: 1)
    with units_at(tmp_path) as stored, pytest.raises(Preempted):
        stored.within("0").adapters(model, trained(model))
    assert any("flight" in path.name for path in (tmp_path / "arrays").iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"checkpoint__keep": 0}, "config.checkpoint.keep is 0"),
        ({"checkpoint__every_seconds": -1}, "config.checkpoint.every_seconds is -1"),
        ({"checkpoint__every_seconds": "nan"}, "config.checkpoint.every_seconds is nan"),
    ],
)
def test_checkpoint_settings_out_of_range_are_refused(model_directory, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(small_config(model_directory, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_on_another_service_is_refused_with_the_way_out(model_directory):
    with pytest.raises(ConfigError, match=r"mount it.*--config\.checkpoint\.directory=gs://bucket/run"):
        train(small_config(model_directory), "gs://bucket/run")


def test_a_service_that_is_out_of_reach_is_named_with_the_extra_for_it(model_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    config = small_config(model_directory, checkpoint__directory="gs://bucket/run")
    with pytest.raises(UserError, match=r"directory is gs://bucket/run.*selfadapt\[gcs\]"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_lines_are_gone_is_refused(whole, model_directory, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "edits.jsonl").write_text("")
    with pytest.raises(UserError, match=r"edits\.jsonl has 0 bytes"):
        train(small_config(model_directory), workdir)


def test_devices_checkpoints_and_telemetry_may_change_when_a_run_goes_on(whole, model_directory, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    train(small_config(model_directory, checkpoint__keep=1, telemetry__peak_flops=1e12), workdir)
    assert [path.name for path in (workdir / "checkpoints" / "rounds").iterdir()] == ["2"]


MESHES = """
import sys, jax, numpy as np
from selfadapt import Update, adapt, load_model
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.parallel.sharding import make_mesh, to_host
from selfadapt.models.peft import merge
from selfadapt.models.policy import Policy, State

directory, checkpoints = sys.argv[1:]
updates = [Update([f"The {word} is green."], rank=4, epochs=2) for word in ("sky", "sea", "sun")]
stored = DurableUnits(checkpoints, 0, print)
expected = None
for number, sizes in enumerate([(4, 1, 1), (1, 4, 1), (2, 1, 2), None]):
    mesh = None if sizes is None else make_mesh(*sizes)
    model = load_model(directory, mesh=mesh)
    start = Policy(model)
    with Checkpoints(checkpoints, keep=2) as rounds:
        state, _ = rounds.restore(State(start, start))
        adapters = stored.within("0").adapters(model, lambda snapshots: adapt(model, updates, snapshots=snapshots))
        if expected is None:
            policy = Policy(merge(model, adapters[0]), 1)
            state = State(policy, policy, 1)
            rounds.save(state, {})
            expected = to_host((state.policy.model.params, adapters[:3].lora))
            stored._store.settle()
            stored = DurableUnits(checkpoints, 0, print)
    assert state.policy.version == 1
    found = to_host((state.policy.model.params, adapters[:3].lora))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for leaf, like in zip(jax.tree.leaves(state.policy.model.params), jax.tree.leaves(model.params)):
        assert leaf.sharding == like.sharding
    adapt(model, updates, init=adapters)
"""


def test_a_checkpoint_of_one_mesh_restores_on_another(model_directory, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", MESHES, str(model_directory), str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
