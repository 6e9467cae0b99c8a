"""A run that is stopped and started again gives what one never stopped gives, and does nothing twice."""

import json
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest

from selfadapt import load_model
from selfadapt.config import ConfigError, load_config
from selfadapt.errors import UserError
from selfadapt.experiment import train
from selfadapt.files import read_jsonl
from tests.checkpoint.damage import damage
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
    "KILL:computed:round-1.sample.from-0",  # and not yet recorded
    "KILL:recorded:round-1.sample.from-0",
    "TERM:step:round-1.score.0:3",
    "KILL:trained:round-1.score.0",
    "KILL:recorded:round-1.score.0.outcomes",
    "KILL:step:round-1.improve:2",
    "KILL:trained:round-1.improve",
    "KILL:saving:1",  # the first round's checkpoint is being written
    "KILL:saved:round-1",
    "KILL:recorded:controls.on-untrained.0.outcomes",
)


@pytest.mark.slow
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
    steps = [happened[a:b].count(["step", "round-1.improve"]) for a, b in zip(starts, [*starts[1:], None], strict=True)]
    uninterrupted = happened.count(["step", "round-2.improve"])
    assert [count for count in steps if count] == [2, uninterrupted - 2]


@pytest.mark.slow
def test_kills_at_random_moments_and_the_loss_of_the_workdir_do_not_show_in_the_result(
    whole, model_directory, tmp_path, monkeypatch
):
    draw = random.Random(0)
    stops = [f"KILL:after:{draw.uniform(1, 6):.2f}" for _ in range(2)]
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
