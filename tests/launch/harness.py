"""Helpers of the tests of launch/: running its scripts, and a `selfadapt` that records how it is started."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def run(*command, path=None, cwd=ROOT, **environment):
    """Runs a command with `path` in front of PATH and these variables added; returns the finished process."""
    places = [str(path)] * bool(path) + [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    variables = os.environ | {"PATH": os.pathsep.join(places)} | {k: str(v) for k, v in environment.items()}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)


def executable(file, text):
    """Writes a program and returns its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def recorder(file):
    """Writes a `selfadapt` that records the arguments of `jax.distributed.initialize`; see recorder.py."""
    script = pathlib.Path(__file__).with_name("recorder.py")
    return executable(file, f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "{script}" "$@"\n')


def records(directory):
    """Returns the recorded arguments, ordered by process index."""
    found = [json.loads(file.read_text()) for file in directory.glob("*.json")]
    return sorted(found, key=lambda record: record["process_id"])
