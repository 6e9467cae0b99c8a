"""The wheel that users install holds everything a run needs outside a clone of the repository."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from selfadapt.config import shipped_configs

ROOT = pathlib.Path(__file__).parents[1]
FEW = (
    *("--config.rounds=0", "--config.evaluation.contexts=1", "--config.inner.epochs=1"),
    *("--config.domain.max_segments=1", "--config.sampling.max_new_tokens=8", "--config.answer.max_new_tokens=2"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds the wheel from the sources alone, and installs it into a directory without its requirements."""
    place = tmp_path_factory.mktemp("wheel")
    source, target = place / "source", place / "installed"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("selfadapt", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-index", "--no-deps")
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", place, source], check=True)
    (wheel,) = place.glob("selfadapt-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", target, wheel], check=True)
    return target


def run(installed, directory, *arguments):
    """Runs the installed command in `directory`."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "selfadapt", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_module_asset_template_and_config(installed):
    package = ROOT / "selfadapt"
    sources = {file.relative_to(package) for file in package.rglob("*") if file.is_file()}
    sources = {file for file in sources if file.suffix != ".pyc"}
    assert {pathlib.Path("py.typed"), pathlib.Path("report/page.css")} < sources
    configs = {pathlib.Path("configs", f"{name}.py") for name in shipped_configs()}
    there = {file.relative_to(installed / "selfadapt") for file in (installed / "selfadapt").rglob("*")}
    assert sorted((sources | configs) - there) == []


@pytest.mark.slow
def test_a_shipped_config_trains_by_name_in_an_empty_directory(installed, tmp_path):
    done = run(installed, tmp_path, "train", "--config=quickstart", "--workdir=run", *FEW)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "config.json").is_file()


def test_the_tests_of_the_wheel_do_not_use_the_repository(installed, tmp_path):
    where = "import selfadapt.config as c; print(c.__file__, *c.shipped_configs().values())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.check_output([sys.executable, "-c", where], cwd=tmp_path, env=environment, text=True)
    assert all(pathlib.Path(file).is_relative_to(installed) for file in found.split())


def test_an_unknown_config_is_an_error_that_lists_what_there_is(installed, tmp_path):
    done = run(installed, tmp_path, "train", "--config=configs/quikstart.py", "--workdir=run")
    assert done.returncode == 2
    assert "Did you mean --config=quickstart or " in done.stderr
    assert "seal/paper/knowledge_qwen2p5_7b" in done.stderr
