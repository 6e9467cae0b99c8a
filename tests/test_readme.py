"""What the README and the documentation show is true of the repository."""

import pathlib
import re

import pytest

import selfadapt
from selfadapt.config import shipped_configs

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    status, *_ = capsys.readouterr().out.splitlines()
    assert status.startswith("['ok', 'ok', 'ok']")
    answers = names["generate"](names["model"], ["The owl is"], adapters=names["adapters"], max_new_tokens=1)
    assert answers[:2] == [[" green"], [" red"]]
    assert (tmp_path / "green-owl" / "adapter_config.json").is_file()
    assert (tmp_path / "green-owl-model" / "config.json").is_file()


def test_the_python_of_the_page_on_sql_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sql.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "sql.md", "exec"), {})
    answers, failed = capsys.readouterr().out.splitlines()
    assert answers.startswith("((90,),) ((")
    assert failed == "{}"


@pytest.mark.slow
def test_the_python_of_the_page_on_pure_functions_runs(capsys):
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "functional.md").read_text(encoding="utf-8"), re.DOTALL
    )
    exec(compile(code, "functional.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(re.match(r"[+-]\d+\.\d\d nats per answer: \S", line) for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_that_commands_name_exist(page):
    for config in re.findall(r"--config=([\w./]+)", page.read_text(encoding="utf-8")):
        known = config == "FILE" or config in shipped_configs() or (ROOT / config).is_file()
        assert known, f"{page.name} names {config}"


def test_the_citation_and_the_changelog_name_the_version():
    assert f"\nversion: {selfadapt.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{selfadapt.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
