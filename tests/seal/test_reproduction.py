"""SEAL's published tables beside what its files give, and the committed page of them."""

import json
import math
import pathlib
import shutil

import pytest

from selfadapt.cli import main
from selfadapt.errors import UserError
from selfadapt.seal import published
from selfadapt.seal.reproduction import reproduction, tables

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reproduction.md"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def inner(*accuracies):
    """An "inner" file; for each passage (questions, right without an edit, right with it)."""
    articles = []
    for number, (count, before, after) in enumerate(accuracies):
        log = [
            {"rep": 0, "baseline_correct": q < before, "adapter_correct": q < after, "question": "q", "answer": "a"}
            for q in range(count)
        ]
        completion = {"text": f"edit {number}", "stats": {}, "questions": log}
        described = {"title": "t", "context": f"passage {number}", "prompt": f"prompt {number}"}
        articles.append({**described, "stats": {}, "completions": [completion]})
    return {"overall": {}, "articles": articles}


def line(text, start):
    """The cells of the line of a table that starts so."""
    (found,) = (each for each in text.split("\n") if each.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


@pytest.fixture
def repository(tmp_path):
    """A small repository: three methods of the first table, and a fourth whose file is not there."""
    folder = tmp_path / "general-knowledge" / "results" / "query_server" / "eval"
    write(folder / "base.json", inner((4, 1, 2), (2, 0, 1), (5, 5, 5)))
    write(folder / "iter2.json", inner((4, 0, 3), (2, 0, 2), (5, 0, 4)))
    return tmp_path


def test_each_row_has_the_published_number_beside_the_mean_over_passages(repository):
    table = tables(repository)["Single passage, Qwen2.5-7B"]
    assert line(table, "base model")[:2] == ["32.7", "32.67"]
    assert line(table, "base model")[2].startswith(f"{100 * (1 / 4 + 0 + 1) / 3:.2f} [")
    assert line(table, "untrained policy's edits")[2].startswith(f"{100 * (2 / 4 + 1 / 2 + 1) / 3:.2f} [")
    assert line(table, "untrained policy's edits")[3].startswith(f"+{100 * (1 / 4 + 1 / 2 + 0) / 3:.1f} [")
    assert line(table, "SEAL, round 2")[3].startswith(f"+{100 * (3 / 4 + 1 + 4 / 5) / 3:.1f} [")  # its own baseline
    assert line(table, "SEAL, round 2")[4] == "3 passages"
    assert line(table, "GPT-4.1's edits")[2:5] == ["-", "-", "-"]


def test_methods_are_compared_passage_by_passage_where_both_files_are_there(repository):
    table = tables(repository)["Single passage, Qwen2.5-7B: paired differences"]
    differences = [1 / 4, 1 / 2, -1 / 5]
    mean = sum(differences) / 3
    error = (sum((d - mean) ** 2 for d in differences) / 2 / 3) ** 0.5
    low, high = 100 * (mean - 1.96 * error), 100 * (mean + 1.96 * error)
    found = line(table, "SEAL, round 2 - untrained policy's edits")
    assert found[0] == f"{100 * mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert found[2:] == ["2 / 1", "3 passages"]
    assert "GPT-4.1" not in table


def test_continued_pretraining_is_compared_question_by_question(tmp_path):
    for name, right in (("base", [True, True, False, False]), ("iter2", [False, True, True, True])):
        write(
            tmp_path / "results" / "cpt" / "200" / f"{name}_200.json",
            {"metrics": {}, "per_question": {"baseline_correct": [False] * 4, "adapter_correct": right}},
        )
    found = tables(tmp_path)
    title = "Continued pretraining of all weights, 200 passages (version 2)"
    assert line(found[title], "base model")[2].startswith("0.00 [")
    assert line(found[title], "SEAL, round 2")[2].startswith("75.00 [")
    compared = line(found[f"{title}: paired differences"], "SEAL, round 2 - untrained policy's edits")
    assert compared[0].startswith("+25.0 [") and compared[2:] == ["2 / 1", "4 questions"]


def test_finetuning_rows_are_counted_if_they_are_best_edits_and_if_they_have_passages_of_the_evaluation(tmp_path):
    content = inner((2, 0, 1), (2, 2, 1)) | {"k_completions": 2, "eval_times": 2}
    for article in content["articles"]:
        (first,) = article["completions"]
        first["questions"] += [{**question, "rep": 1} for question in first["questions"]]  # a second run like the first
        wrong = [{**question, "adapter_correct": False} for question in first["questions"]]
        article["completions"].append({**first, "text": "worse", "questions": wrong})
    write(tmp_path / "query_server" / "train" / "rank_iter0.json", content)
    rows = [{"prompt": "prompt 0", "completion": "edit 0"}, {"prompt": "Read: An owl.", "completion": "edit 1"}]
    learned = tmp_path / "EM_SFT" / "alternate" / "sft_none.jsonl"
    write(
        tmp_path / "data" / "squad_val.json",
        [{"title": "t", "context": "An owl.", "questions": [{"question": "q", "answer": "a"}]}],
    )
    for path in (learned, tmp_path / "EM_SFT" / "sft_best1of5_iter0.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tables(tmp_path)
    round_one = line(found["Rounds of training: the edits that are learned from"], "implications, round 1")
    assert round_one[:4] == ["50.0", "25.0", "50.0", "50.0"]  # runs agree, so new ones are expected to
    assert round_one[5:] == ["1 of 4", "0 of 2", "0 of 2", "1 of 2", "1 of 2"]
    leaks = found["Finetuning data with passages of the evaluation in it"]
    assert line(leaks, "`sft_none.jsonl`") == line(leaks, "`sft_best1of5_iter0.jsonl`") == ["2", "1"]


def test_runs_of_the_continual_experiment_are_the_units_of_its_intervals(tmp_path):
    def run(*first):
        content = {"mean_over_sequences": [list(first), [0.5, 0], [0.2, 0.4]], "n_sequences": 4}
        return content | {"std_over_sequences": [[0.2, 0.2], [0.4, 0], [0.2, 0.4]]}

    folder = tmp_path / "continual_self_edits"
    write(folder / "overall_results.json", run(0.2, 0.4))
    for number, first in enumerate([(0.1, 0.3), (0.3, 0.5)]):
        write(folder / f"run{number}" / f"summary_{number}.json", run(*first))
    found = tables(tmp_path)
    summary = found["Continual self-edits: summary"]
    margin = 12.7062 * math.sqrt(0.02) / math.sqrt(2)  # Student's t of one degree of freedom; means 0.2 and 0.4
    assert line(summary, "before any edit") == ["30.00", f"30.0 [{30 - 100 * margin:.1f}, {30 + 100 * margin:.1f}]"]
    assert line(summary, "forgetting")[0] == "15.00"
    matrix = found["Continual self-edits: mean accuracy after each edit"]
    assert line(matrix, "1") == ["50.0 ± 20.0", ""] and line(matrix, "2") == ["20.0 ± 10.0", "40.0 ± 20.0"]
    deviations = found["Continual self-edits: standard deviations before any edit"]
    assert line(deviations, "mean of 2 runs', as published")[0] == "20.0"
    pooled = math.sqrt((2 * 3 * 0.2**2 + 2 * 4 * 0.1**2) / 7)
    assert line(deviations, "over all their sequences")[0] == f"{100 * pooled:.1f}"


def test_the_table_of_published_numbers_agrees_with_the_files_except_where_the_page_says_so():
    tables_, titles = published.TABLES, [table.title for table in published.TABLES]
    assert len(set(titles)) == len(titles)
    differ = set()
    for table in tables_:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        assert {label for pair in table.pairs for label in (pair.a, pair.b)} <= set(labels)
        for row in table.rows:
            if row.published is not None and abs(row.published - row.noted) > 0.051:
                differ.add((row.file.rsplit("/")[-1], row.published, row.noted))
    assert differ == {
        ("iter1.json", 43.7, 42.68),
        ("cpt_base.json", 32.7, 32.55),
        ("base_200.json", 32.7, 32.0),
        ("openai_prompt-rewrite.json", 54.4, 53.62),
    }
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert all(f"{there:g}" in page and f"{noted:g}" in page for _, there, noted in differ)


def test_the_page_has_the_tables_that_the_real_files_give(seal_data):
    page = PAGE.read_text(encoding="utf-8")
    found = tables(seal_data / "seal" / "knowledge")
    assert len(found) > 12
    for title, table in found.items():
        assert f"**{title}**\n\n{table}\n" in page, f"{PAGE.name} needs the table {title!r} anew"


def test_a_file_of_two_versions_is_an_error_that_names_both(repository):
    source = repository / "general-knowledge"
    shutil.copytree(source, repository / "knowledge-incorporation")
    with pytest.raises(UserError, match=r"general-knowledge/.*base.json and .*knowledge-incorporation/.*one version"):
        reproduction(repository)


def test_a_directory_without_files_is_an_error(tmp_path):
    with pytest.raises(UserError, match="has no .json files"):
        reproduction(tmp_path)
    with pytest.raises(UserError, match="is no directory"):
        reproduction(tmp_path / "nothing")


def test_the_command_takes_files_or_a_directory(repository, capsys):
    assert main(["analyze", "--reproduction", str(repository)]) == 0
    assert capsys.readouterr().out.startswith("**Single passage, Qwen2.5-7B**\n\n| ")
    assert main(["analyze", "a.json", "--reproduction", str(repository)]) == 2
    assert "either result files" in capsys.readouterr().err
