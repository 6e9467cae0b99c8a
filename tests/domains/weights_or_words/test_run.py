"""A run of the config without rounds, with stand-ins for sampling and scoring: its rows, numbers and report."""

import pytest

from selfadapt import Edit, Outcome, Update, loop
from selfadapt.config import load_config
from selfadapt.experiment import train
from selfadapt.report import data

TEXTS = {"free": "words:\na = A\nweights:\nb = B", "words": "a = A", "weights": "b = B"}
ONE_WAY = [f"untrained, {way} only" for way in ("words", "weights")]


@pytest.fixture
def finished(monkeypatch, tmp_path):
    """A run in which an edit that trains has reward 1, and any other 0."""

    def sample(policy, domain, tasks, settings, advance=None):
        return [Edit(task.id, number, "", TEXTS[domain.way]) for task in tasks for number in range(settings.edits)]

    def score(student, domain, tasks, pairs, settings, advance=None):
        return [Outcome(edit, float(isinstance(what, Update))) for edit, what in pairs]

    monkeypatch.setattr(loop, "sample", sample)
    monkeypatch.setattr(loop, "score", score)
    config = load_config("lse/weights_or_words", {"rounds": "0", "evaluation.contexts": "3", "evaluation.edits": "2"})
    return train(config, tmp_path / "run"), tmp_path / "run"


def test_the_rows_of_one_way_are_beside_the_ladder_with_the_reward_of_each_kind(finished):
    summary, _ = finished
    ladder = {row["name"]: row for row in summary["ladder"]}
    assert list(ladder) == ["none", "untrained", "oracle, words only", "oracle, weights only", "oracle"]
    extras = {row["name"]: row for row in summary["extras"]}
    assert [extras[name]["mean"] for name in ONE_WAY] == [0, 1]
    assert extras[ONE_WAY[0]]["note"].startswith("the policy's edits where it has only this kind")
    assert {("untrained", name) for name in ONE_WAY} <= {(pair["a"], pair["b"]) for pair in summary["paired"]}
    assert ladder["oracle"]["details"] == {"reward, rule": 0, "reward, table": 1, "reward, mixed": 1}


def test_the_report_has_the_choice_for_each_kind_of_task(finished):
    _, workdir = finished
    assert data.choices(data.read_run(workdir)) == [
        (kind, "both", {"untrained": 1.0}) for kind in ("rule", "table", "mixed")
    ]
    page = (workdir / "report.html").read_text()
    assert "What the policy chooses" in page and "Held-out tasks" in page
