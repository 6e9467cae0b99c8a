"""SEAL's files of continued pretraining, against the published one."""

import json

import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.seal.pretraining import full_results, lora_results
from selfadapt.seal.results import disagreements, read_results, recompute, write_results

FIELDS = {"timestamp": "0514_205027", "dataset": "d.json", "n_articles": 3, "k_completions": 5, "train_sequences": 30}
LOG = [
    {
        "title": title,
        "baseline_answer": f"before {n}",
        "adapter_answer": f"after {n}",
        "baseline_correct": before,
        "adapter_correct": after,
    }
    for n, (title, before, after) in enumerate(
        [("A", True, True), ("A", False, True), ("B", True, False), ("A", False, True)]
    )
]


def published(seal_data):
    return json.loads((seal_data / "seal/knowledge/cpt_base.json").read_text())


def test_a_lora_file_has_the_published_fields_and_is_read_back(seal_data, tmp_path):
    theirs = published(seal_data)
    content = lora_results(LOG, split_newlines=False, lora_params=theirs["lora_params"], **FIELDS)
    assert list(content) == list(theirs) and list(content["server_reply"]) == list(theirs["server_reply"])
    assert content["overall"] == {"baseline_accuracy": 0.5, "adapter_accuracy": 0.75, "gain": 0.25}
    assert content["server_reply"]["gains"] == [0, 1, -1, 1]
    assert content["per_article"]["A"] == {"baseline_correct": [True, False, False], "adapter_correct": [True] * 3}
    write_results(tmp_path / "cpt.json", content)
    read = read_results(tmp_path / "cpt.json")
    assert read.kind == "cpt" and recompute(read) == content["overall"] and disagreements(read) == []


def test_the_published_answers_make_the_published_numbers(seal_data):
    theirs = published(seal_data)
    reply = theirs["server_reply"]
    columns = ("baseline_texts", "adapter_texts", "baseline_correct", "adapter_correct")
    names = ("baseline_answer", "adapter_answer", "baseline_correct", "adapter_correct")
    rows = zip(*(reply[column] for column in columns), strict=True)
    log = [{"title": "?"} | dict(zip(names, row, strict=True)) for row in rows]
    ours = lora_results(log, split_newlines=False, lora_params={}, **FIELDS)
    assert ours["overall"] == theirs["overall"] and ours["server_reply"] == reply
    assert ours["eval_questions"] == theirs["eval_questions"]


def test_a_full_finetunings_file_is_read_back(tmp_path):
    content = full_results(LOG, model="m", args={"lr": 7e-5}, **FIELDS)
    write_results(tmp_path / "full.json", content)
    read = read_results(tmp_path / "full.json")
    assert read.kind == "cpt-full" and recompute(read) == content["metrics"] and disagreements(read) == []
    assert read.content["per_question"]["adapter_texts"] == ["after 0", "after 1", "after 2", "after 3"]
    with pytest.raises(InvalidValueError, match="no questions"):
        full_results([], model="m", args={}, **FIELDS)
