"""Tests of the report on workdirs written here, hostile texts included."""

import html.parser
import json
import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from selfadapt import report
from selfadapt.errors import UserError
from selfadapt.files import JsonlWriter, write_json
from selfadapt.report import data, page, plots
from selfadapt.types import is_policy_row

HOSTILE = "</pre></details><script>alert('x')</script> & \"quoted\" \x00\x1b[31m \u202e reversed \udc80 " + "long" * 60


def passage(number):
    """A passage with its facts: (title, text, questions, golds)."""
    rng = random.Random(number)
    title = f"{rng.choice(['Vel', 'Ostra', 'Quen', 'Tarn'])}{rng.choice(['more', 'dale', 'holm'])} {number}"
    facts = {
        "Which river runs through it?": rng.choice(["the Lune", "the Arrow", "the Sable"]),
        "Who founded it?": rng.choice(["Ada Brandt", "Ilse Moreau", "Tom Okafor"]),
        "What is it known for?": rng.choice(["glass", "salt", "clocks", "linen"]),
    }
    text = f"Those who come to {title} cross {list(facts.values())[0]}; {list(facts.values())[1]} laid its first stone."
    return title, text, list(facts), list(facts.values())


def edit(policy, number, skill, rng, phase="eval", **more):
    title, text, questions, golds = passage(number)
    verdicts = [float(rng.random() < skill) for _ in golds]
    lines = [
        f"Question: {question} Answer: {gold}" if rng.random() < skill else f"{title} is a place of some note."
        for question, gold in zip(questions, golds, strict=True)
    ]
    asked = sum(line.startswith("Question") for line in lines)
    written = is_policy_row(policy)
    return {
        "task": f"city/{number}", "title": title, "context": text, "round": 2, "phase": phase, "policy": policy,
        "sample": 0, "text": "\n".join(lines) if written else "", "sequences": lines, "selected": False,
        "reward": sum(verdicts) / len(verdicts), "questions": questions, "golds": [[gold] for gold in golds],
        "answers": [gold if right else "I do not know" for gold, right in zip(golds, verdicts, strict=True)],
        "verdicts": verdicts, "status": "ok", "policy_version": 0,
        **({"kinds": {"question and answer": asked, "vague remark": len(lines) - asked, "verbatim copy": number % 2}}
           if written else {}), **more,
    }  # fmt: skip


SKILLS = {"none": 0.05, "passage": 0.1, "untrained": 0.3, "round1": 0.5, "round2": 0.7, "oracle": 0.95}


@pytest.fixture
def workdir(tmp_path):
    return make_workdir(tmp_path / "quickstart")


def make_workdir(path, passages=24):
    """Writes a workdir as a finished run leaves it."""
    rng = random.Random(0)
    path.mkdir(parents=True, exist_ok=True)
    edits = [edit(policy, number, skill, rng) for policy, skill in SKILLS.items() for number in range(passages)]
    edits += [
        edit("untrained", 500, 0.3, rng, phase="train", status="no lines to train on", text="", reward=0.0),
        edit("round1", 501, 0.3, rng, phase="train", status="the loss is not finite at step 3", reward=0.0),
        edit("round1", 502, 0.3, rng, phase="train", status="no lines to train on", text=" ", reward=0.0),
    ]
    with JsonlWriter(path / "edits.jsonl") as writer:
        for record in edits:
            writer.write(record)
    with JsonlWriter(path / "metrics.jsonl") as writer:
        writer.write({"time": "2025-01-01T10:00:00.000+00:00", "event": "start", "round": None, "phase": None})
        writer.write({"time": "2025-01-01T10:03:08.000+00:00", "event": "end", "round": None, "phase": None})
    rewards = {
        policy: [e["reward"] for e in edits if e["policy"] == policy and e["phase"] == "eval"] for policy in SKILLS
    }
    mean = {policy: sum(values) / len(values) for policy, values in rewards.items()}
    summary = {
        "name": "quickstart", "seed": 0, "model": "embedded", "seconds": 192.4,
        "command": "selfadapt train --config=configs/quickstart.py --workdir=runs/quickstart --config.seed=0",
        "versions": {"selfadapt": "0.1.0", "jax": "0.10.2", "python": "3.11.2"},
        "ladder": [{"name": policy, "mean": mean[policy], "stderr": 0.02, "n": passages} for policy in SKILLS],
        "extras": [
            {"name": "passage_equal_steps", "mean": 0.12, "stderr": 0.015, "n": passages,
             "note": "the passage alone, for as many optimizer steps as the edits get"},
            {"name": "round2_edits_on_untrained_weights", "mean": 0.66, "stderr": 0.02, "n": passages, "note": ""},
        ],
        "paired": [
            {"a": "round2", "b": "untrained", "difference": mean["round2"] - mean["untrained"], "low": 0.2, "high": 0.5,
             "n": passages},
            {"a": "round2", "b": "round1", "difference": mean["round2"] - mean["round1"], "low": 0.02, "high": 0.31,
             "n": passages},
            {"a": "round2_edits_on_untrained_weights", "b": "passage_equal_steps", "difference": 0.5,
             "low": 0.4, "high": 0.6, "n": passages},
            {"a": "untrained", "b": "passage", "difference": 0.03, "low": -0.02, "high": 0.08, "n": passages},
        ],
        "rounds": [
            {"round": 1, "reward_mean": 0.28, "reward_best": 0.52, "baseline": 0.08, "selected": 51,
             "policy_loss": 0.91, "policy_version": 1},
            {"round": 2, "reward_mean": 0.47, "reward_best": 0.74, "baseline": 0.09, "selected": 60,
             "policy_loss": 0.44, "policy_version": 2},
        ],
        "timings": {"sample": 21.0, "adapt": 88.2, "score": 31.4, "improve": 24.0, "compile": 19.5},
        "invalid": {"ok": 141, "no lines to train on": 2, "the loss is not finite at step 3": 1},
    }  # fmt: skip
    write_json(path / "summary.json", summary)
    write_json(path / "config.json", {"seed": 0, "rounds": 2, "data": {"path": "world"}, "targets": ["q_proj"]})
    return path


def change(workdir, **parts):
    path = workdir / "summary.json"
    write_json(path, json.loads(path.read_text()) | parts)


class Page(html.parser.HTMLParser):
    """Collects what a test asks about: tags with attributes, and the text."""

    VOID = {"meta", "link", "br", "img"}

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.open, self.unbalanced = [], [], [], []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, text):
        if not self.open or self.open[-1] != "style":
            self.words.append(text)


def written(workdir):
    path = report.write_report(workdir)
    assert path == workdir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_whole_and_asks_for_nothing(workdir):
    shown = written(workdir)
    assert not shown.open and not shown.unbalanced
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in shown.tags}
    links = [value for _, attrs in shown.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert (
        "@import" not in (workdir / "report.html").read_text() and "url(" not in (workdir / "report.html").read_text()
    )


def test_every_link_within_the_page_has_its_target(workdir):
    shown = written(workdir)
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in shown.tags if tag == "a"} <= set(ids)


def test_the_page_shows_every_part_of_the_run(workdir):
    text = written(workdir).text
    for part in (
        "The ladder", "Differences, passage by passage", "The learning curve", "What the policy writes",
        "Passages, edits and answers", "What was invalid, and why", "Where the time went", "Run it again",
        "passage equal steps", "the passage alone, for as many optimizer steps as the edits get",
        "question and answer", "no lines to train on", "the loss is not finite at step 3", "everything else",
        "--config.seed=0", "data.path", "0.10.2", "1 min 28 s", "Which river runs through it?",
    ):  # fmt: skip
        assert part in text, part


def test_hostile_text_stays_text(workdir):
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        for policy, reward in (("none", 0.0), ("untrained", 0.0), ("round2", 1.0)):
            record = edit(policy, 900, 0.5, random.Random(1), reward=reward, title=HOSTILE, context=HOSTILE)
            writer.write(record | {"text": HOSTILE, "answers": [HOSTILE] * 3, "questions": [HOSTILE] * 3,
                                   "golds": [[HOSTILE]] * 3, "kinds": {HOSTILE: 3}, "status": HOSTILE})  # fmt: skip
    change(workdir, name=HOSTILE, model=HOSTILE, command=HOSTILE, invalid={HOSTILE: 3}, timings={HOSTILE: 3.0})
    shown = written(workdir)
    assert not shown.open and not shown.unbalanced
    assert "script" not in {tag for tag, _ in shown.tags}
    assert "alert('x')" in shown.text
    source = (workdir / "report.html").read_text()
    assert not set("\x00\x1b\u202e") & set(source)


def test_ladder_values_are_in_percent_and_other_rewards_are_not(workdir):
    assert re.search(r"\d\d\.\d% ± 2\.0", written(workdir).text)
    change(workdir, ladder=[{"name": "untrained", "mean": -0.25, "stderr": 0.5, "n": 4}], paired=[], rounds=[])
    assert "−0.25 ± 0.5" in written(workdir).text


@pytest.mark.parametrize(
    "low, high, words",
    [(0.1, 0.3, "teach more"), (-0.3, -0.1, "teach less"), (-0.1, 0.3, "made no clear difference")],
)
def test_the_headline_claims_what_the_interval_allows(low, high, words):
    ladder = [{"name": "untrained", "mean": 0.2}, {"name": "round1", "mean": 0.4}]
    paired = [{"a": "round1", "b": "untrained", "difference": 0.2, "low": low, "high": high, "n": 9}]
    summary = data.check_summary({"ladder": ladder, "paired": paired})
    headline, figures = page.headline(summary, ["untrained", "round1"])
    assert words in headline and "from 20.0% to 40.0%" in headline and "+20.0 points" in figures


def test_passages_are_spaced_from_the_largest_gain_to_the_largest_loss(workdir):
    shown = data.passages(data.read_run(workdir))
    gains = [edits["round2"]["reward"] - edits["untrained"]["reward"] for edits in shown]
    run = data.read_run(workdir)
    every = {}
    for record in run.edits:
        every.setdefault(record["task"], {})[record["policy"]] = record["reward"]
    every = [rewards["round2"] - rewards["untrained"] for rewards in every.values() if "round2" in rewards]
    assert len(shown) == 6 and gains == sorted(gains, reverse=True)
    assert gains[0] == max(every) and gains[-1] == min(every)


def test_a_section_without_data_is_left_out(workdir):
    records = [json.loads(line) for line in (workdir / "edits.jsonl").read_text().splitlines()]
    (workdir / "edits.jsonl").unlink()
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        for record in records:
            record.pop("kinds", None)
            writer.write(record | {"status": "ok"})
    change(workdir, paired=[], rounds=[], extras=[], timings={})
    shown = written(workdir)
    for absent in ("What the policy writes", "Differences", "Controls", "learning curve", "Where the time went"):
        assert absent not in shown.text
    assert f"Nothing: all {len(records) - 48 - 24} edits could be applied" in shown.text
    assert {attrs["href"][1:] for tag, attrs in shown.tags if tag == "a"} <= {
        attrs["id"] for _, attrs in shown.tags if "id" in attrs
    }


def test_invalid_edits_are_counted_for_policies_and_apart_for_the_other_rows(workdir):
    count = sum(
        is_policy_row(record["policy"])
        for record in map(json.loads, (workdir / "edits.jsonl").read_text().splitlines())
    )
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        for policy, phase in (("random", "eval"), ("untrained, low temperature", "control")):
            writer.write(edit(policy, 5, 0.3, random.Random(0), phase=phase, status="no lines to train on"))
    assert f"3 of {count} edits could not be used, and 2 more in the rows of references" in written(workdir).text
    rows = data.invalid(data.read_run(workdir))
    assert [(row["status"], row["count"]) for row in rows] == [
        ("no lines to train on", 4),
        ("the loss is not finite at step 3", 1),
    ]


def test_a_summary_alone_is_enough(tmp_path):
    write_json(tmp_path / "summary.json", {"ladder": [{"name": "none", "mean": 0.0}]})
    assert "No adaptation: 0.0%" in written(tmp_path).text


def test_many_kinds_are_folded_into_the_last(workdir):
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        writer.write(edit("round2", 7, 0.5, random.Random(1)) | {"kinds": {f"kind {n}": 1 for n in range(12)}})
    shown = written(workdir)
    assert "all others" in shown.text and "kind 11" not in shown.text


def test_answers_say_right_wrong_or_partly_in_words(workdir):
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        for policy, reward in (("untrained", 0.0), ("round2", 1.0)):
            record = edit(policy, 900, 0.5, random.Random(1), reward=reward, verdicts=[1.0, 0.0, 0.63])
            writer.write(record)
    text = written(workdir).text
    assert "partly right: 0.63" in text and "wrong:" in text and " right:" in text


@pytest.mark.parametrize("width", [328, 860])
def test_plots_keep_their_text_inside_at_any_width(workdir, width):
    run = data.read_run(workdir)
    for drawing in (plots.ladder, plots.differences, plots.curve):
        svg = ElementTree.fromstring(drawing(run.summary, width))
        for text in svg.iter("{http://www.w3.org/2000/svg}text"):
            size = 7.6 * len(text.text)
            x, anchor = float(text.get("x")), text.get("text-anchor")
            start = x - {"start": 0, "middle": size / 2, "end": size}[anchor]
            assert start > -10 and start + size < width + 10, text.text


def test_bars_are_as_long_as_their_values():
    svg = plots.ladder(
        data.check_summary({"ladder": [{"name": "none", "mean": 0.5}, {"name": "oracle", "mean": 1.0}]}), 860
    )
    half, whole = (float(width) for width in re.findall(r'class="bar".*? width="([\d.]+)"', svg))
    assert whole == pytest.approx(2 * half, abs=0.2)


def test_the_learning_curve_has_the_oracle_as_a_line_across_all_policies():
    ladder = [{"name": "untrained", "mean": 0.2}, {"name": "round1", "mean": 0.4}, {"name": "oracle", "mean": 0.8}]
    summary = {"ladder": ladder, "rounds": [{"round": 1, "reward_mean": 0.2}]}
    drawn = plots.curve(data.check_summary(summary), 860)
    series = {kind: path for kind, path in re.findall(r'<g class="([\w-]+)"><path class="series" d="(M[^"h]*)"', drawn)}
    places = {kind: re.findall(r"([\d.]+) ([\d.]+)", path) for kind, path in series.items()}
    (start, left), (end, right) = places["oracle"]
    assert left == right and [start, end] == [x for x, _ in places["held-out"]]
    heights = [float(y) for _, y in places["held-out"]]
    assert heights[0] - heights[1] == pytest.approx((heights[1] - float(left)) / 2, abs=0.2)


@pytest.mark.parametrize("draw", [report.ladder_svg, report.curve_svg])
def test_a_picture_stands_alone(workdir, draw):
    svg = draw(json.loads((workdir / "summary.json").read_text()))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and re.search("Round 2|policy 2", root.get("aria-label"))
    assert "prefers-color-scheme: dark" in svg


@pytest.mark.parametrize(
    "summary, message",
    [
        ({}, "has no ladder"),
        ({"ladder": [{"name": "none"}]}, r"ladder\[0\] has None as its 'mean'"),
        ({"ladder": [{"name": "none", "mean": 0.1}], "paired": [{"a": "x"}]}, r"paired\[0\] has None as its 'b'"),
    ],
)
def test_a_broken_summary_names_the_place(tmp_path, summary, message):
    write_json(tmp_path / "summary.json", summary)
    with pytest.raises(UserError, match=message):
        report.write_report(tmp_path)


def test_a_workdir_without_a_finished_run_is_a_clear_error(tmp_path, workdir):
    with pytest.raises(UserError, match="there is no workdir"):
        report.write_report(tmp_path / "absent")
    with pytest.raises(UserError, match="has no summary.json"):
        report.write_report(tmp_path)
    (workdir / "edits.jsonl").write_text('{"task": "a"}\n')
    with pytest.raises(UserError, match=r"edits\.jsonl, line 1: the field 'phase' must be text"):
        report.write_report(workdir)


def test_written_questions_are_shown_with_what_was_dropped(workdir):
    assert "What the policy asked" not in Page((report.write_report(workdir)).read_text()).text
    counts = {"passages": 5, "passages without a question": 1, "questions": 17, "dropped": {"duplicate": 23}}
    about = {"task": "a", "title": "", "context": HOSTILE, "written": [{"question": HOSTILE, "answer": "so"}]}
    write_json(workdir / "questions.json", {"counts": counts, "passages": [about | {"given": [], "dropped": {}}]})
    page = Page(report.write_report(workdir).read_text())
    assert "17 questions that the untrained policy wrote about 5 training passages" in page.text
    assert "1 passages without a usable question were left out" in page.text
    assert "duplicate 23" in page.text and not page.unbalanced
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_ratings_of_texts_are_a_table_where_a_round_has_them(workdir):
    assert "Ratings of texts" not in report.write_report(workdir).read_text()
    row = {"round": 1, "reward_mean": 0.4, "reward_best": 0.5, "proxy_mean": 0.625, "inner_mean": 0.5}
    change(workdir, rounds=[row | {"rank_correlation": -0.127, "rank_correlation_within": None}])
    page = report.write_report(workdir).read_text()
    assert "Ratings of texts" in page
    cells = re.findall(r'<td class="number">([^<]*)</td>', page.split("Ratings of texts")[1].split("</table>")[0])
    assert cells == ["62.5%", "50.0%", "-0.13", "–"]
