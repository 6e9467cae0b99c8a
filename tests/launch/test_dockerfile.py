"""launch/Dockerfile, without Docker: hadolint checks it, and the files and extras that it names must exist."""

import re
import subprocess
import sys

import pytest

from tests.launch.harness import LAUNCH, ROOT, run

TEXT = (LAUNCH / "Dockerfile").read_text()


def test_hadolint_accepts_it():
    done = run("hadolint", LAUNCH / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_copied_files_exist_and_are_not_ignored():
    copied = [path for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for path in line.split()]
    kept = [line[1:] for line in (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "setup.py" in copied and "selfadapt" in copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert [path for path in copied if not any(path == name or path.startswith(f"{name}/") for name in kept)] == []


@pytest.mark.parametrize(
    "platform, extras, installed",
    [
        ("cpu", "", "-e ."),
        ("cpu", "gcs", "-e .[gcs]"),
        ("gpu", "", "-e .[gpu]"),
        ("tpu", "gcs,wandb", "-e .[tpu,gcs,wandb]"),
        ("cuda", "", None),
    ],
)
def test_the_platform_chooses_an_extra_of_the_package(tmp_path, platform, extras, installed):
    (script,) = re.findall(r"^RUN (.+?[^\\])$", TEXT, re.MULTILINE | re.DOTALL)
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@"\n')
    pip.chmod(0o755)
    done = run("sh", "-c", script.replace("\\\n", ""), path=tmp_path, PLATFORM=platform, EXTRAS=extras)
    if installed is None:
        assert (done.returncode, done.stderr) == (2, "PLATFORM is cpu, gpu or tpu, not cuda\n")
    else:
        assert done.stdout == f"install --no-cache-dir -c constraints.txt {installed}\n"


def test_the_extras_are_those_of_the_package():
    ask = "import setuptools; setuptools.setup = lambda **given: print(*given['extras_require']); import setup"
    extras = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {"gpu", "tpu", "gcs"} <= set(extras)
