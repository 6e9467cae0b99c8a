"""Files that stay readable after a crash: JSON lines, JSON documents and their errors."""

import json
import subprocess
import sys

import pytest

from selfadapt import files
from selfadapt.errors import UserError


def lines(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def test_any_text_survives_even_a_lone_surrogate(tmp_path):
    text = "\udc80 \x00 \x1b[31m </script> \U0001f600"
    with files.JsonlWriter(tmp_path / "x.jsonl") as writer:
        writer.write({"text": text})
    assert list(files.read_jsonl(tmp_path / "x.jsonl")) == [{"text": text}]
    (tmp_path / "x.jsonl").read_bytes().decode("utf-8")


def test_a_second_writer_appends(tmp_path):
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
