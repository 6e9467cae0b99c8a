"""launch/supervise.sh: after which exit statuses a command is restarted."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch.harness import LAUNCH, executable, run

SUPERVISE = LAUNCH / "supervise.sh"


def ends(tmp_path, *statuses):
    """A command that ends with one of these after another, and counts its starts."""
    count = tmp_path / "count"
    lines = "".join(f"  {n}) exit {status} ;;\n" for n, status in enumerate(statuses, start=1))
    text = f"#!/bin/bash\necho x >>{count}\ncase $(wc -l <{count}) in\n{lines}esac\nexit {statuses[-1]}\n"
    return executable(tmp_path / "command", text), lambda: len(count.read_text().split())


def test_a_command_that_fails_is_restarted_until_it_succeeds(tmp_path):
    command, starts = ends(tmp_path, 75, 134, 137, 1, 0)
    done = run(SUPERVISE, "--pause", 0, "--", command)
    assert (done.returncode, starts()) == (0, 5)
    assert "ended with 134; restart 2 of 20 in 0 s" in done.stderr


@pytest.mark.parametrize("status", [0, 2, 126, 127, 130])
def test_errors_that_a_restart_does_not_fix_are_final(tmp_path, status):
    command, starts = ends(tmp_path, status)
    assert (run(SUPERVISE, "--pause", 0, "--", command).returncode, starts()) == (status, 1)


def test_the_number_of_restarts_is_bounded(tmp_path):
    command, starts = ends(tmp_path, 134)
    done = run(SUPERVISE, "--pause", 0, "--max-restarts", 2, "--", command)
    assert (done.returncode, starts()) == (134, 3)
    assert "not restarted after 2 restarts" in done.stderr


def test_arguments_reach_the_command_as_they_are(tmp_path):
    words = ["a b", "it's", '"x", y', "", "$HOME", "*"]
    command = executable(tmp_path / "command", f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{tmp_path}/words\n")
    run(SUPERVISE, "--", command, *words)
    assert (tmp_path / "words").read_text().split("\n")[:-1] == words


def terminated(tmp_path, text, marker, *arguments):
    """Starts a command under supervision, sends SIGTERM when `marker` is there, and returns status and errors."""
    command = executable(tmp_path / "command", text)
    process = subprocess.Popen([SUPERVISE, *arguments, "--", command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not os.path.exists(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_sigterm_lets_the_command_save_and_ends_the_supervision(tmp_path):
    saves = f"#!/bin/bash\ntrap 'sleep 0.5; exit 75' TERM\ntouch {tmp_path}/up\nwhile true; do sleep 0.1; done\n"
    status, errors = terminated(tmp_path, saves, tmp_path / "up")
    assert (status, errors) == (75, "")


def test_sigterm_between_two_starts_ends_the_supervision_at_once(tmp_path):
    began = time.monotonic()
    status, _ = terminated(tmp_path, f"#!/bin/sh\ntouch {tmp_path}/up\nexit 134\n", tmp_path / "up", "--pause", "60")
    assert status == 134
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "no command after --"),
        (["--max-restarts", "many", "--", "true"], "--max-restarts needs a whole number"),
        (["true"], "there is no argument true"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    done = run(SUPERVISE, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
