"""The page about a continual run."""

import copy
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt.errors import UserError
from selfadapt.files import write_json
from selfadapt.report import retention_svg, write_report
from selfadapt.report.retention import heat_map

HOSTILE = "</td><script>alert('x')</script>"
ROW = {
    "name": "policy",
    "mean": [[0.25, 0.5], [0.75, None], [0.1, 1.0]],
    "stderr": [[0.05, 0.1], [0.1, None], [0.02, None]],
    "std": [[0.5, 0.5], [0.25, None], [0.125, 0.0]],
    "std_mean_of_runs": [[0.4, 0.5], [0.25, None], [0.125, 0.0]],
    "measures": {
        "before": {"mean": 0.375, "low": 0.3, "high": 0.45},
        "just_learnt": {"mean": 0.875, "low": 0.8, "high": 0.95},
        "at_the_end": {"mean": 0.55, "low": None, "high": None},
        "forgetting": {"mean": 0.325, "low": 0.2, "high": 0.45},
        "backward_transfer": {"mean": None, "low": None, "high": None},
        "net_change": {"mean": 0.175, "low": 0.1, "high": 0.25},
    },
}
SUMMARY = {
    "name": HOSTILE,
    "model": "tiny",
    "seed": 0,
    "streams": 4,
    "passages": 2,
    "seconds": 60.0,
    "retention": [ROW | {"name": "none", "failed": {}}, ROW | {"failed": {"diverged: " + HOSTILE: 2}}],
    "paired": [{"a": "policy", "b": "none", "measure": "forgetting", "difference": 0.1, "low": 0.05, "high": 0.15}],
}


def test_a_heat_map_has_each_value_as_a_number_and_no_cell_for_what_is_not_asked():
    drawing = ElementTree.fromstring(heat_map(ROW, 640))
    space = "{http://www.w3.org/2000/svg}"
    cells = [group for group in drawing.iter(f"{space}g") if group.get("class") == "heat"]
    assert len(cells) == 5
    spoken = [group.find(f"{space}title").text for group in cells]
    assert spoken[2:] == [
        "after 1 edits, passage 1: 75.0% ± 10.0%",
        "after 2 edits, passage 1: 10.0% ± 2.0%",
        "after 2 edits, passage 2: 100.0%",
    ]
    written = [text.text for text in drawing.iter(f"{space}text")]
    assert all(value in written for value in ("25", "50", "75", "10", "100"))
    rects = [group.find(f"{space}rect") for group in cells]
    assert [rect.get("class") for rect in rects] == ["cell", "cell", "learnt", "cell", "learnt"]
    shades = [float(rect.get("fill-opacity")) for rect in rects]
    assert shades[3] < shades[0] < shades[1] < shades[2] < shades[4] < 0.6  # the number stays readable
    assert drawing.get("aria-label").startswith("Retention, policy: after 0 edits 25.0%, 50.0%;")


def test_a_heat_map_of_its_own_has_the_same_cells_and_states_what_they_are():
    space, note = "{http://www.w3.org/2000/svg}", "percent of questions answered right"

    def places(rects):
        return [[float(rect.get(name)) for name in ("x", "y", "width", "height")] for rect in rects]

    alone, part = ElementTree.fromstring(retention_svg(ROW)), ElementTree.fromstring(heat_map(ROW, 640))
    paper, *rects = alone.iter(f"{space}rect")
    assert paper.get("class") == "paper" and alone.find(f"{space}style") is not None
    inside = places(part.iter(f"{space}rect"))
    assert places(rects) == [[x + 16, y + 16, width, height] for x, y, width, height in inside]
    texts = [[text.text for text in drawing.iter(f"{space}text")] for drawing in (alone, part)]
    assert texts[0][:-1] == texts[1] and texts[0][-1].startswith(note)
    assert max(float(text.get("y")) for text in alone.iter(f"{space}text")) < float(alone.get("height"))


def test_the_page_has_measures_differences_and_failures_and_escapes_every_text(tmp_path):
    write_json(tmp_path / "summary.json", SUMMARY)
    text = write_report(tmp_path).read_text()
    assert "87.5% right just after a passage’s edit, 55.0% after 2 edits; 37.5% before any" in text
    assert "+32.5 points, 95% interval +20.0 to +45.0" in text and "+5.0 to +15.0" in text
    assert "2 edits could not be learned" in text and "mean of the runs" in text
    assert "<script" not in text and "&lt;script" in text


def test_a_part_that_is_missing_is_named(tmp_path):
    broken = copy.deepcopy(SUMMARY)
    del broken["retention"][1]["measures"]
    write_json(tmp_path / "summary.json", broken)
    with pytest.raises(UserError, match=r"retention\[1\] has no 'measures'"):
        write_report(tmp_path)
    write_json(tmp_path / "summary.json", SUMMARY | {"retention": []})
    with pytest.raises(UserError, match=r"retention\[0\] has no 'name'"):
        write_report(tmp_path)
