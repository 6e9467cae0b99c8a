"""Remedies for forgetting in a report."""

import copy
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt.errors import UserError
from selfadapt.files import write_json
from selfadapt.report import remedies_svg, write_report
from selfadapt.report.remedies import compared, drawing
from tests.report.test_retention import HOSTILE, ROW, SUMMARY

SPACE = "{http://www.w3.org/2000/svg}"
COST = {"inner_updates": 128, "optimizer_steps": 1024, "trained_tokens": 98765}


def row(remedy, learnt, end):
    name = "policy" if remedy == "sum" else f"policy+{remedy}"
    measures = {"just_learnt": {"mean": learnt}, "at_the_end": {"mean": end}}
    about = {"name": name, "variant": "policy", "remedy": remedy, "note": HOSTILE, "cost": COST}
    return ROW | about | {"measures": ROW["measures"] | measures}


def pair(remedy, measure, difference, margin):
    ends = {"low": difference - margin, "high": difference + margin} if margin else {"low": None, "high": None}
    return {"a": f"policy+{remedy}", "b": "policy", "measure": measure, "difference": difference} | ends


ROWS = [row("sum", 0.8, 0.4), row("replay", 0.7, 0.6), row("retrieved_oracle", 0.9, 0.9)]
PAIRED = [
    *(pair("replay", "just_learnt", -0.1, 0.3), pair("replay", "at_the_end", 0.2, 0.1)),
    *(pair("retrieved_oracle", "just_learnt", 0.1, None), pair("retrieved_oracle", "at_the_end", 0.5, 0.05)),
]


def places(picture):
    """The dots' x by class and row, and the whiskers' ends by their dot."""
    groups = [g for g in ElementTree.fromstring(picture).iter(f"{SPACE}g") if len(g) > 1]
    dots, lines, whiskers = {}, {}, {}
    for number, group in enumerate(groups):
        key = group.get("class"), number // 2
        dots[key] = float(group.find(f"{SPACE}circle").get("cx"))
        paths = [path.get("d") for path in group.iter(f"{SPACE}path")]
        lines[key] = float(paths[0][1:].split()[0])
        if len(paths) > 1:
            whiskers[key] = float(paths[1][1:].split()[0]), float(paths[1].split("H")[1].split()[0])
    return dots, lines, whiskers


@pytest.mark.parametrize("width", [640, 328])
def test_a_remedy_has_two_dots_and_the_paired_interval_around_each(width):
    dots, lines, whiskers = places(drawing(compared(ROWS, PAIRED), width))
    end, learnt = "policy", "reference"  # classes of the style sheet
    unit = (dots[learnt, 0] - dots[end, 0]) / 0.4  # pixels of a share of one
    for kind, values in ((end, (0.4, 0.6, 0.9)), (learnt, (0.8, 0.7, 0.9))):
        for number, value in enumerate(values):
            assert dots[kind, number] == pytest.approx(dots[end, 0] + (value - 0.4) * unit, abs=0.2)
            assert lines[kind, number] == pytest.approx(dots[kind, 0])  # the value of the sum
    assert set(whiskers) == {(end, 1), (learnt, 1), (end, 2)}
    low, high = whiskers[end, 1]
    assert (low, high) == pytest.approx((dots[end, 1] - 0.1 * unit, dots[end, 1] + 0.1 * unit), abs=0.2)
    low, high = whiskers[learnt, 1]
    assert low == pytest.approx(dots[learnt, 1] - 0.3 * unit, abs=0.2)
    assert low < lines[learnt, 1] < high  # not clear


def test_only_variants_with_remedies_are_compared_and_several_are_named():
    none = ROW | {"name": "none", "variant": "none", "remedy": "sum"}
    assert [each["label"] for each in compared([none, *ROWS], PAIRED)] == ["sum", "replay", "retrieved oracle"]
    assert compared([none, ROWS[0]], []) == [] == compared([ROW], PAIRED)  # also of a summary without the field
    other = copy.deepcopy(ROWS[:2])
    for each in other:
        each |= {"variant": "oracle", "name": each["name"].replace("policy", "oracle")}
    labels = [each["label"] for each in compared([*ROWS, *other], PAIRED)]
    assert labels[2:] == ["policy, retrieved oracle", "oracle, sum", "oracle, replay"]


def test_the_page_has_a_table_of_remedies_with_costs_apart_from_the_other_differences(tmp_path):
    write_json(
        tmp_path / "summary.json",
        SUMMARY | {"retention": [*ROWS, SUMMARY["retention"][0]]} | {"paired": [*PAIRED, *SUMMARY["paired"]]},
    )
    text = write_report(tmp_path).read_text()
    section = text.split('id="remedies"')[1].split("</section>")[0]
    assert section.count("98,765") == 3 and "60.0%<small>+20.0, +10.0 to +30.0</small>" in section
    assert "90.0%<small>+10.0</small>" in section
    differences = text.split('id="differences"')[1].split("</section>")[0]
    assert "policy − none" in differences and "replay" not in differences
    assert "<script" not in text
    write_json(tmp_path / "summary.json", SUMMARY)
    assert 'id="remedies"' not in write_report(tmp_path).read_text()


def test_a_picture_of_a_summary_has_the_dots_and_whiskers_of_its_remedies():
    picture = remedies_svg({"retention": ROWS, "paired": PAIRED})
    assert places(picture) == places(drawing(compared(ROWS, PAIRED), 760))
    assert "<style>" in picture and "questions answered right" in picture


def test_a_summary_without_remedies_has_no_picture():
    with pytest.raises(UserError, match=r"config\.protocol\.remedies"):
        remedies_svg({"retention": ROWS[:1], "paired": []})
