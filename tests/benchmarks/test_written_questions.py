"""The comparison of written and given questions: its tables on known rewards, and a very small run."""

import json

import pytest

from benchmarks import written_questions
from selfadapt.errors import UserError


def cells(text):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]


def record(given, written, ok=None):
    """A record of edits with two inner runs each."""
    return {"task": "t", "ok": ok or [True] * len(given), "given": given, "written": written} | {
        "questions": 4,
        "kinds": {"question-answer": 3, "wrong value": 1},
    }


def test_the_tables_have_correlations_over_all_edits_and_within_passages_and_what_is_chosen():
    # Within both passages the written questions rank edits as the given ones do; over all edits the second passage's
    # written rewards are too low. In the other inner runs the given rewards of the first passage are reversed.
    records = [
        record([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]], [[0.7, 0.7], [0.8, 0.8], [0.9, 0.9]]),
        record([[0.7, 0.7], [0.9, 0.9], [9.0, 9.0]], [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], [True, True, False]),
    ]
    correlations, chosen, note = written_questions.comparison_tables(records).split("\n\n")
    same, other, ceiling = (row[1:] for row in cells(correlations)[2:])
    # Ranks of written 3 4 5 1 2 and of given 2 2 2 4 5: the given means of the first passage are equal.
    assert same[0].startswith("-0.783 [") and same[1] == "+1.000 [+nan, +nan], n = 1"
    # Ranks of the second runs' given 3 2 1 4 5 against written 3 4 5 1 2, and against the first runs' 1 2 3 4 5.
    assert other[0].startswith("-0.900 [") and "0.000 [-12.706, +12.706], n = 2" in other[1]
    assert ceiling[0].startswith("+0.600 [") and ceiling[1] == other[1]
    # Any edit: .2 and .8. Written and given choose the third of the first passage (.1) and the second (.9).
    assert [row[1] for row in cells(chosen)[2:]] == ["0.500", "0.500", "0.500"]
    assert "0.000 [-1.271, +1.271]" in cells(chosen)[3][2]
    assert note.startswith("2 passages, 4.0 written questions of each.")
    assert note.endswith("they are: question-answer 75%, wrong value 25%.")


def test_a_file_without_two_runs_of_two_edits_is_refused():
    with pytest.raises(UserError, match="--runs of at least 2"):
        written_questions.comparison_tables([record([[0.1], [0.2]], [[0.1], [0.2]])])


def test_the_difference_of_policies_is_paired_by_seed():
    def trained(seed, kind, heldout):
        return {"seed": seed, "variant": f"rest_em, {kind} questions", "heldout": heldout}

    records = [trained(1, "given", [0.5]), trained(1, "written", [0.25, 0.75]), trained(2, "given", [0.0])]
    assert written_questions.differences(records).endswith("+0.000 [+nan, +nan] over 1 seeds")
    both = [*records, trained(2, "written", [0.5])]
    line = "rest_em, written questions - rest_em, given questions: +0.250 [-2.927, +3.427] over 2 seeds"
    assert written_questions.differences(both) == line


@pytest.mark.slow
def test_both_kinds_are_measured_on_the_same_edits_and_policies_share_their_first_edits(tmp_path, capsys):
    small = {"contexts": 3, "edits": 3, "evaluation.contexts": 2, "rounds": 1}
    settings = [f"--set={name}={value}" for name, value in small.items()]
    rewards, policies = (str(tmp_path / name) for name in ("rewards.jsonl", "policies.jsonl"))
    written_questions.main(["measure", rewards, "--runs=2", *settings])
    records = [json.loads(line) for line in (tmp_path / "rewards.jsonl").read_text().splitlines()]
    assert len(records) == 3 and all(len(each["given"]) == len(each["written"]) == 3 for each in records)
    assert all(len(runs) == 2 for each in records for runs in each["given"] + each["written"])
    assert all(sum(each["kinds"].values()) == each["questions"] for each in records)
    with pytest.raises(UserError, match="must be 'written'"):
        written_questions.main(["measure", rewards, "--seeds=2", *settings, "--set=domain.questions=given"])
    written_questions.main(["train", policies, *settings])
    capsys.readouterr()
    written_questions.main(["train", policies, *settings])
    assert not capsys.readouterr().out  # nothing is trained again
    written_questions.main(["table", policies])
    table = capsys.readouterr().out
    assert [row[0] for row in cells(table)[2:5]] == [
        "untrained",
        *(f"rest_em, {k} questions" for k in ("given", "written")),
    ]
    written_questions.main(["compare", rewards])
    assert "written and given, other inner runs" in capsys.readouterr().out
