"""The page about evolution at test time."""

import copy
import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt.errors import UserError
from selfadapt.files import write_json
from selfadapt.report import evolution_svg, write_report
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


def lines(picture):
    """The points of each line, in pixels, by its class; the legend has none of two points."""
    groups = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")
    paths = {each.get("class"): each[0].get("d") for each in groups if each.get("class")}
    return {
        kind: [tuple(map(float, point.split())) for point in path[1:].split(" L")]
        for kind, path in paths.items()
        if " L" in path
    }


def test_the_score_by_the_number_of_edits_is_a_line_for_each_variant_that_writes_them():
    def points(edits, scores):
        pairs = zip(edits, scores, strict=True)
        return [{"round": n, "edits": e, "honest": s, "best": 1.0} for n, (e, s) in enumerate(pairs)]

    tree, chain = points((0, 2, 4), (0.0, 0.25, 0.5)), points((0, 1, 2, 3, 4), (0.0, 0.125, 0.25, 0.5, 0.5))
    rows = [{"name": "none"}, {"name": "trained_tree", "curve": tree}, {"name": "trained_chain", "curve": chain}]
    picture = evolution_svg({"evolution": rows})
    first, second = lines(picture).values()
    assert first == [second[0], second[2], (second[4][0], second[4][1])]
    assert second[3][1] == second[4][1] and second[1][1] - second[2][1] == pytest.approx(second[0][1] - second[1][1])
    steps = [after[0] - before[0] for before, after in itertools.pairwise(second)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2) and steps[0] > 100
    assert "trained tree: 0 edits 0.0%, 2 edits 25.0%, 4 edits 50.0%; trained chain" in picture
    assert "<style>" in picture and "none" not in ElementTree.fromstring(picture).get("aria-label")


def test_a_method_looks_the_same_with_every_editor_and_the_untrained_one_is_pale():
    points = [{"round": n, "edits": n, "honest": n / 4, "best": 1.0} for n in range(3)]
    names = ["untrained_tree", "untrained_best_of_n", "trained_tree", "trained_best_of_n"]
    tree, best = "held-out", "best"
    found = lines(evolution_svg({"evolution": [{"name": name, "curve": points} for name in names]}))
    assert list(found) == [f"{tree} pale", f"{best} pale", tree, best]
    alone = lines(evolution_svg({"evolution": [{"name": name, "curve": points} for name in names[:2]]}))
    assert list(alone) == [tree, best]


def test_a_summary_of_no_edits_has_no_picture():
    with pytest.raises(UserError, match="no variant that writes edits"):
        evolution_svg({"evolution": [{"name": "none"}]})
