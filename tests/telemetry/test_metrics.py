"""Tests of the event files, the progress display and the statistics."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from selfadapt import files
from selfadapt.errors import UserError
from selfadapt.telemetry import metrics


def lines(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def test_events_and_edits_go_to_their_files_one_a_line(tmp_path):
    with metrics.MetricsWriter(tmp_path / "run") as writer:
        writer.event("scored", round=1, phase="train", reward=np.float32(0.5), counts=np.arange(2))
        writer.edit({"task": "a", "text": "two\nlines \u2028 é", "reward": math.nan})
        (event,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert event.pop("time").endswith("+00:00")
    assert event == {"event": "scored", "round": 1, "phase": "train", "reward": 0.5, "counts": [0, 1]}
    assert lines(tmp_path / "run" / "edits.jsonl") == [{"task": "a", "text": "two\nlines \u2028 é", "reward": None}]


def test_any_text_survives_even_a_lone_surrogate(tmp_path):
    text = "\udc80 \x00 \x1b[31m </script> \U0001f600"
    with files.JsonlWriter(tmp_path / "x.jsonl") as writer:
        writer.write({"text": text})
    assert list(files.read_jsonl(tmp_path / "x.jsonl")) == [{"text": text}]
    (tmp_path / "x.jsonl").read_bytes().decode("utf-8")


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path):
    for number in range(2):
        with files.JsonlWriter(tmp_path / "x.jsonl") as writer:
            writer.write({"number": number})
    assert lines(tmp_path / "x.jsonl") == [{"number": 0}, {"number": 1}]


def test_an_incomplete_last_line_is_not_read_and_is_cut_off_on_opening(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(files.read_jsonl(path)) == [{"a": 1}]
    with files.JsonlWriter(path) as writer:
        writer.write({"a": 3})
    assert lines(path) == [{"a": 1}, {"a": 3}]


def test_a_killed_writer_leaves_whole_lines(tmp_path):
    code = (
        "import os, signal, sys; from selfadapt.files import JsonlWriter\n"
        "writer = JsonlWriter(sys.argv[1])\n"
        "for number in range(50): writer.write({'number': number, 'text': 'x' * 9000})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.jsonl"])
    assert done.returncode == -9 and [record["number"] for record in lines(tmp_path / "x.jsonl")] == list(range(50))


def test_a_full_disk_is_a_clear_error_and_leaves_whole_lines(tmp_path):
    code = (
        "import resource, sys; from selfadapt.files import JsonlWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "writer = JsonlWriter(sys.argv[1])\n"
        "try:\n    while True: writer.write({'text': 'x' * 300})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.jsonl"], capture_output=True, text=True)
    assert done.stdout.startswith("StorageError no space left to write") and "x.jsonl" in done.stdout, done
    assert len(lines(tmp_path / "x.jsonl")) == 3


def test_a_document_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = files.write_json(tmp_path / "x.json", {"a": (1, float("inf"))})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="no space left"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": [1, None]} and list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(files.StorageError, match="cannot write .*file/run"):
        metrics.MetricsWriter(tmp_path / "file" / "run")


def test_a_value_without_json_form_names_its_type(tmp_path):
    with pytest.raises(TypeError, match="of type set has no JSON form"):
        files.plain({"a": {1}})


def test_a_broken_line_is_named_by_file_and_number(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{}\n{"a": \n')
    with pytest.raises(UserError, match=r"x\.jsonl, line 2: not JSON"):
        list(files.read_jsonl(path))
    path.write_text("[]\n")
    with pytest.raises(UserError, match=r"line 1: expected a JSON object, found list"):
        list(files.read_jsonl(path))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


def test_progress_is_plain_lines_when_not_on_a_terminal(clock):
    stream = io.StringIO()
    progress = metrics.Progress(stream, interval=10)
    with progress.phase("sample", total=4, unit="passage", label="round 1: sample") as step:
        for _ in range(4):
            clock[0] += 6
            step.advance()
    progress.log("reward 0.5")
    assert stream.getvalue().splitlines() == [
        "round 1: sample: 2/4 passages, 0.167 passages/s, 12 s left",
        "round 1: sample: 4/4 passages, 0.167 passages/s, 0.0 s left",
        "round 1: sample: 4/4 passages, 0.167 passages/s, done in 24 s",
        "reward 0.5",
    ]
    assert progress.seconds == {"sample": 24.0}


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with metrics.Progress(stream).phase("score", total=8, unit="edit") as step:
        step.advance(8)
    assert "score: 100%" in stream.getvalue() and "8/8" in stream.getvalue() and "edit/s" in stream.getvalue()


def test_seconds_add_up_per_phase_and_inner_phases_are_not_counted_twice(clock):
    progress = metrics.Progress(io.StringIO())
    for _ in range(2):
        with progress.phase("round"):
            clock[0] += 1
            with progress.phase("compile"):
                clock[0] += 10
    assert progress.seconds == {"compile": 20.0, "round": 2.0}


def test_a_phase_that_fails_is_said_to_have_stopped(clock):
    stream = io.StringIO()
    with pytest.raises(RuntimeError), metrics.Progress(stream).phase("adapt"):
        clock[0] += 3
        raise RuntimeError
    assert stream.getvalue() == "adapt: stopped after 3.0 s\n"


def test_mean_and_standard_error_agree_with_scipy():
    values = [0.1, 0.4, 0.35, 0.8]
    assert metrics.mean_and_stderr(values) == pytest.approx((np.mean(values), stats.sem(values)))
    assert math.isnan(metrics.mean_and_stderr([1.0])[1])
    with pytest.raises(ValueError, match="no values"):
        metrics.mean_and_stderr([])


def test_the_paired_interval_agrees_with_scipy():
    a, b = [0.5, 0.7, 0.9, 0.4], [0.1, 0.6, 0.2, 0.5]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert metrics.paired_difference(a, b) == pytest.approx((0.275, interval.low, interval.high))


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="not 1 and 2"):
        metrics.paired_difference([1.0], [1.0, 2.0])
    assert math.isnan(metrics.paired_difference([1.0], [0.0])[1])
