"""The analysis of a run's gain, on edits written by hand."""

import pytest

from benchmarks import gain
from selfadapt.domains.tiny import edits, world
from selfadapt.errors import UserError
from selfadapt.files import JsonlWriter

TASKS = world.tasks("heldout", 3, seed=5)


def record(policy, task, lines, verdicts, phase="eval"):
    return {
        "task": task.id,
        "context": task.context,
        "policy": policy,
        "phase": phase,
        "text": "\n".join(lines),
        "verdicts": verdicts,
    }


def write(workdir, *records):
    with JsonlWriter(workdir / "edits.jsonl") as writer:
        for each in records:
            writer.write(each)
    return workdir


def wrong(task, place):
    attribute, value = task.data.facts()[place]
    other = next(candidate for candidate in world.pool(attribute) if candidate != value)
    return attribute.statements[0].format(name=task.data.mention, value=other)


def test_the_table_splits_accuracy_by_whether_the_fact_was_restated(tmp_path, capsys):
    first, second, third = TASKS
    right, other = edits.gold_lines(first), edits.gold_statements(second)
    write(
        tmp_path,
        record("none", first, [], [0, 0, 0, 0, 0, 0]),
        record("untrained", third, edits.gold_lines(third), [1, 1, 1, 1, 1, 1], phase="train"),
        record("untrained", first, [right[0], right[0], wrong(first, 2), ""], [1, 0, 0, 0, 0, 1]),
        record("untrained", second, ["Nothing of note."], [0, 0, 0, 0, 0, 0]),
        record("round1", first, right[:4], [1, 1, 1, 0, 0, 0]),
        record("round1", second, [*other[:2], wrong(second, 1)], [1, 1, 1, 0, 0, 0]),
    )
    gain.main([str(tmp_path)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][2:] == [
        "lines per edit", "restated correctly", "wrong value", "accuracy if restated", "accuracy otherwise", "accuracy"
    ]  # fmt: skip
    # 1 of 12 facts restated, and answered; 1 of the other 11 answered.
    assert rows[2] == ["untrained", "12", "2.000", "0.083", "0.083", "1.000", "0.091", "0.167"]
    # 6 of 12 restated, of which 5 answered; 1 of the other 6.
    assert rows[3] == ["round1", "12", "3.500", "0.500", "0.083", "0.833", "0.167", "0.500"]
    assert len(rows) == 4


def test_verdicts_of_several_inner_runs_are_averaged_by_question():
    task = TASKS[0]
    facts = gain.facts_of(
        record("untrained", task, edits.gold_lines(task)[1:2], [1, 0, 0, 0, 0, 1] + [1, 1, 0, 0, 0, 0])
    )
    assert [fact.verdict for fact in facts] == [1.0, 0.5, 0.0, 0.0, 0.0, 0.5]
    assert [fact.restated for fact in facts] == [False, True, False, False, False, False]


def test_a_policy_that_restates_nothing_has_no_accuracy_given_that(tmp_path):
    write(tmp_path, record("untrained", TASKS[0], ["Hm."], [0, 0, 0, 0, 0, 1]))
    assert gain.table(tmp_path).splitlines()[2] == "| untrained | 6 | 1.000 | 0.000 | 0.000 | - | 0.167 | 0.167 |"


def test_edits_that_cannot_be_analysed_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"edits\.jsonl: there is no such file"):
        gain.table(tmp_path)
    write(tmp_path, record("passage", TASKS[0], [], [0] * 6))
    with pytest.raises(UserError, match=r"no policy's edits of held-out passages"):
        gain.table(tmp_path)
    foreign = record("untrained", TASKS[0], [], [0] * 6)
    with pytest.raises(UserError, match=r"not of the tiny world's passages: 'genghis-khan-f8c9ae9e8b'"):
        gain.facts_of(foreign | {"task": "genghis-khan-f8c9ae9e8b"})
    with pytest.raises(UserError, match=r"written by another version"):
        gain.facts_of(foreign | {"context": "Other."})
