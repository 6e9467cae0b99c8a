"""Pictures of grids, and runs whose tasks have them."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt import report
from selfadapt.errors import UserError
from selfadapt.files import JsonlWriter, write_json
from selfadapt.report import data
from selfadapt.report.grids import COLOURS, grid_svg


def painted(svg):
    """The colour of each cell, from the picture's paths."""
    cells = {}
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h", path.get("d") if path.get("fill") else ""):
            for column in range(int(x), int(x) + int(width)):
                assert (int(y), column) not in cells
                cells[int(y), column] = COLOURS.index(path.get("fill"))
    return cells


@pytest.mark.parametrize("grid", ["0", "0120\n1112\n9933", "\n".join(["7" * 30] * 30)])
def test_every_cell_has_its_colour(grid):
    rows = grid.split("\n")
    expected = {(y, x): int(cell) for y, row in enumerate(rows) for x, cell in enumerate(row)}
    svg = grid_svg(grid, "input")
    assert painted(svg) == expected
    assert float(ElementTree.fromstring(svg).get("width")) <= 132


GRIDS = {
    "pairs": [["12", "21"]],
    "tests": [
        {"input": "34", "truth": "43", "attempts": ["43", "34"]},
        {"input": "5\n6", "truth": "6\n5", "attempts": []},
    ],
}


def workdir(path, grids=GRIDS):
    """A finished run of two policies on one task, whose second one chooses more epochs."""
    rewards = {"none": 0.0, "random": 0.0, "untrained": 0.0, "round1": 1.0, "constant": 0.0, "oracle": 1.0}
    with JsonlWriter(path / "edits.jsonl") as writer:
        for policy, reward in rewards.items():
            for sample in range(2):
                kinds = {"epochs: 10": 1} if policy == "round1" and sample else {"epochs: 2": 1}
                record = {
                    "task": "t",
                    "phase": "eval",
                    "policy": policy,
                    "text": "{}",
                    "reward": reward,
                    "kinds": kinds,
                }
                writer.write(record | {"grids": grids, "questions": ["3 4"], "answers": ["4 3"], "verdicts": [reward]})
    pairs = {"pairs": 2, "solved_pairs": 1, "tasks": 1, "solved_tasks": 1}
    found = {"edit": "<b>", "candidates": 4, "training_tasks": 3, "training_reward": 0.5, "inner_updates": 12}
    ladder = [{"name": name, "mean": mean, "n": 1, "details": pairs} for name, mean in rewards.items()]
    ladder[4]["details"] = pairs | found
    write_json(path / "summary.json", {"ladder": ladder})
    return path


class Text(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.words = []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_data(self, text):
        if self.get_starttag_text() != "<style>":
            self.words.append(text)


def test_the_page_shows_grids_attempts_choices_and_the_best_constant_edit(tmp_path):
    source = report.write_report(workdir(tmp_path)).read_text()
    page = Text(source).text
    assert source.count('<svg class="cells"') == 2 + 2 * 2 + 3 * 2  # demonstrations, tests, attempts of three policies
    for part in (
        "Tasks, edits and answers", "Held-out tasks", "Share of held-out tasks solved", "no grid",
        "1 of 2 edits solve their task, and 1 of 1 tasks are solved by one", "What the policy chooses",
        "The best of 4 edits on 3 training tasks (reward 50.0% there), found with 12 inner updates", "<b>",
    ):  # fmt: skip
        assert part in page, part
    assert "passage" not in page.lower()


def test_references_are_no_policies_and_choices_are_shares_of_a_policys_edits(tmp_path):
    run = data.read_run(workdir(tmp_path))
    assert run.policies == ["untrained", "round1"]
    assert data.choices(run) == [
        ("epochs", "2", {"untrained": 1.0, "round1": 0.5}),
        ("epochs", "10", {"untrained": 0.0, "round1": 0.5}),
    ]


def test_a_choice_that_some_tasks_have_counts_their_edits_alone(tmp_path):
    with JsonlWriter(tmp_path / "edits.jsonl") as writer:
        for policy, ways in (("untrained", "words, weights, invalid"), ("round1", "words, words, words")):
            for number, way in enumerate(ways.split(", ")):
                record = {"task": f"t{number // 2}", "phase": "eval", "policy": policy, "text": ""}
                writer.write(record | {"kinds": {f"{'rule' if number < 2 else 'table'}: {way}": 1}})
    write_json(tmp_path / "summary.json", {"ladder": [{"name": name, "mean": 0} for name in ("untrained", "round1")]})
    assert data.choices(data.read_run(tmp_path)) == [
        ("rule", "weights", {"untrained": 0.5, "round1": 0.0}),
        ("rule", "words", {"untrained": 0.5, "round1": 1.0}),
        ("table", "invalid", {"untrained": 1.0, "round1": 0.0}),
        ("table", "words", {"untrained": 0.0, "round1": 1.0}),
    ]


@pytest.mark.parametrize(
    "grids",
    [
        None,
        {"pairs": []},
        {"pairs": [["12", "<script>"]], "tests": []},
        {"pairs": [["12", "1\n22"]], "tests": []},
        {"pairs": [], "tests": [{"input": "1", "truth": "1", "attempts": ["1" * 31]}]},
        {"pairs": [], "tests": [{"input": "1", "truth": "1"}]},
    ],
)
def test_what_is_no_grid_is_an_error_that_names_the_line(tmp_path, grids):
    with pytest.raises(UserError, match=r"edits\.jsonl, line 1: 'grids' must have"):
        data.read_run(workdir(tmp_path, grids))
