"""The page about continued pretraining."""

import copy
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt.errors import UserError
from selfadapt.files import write_json
from selfadapt.report import write_report
from selfadapt.report.pretraining import curve

HOSTILE = "</td><script>alert('x')</script>"
SPACE = "{http://www.w3.org/2000/svg}"


def size(n, mean, low=None, high=None, **changes):
    return {
        "size": n,
        "questions": 10 * n,
        "accuracy": {"mean": mean, "stderr": 0.05 if low else None, "low": low, "high": high, "n": n},
        "before": {"mean": 0.2, "low": None, "high": None, "n": n},
        "gain": {"mean": mean - 0.2, "low": 0.1, "high": 0.4, "n": n},
        "over_questions": mean,
        "sequences": 4.0 * n,
        "optimizer_steps": 8.0,
        "loss_first": 2.5,
        "loss_last": 1.25,
        "failed": {},
        "rejected": {},
    } | changes


ROWS = [
    {"name": "none", "note": "", "sizes": [size(1, 0.2), size(64, 0.2), size(256, 0.2)]},
    {"name": "policy", "note": "", "sizes": [size(1, 0.6, 0.5, 0.7), size(64, 0.5, 0.4, 0.6), size(256, 0.45)]},
    {"name": "GPT", "note": HOSTILE, "sizes": [size(64, 0.4, failed={"diverged: " + HOSTILE: 1})]},
]
SUMMARY = {
    "name": HOSTILE,
    "model": "tiny",
    "train": "lora",
    "seed": 0,
    "seconds": 60.0,
    "pretraining": ROWS,
    "paired": [{"a": "policy", "b": "none", "size": 64, "difference": 0.3, "low": 0.25, "high": 0.35, "n": 64}],
}


def test_the_curve_has_a_point_of_each_variant_and_size_on_a_logarithmic_axis():
    drawing = ElementTree.fromstring(curve(ROWS, 640))
    lines = [group for group in drawing.iter(f"{SPACE}g") if group.find(f"{SPACE}path[@class='series']") is not None]
    named, drawn = lines[:3], lines[3:]
    assert [group.get("class") for group in named] == ["baseline", "held-out", "given1"]
    assert [group.get("class") for group in drawn] == ["baseline", "held-out", "given1"]
    policy = drawn[1]
    points = [tuple(map(float, each.strip("ML ").split())) for each in policy[0].get("d").split(" L")]
    (one, _), (many, _), (most, _) = points
    assert (many - one) / (most - one) == pytest.approx(0.75, abs=0.01)  # log 64 / log 256
    assert points[0][1] < points[1][1] < points[2][1]  # accuracy falls, and y is downwards
    assert len(policy.findall(f"{SPACE}path[@class='error']")) == 2  # where there is a standard error
    assert "Policy: 1 passages 60.0%, 64 passages 50.0%, 256 passages 45.0%" in drawing.get("aria-label")
    assert {"1", "64", "256"} <= {text.text for text in drawing.iter(f"{SPACE}text")}


def test_the_page_has_accuracies_differences_and_failures_and_escapes_every_text(tmp_path):
    write_json(tmp_path / "summary.json", SUMMARY)
    text = write_report(tmp_path).read_text()
    assert "Policy: 45.0% right after one update on 256 passages; 20.0% before" in text
    assert "Gain: +25.0 points, 95% interval +10.0 to +40.0" in text
    assert "60.0%<small>50.0% to 70.0%" in text and "+25.0 to +35.0" in text and "2.50 to 1.25" in text
    assert "GPT, n = 64: 1 updates failed: diverged" in text
    assert "<script" not in text and "&lt;script" in text


def test_a_part_that_is_missing_is_named(tmp_path):
    for change, message in [
        (lambda rows: rows[1].pop("sizes"), r"pretraining\[1\] has no 'sizes'"),
        (lambda rows: rows[0]["sizes"][2].pop("gain"), r"pretraining\[0\]: a size has no 'gain'"),
        (lambda rows: rows.clear(), r"pretraining\[0\] has no 'name'"),
    ]:
        broken = copy.deepcopy(SUMMARY)
        change(broken["pretraining"])
        write_json(tmp_path / "summary.json", broken)
        with pytest.raises(UserError, match=message):
            write_report(tmp_path)
