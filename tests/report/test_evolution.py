"""The page about evolution at test time."""

import copy

import pytest

from selfadapt.errors import UserError
from selfadapt.files import write_json
from selfadapt.report import write_report
from selfadapt.search import Tree

HOSTILE = "</td><script>alert('x')</script>"
SCORES = {"honest": {"mean": 0.5, "low": 0.25, "high": 0.75}, "best": {"mean": 0.75, "low": None, "high": None}}
ROW = SCORES | {"optimism": {"mean": 0.25, "low": 0.125, "high": 0.375}, "note": HOSTILE, "invalid": {HOSTILE: 3}}
POINT = {"round": 1, "edits": 2, "honest": 0.4, "best": 0.6}
SUMMARY = {
    "name": HOSTILE,
    "model": "tiny_rules",
    "environments": 4,
    "edits": 2,
    "seed": 0,
    "evolution": [ROW | {"name": "none", "invalid": {}}, ROW | {"name": "trained_tree", "curve": [POINT]}],
    "paired": [{"a": "trained_tree", "b": "none", "measure": "honest", "difference": 0.25, "low": 0.125, "high": None}],
}


def written(workdir, summary=SUMMARY, gains=(0.1, 0.4, 0.3, 0.2)):
    """The page about a run whose trees have these gains."""
    for number, gain in enumerate(gains):
        tree = Tree("Answer.")
        tree.set_performance(tree.root, 0.5)
        tree.set_performance(tree.add_child(tree.select(), f"Answer.\n{HOSTILE}"), 0.5 + gain)
        folder = workdir / "trees" / "trained_tree" / f"e{number}"
        folder.mkdir(parents=True)
        tree.save(folder / "tree.json")
    found = [{"environment": f"e{number}", "variant": "trained_tree"} for number in range(len(gains))]
    write_json(workdir / "environments.json", [*found, {"environment": "e0", "variant": "none"}])
    write_json(workdir / "summary.json", summary)
    return write_report(workdir).read_text()


def test_scores_differences_and_rounds_are_tables(tmp_path):
    page = written(tmp_path)
    assert "trained tree: 50.0% right with the instruction that other problems chose, 50.0% without an edit" in page
    assert "an optimism of +25.0 points" in page and "<small>25.0% to 75.0%</small>" in page
    assert "<small>+12.5 to +37.5</small>" in page and '<td class="number">3</td>' in page
    assert '<td class="number">+25.0</td><td class="number">–</td>' in page
    assert '<td class="number">40.0%<small>60.0%</small></td>' in page


def test_trees_are_shown_from_the_largest_gain_to_the_smallest(tmp_path):
    page = written(tmp_path)
    places = [page.index(f"<h3>e{number} ") for number in (1, 3, 0)]
    assert places == sorted(places) and "<h3>e2 " not in page
    assert page.count("<svg") == 3 * 2 and "<ins>+ &lt;/td&gt;" in page


def test_texts_of_a_run_are_no_markup(tmp_path):
    assert "<script" not in written(tmp_path)


def test_a_run_without_trees_has_none(tmp_path):
    page = written(tmp_path, gains=())
    assert "<svg" not in page and "trained tree: 50.0%" in page


def test_a_summary_without_a_measure_is_named(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    del summary["evolution"][1]["best"]
    with pytest.raises(UserError, match=r"summary\.json: evolution\[1\] has no 'best'"):
        written(tmp_path, summary)
