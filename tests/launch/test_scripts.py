"""What holds for all files of launch/."""

import pytest
import yaml

from tests.launch.harness import LAUNCH, ROOT, run

SHELL = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
COMMANDS = [file for file in SHELL if file.name not in ("common.sh", "slurm.sbatch")]
WAYS = ["tpu_pod.sh", "xpk.sh", "jobset-gpu.yaml", "jobset-tpu.yaml", "slurm.sbatch", "sky.yaml", "Dockerfile"]


@pytest.mark.parametrize("file", SHELL, ids=lambda file: file.name)
def test_bash_and_shellcheck_accept_it(file):
    assert run("bash", "-n", file).stderr == ""
    assert run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", file).stdout == ""


def test_shellcheck_accepts_the_scripts_in_sky_yaml(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    for part in ("setup", "run"):
        script = tmp_path / part
        script.write_text(task[part])
        assert run("shellcheck", "--shell=bash", script).stdout == ""


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.name)
def test_help_prints_the_usage(file):
    done = run(file, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage")


@pytest.mark.parametrize("name", WAYS)
def test_its_header_states_what_to_edit_and_what_was_not_run(name):
    lines = iter((LAUNCH / name).read_text().splitlines())
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    text = " ".join(head)
    assert "Edit" in text
    assert "Not run" in text or "Not built" in text
    assert "Checked instead:" in text


@pytest.mark.parametrize("name", WAYS)
def test_the_guide_describes_it(name):
    assert f"launch/{name}" in (ROOT / "docs" / "launch.md").read_text()
