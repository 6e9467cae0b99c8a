"""The logs of events and edits."""

import json
import math

import numpy as np
import pytest

from selfadapt import files
from selfadapt.telemetry import metrics


def lines(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def test_events_and_edits_go_to_their_files_one_per_line(tmp_path):
    with metrics.MetricsWriter(tmp_path / "run") as writer:
        writer.event("scored", round=1, phase="train", reward=np.float32(0.5), counts=np.arange(2))
        writer.edit({"task": "a", "text": "two\nlines \u2028 é", "reward": math.nan})
        (event,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert event.pop("time").endswith("+00:00")
    assert event == {"event": "scored", "round": 1, "phase": "train", "reward": 0.5, "counts": [0, 1]}
    assert lines(tmp_path / "run" / "edits.jsonl") == [{"task": "a", "text": "two\nlines \u2028 é", "reward": None}]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(files.StorageError, match="cannot write .*file/run"):
        metrics.MetricsWriter(tmp_path / "file" / "run")
