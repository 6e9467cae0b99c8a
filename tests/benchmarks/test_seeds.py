"""Several runs side by side: what their policies choose."""

import pytest

from benchmarks import seeds
from selfadapt.files import JsonlWriter, write_json
from selfadapt.report import data


@pytest.fixture
def run(tmp_path):
    def write(name, epochs):
        (tmp_path / name).mkdir()
        rows = [{"name": policy, "mean": 0.5} for policy in epochs]
        write_json(tmp_path / name / "summary.json", {"ladder": rows})
        with JsonlWriter(tmp_path / name / "edits.jsonl") as writer:
            for policy, values in epochs.items():
                for value in values:
                    edit = {"task": "t", "phase": "eval", "policy": policy, "text": "", "reward": 0.5}
                    writer.write(edit | {"kinds": {f"epochs: {value}": 1}})
        return data.read_run(tmp_path / name)

    return write


def test_the_shares_of_choices_are_means_over_runs(run):
    runs = [run("a", {"untrained": [1, 2, 2, 4], "round1": [4, 4]}), run("b", {"untrained": [1, 1], "round1": [4, 1]})]
    assert seeds.choices(runs).strip().splitlines() == [
        "| choice | value | untrained | round1 |",
        "| --- | --- | --- | --- |",
        "| epochs | 1 | 62% | 25% |",
        "| epochs | 2 | 25% | 0% |",
        "| epochs | 4 | 12% | 75% |",
    ]


def test_edits_that_are_no_choices_have_no_table(run):
    assert seeds.choices([run("a", {"untrained": []})]) == ""


def test_differences_are_taken_within_runs_and_then_over_base_models():
    def summary(model, **means):
        return {"model": model, "ladder": [{"name": name, "mean": mean} for name, mean in means.items()], "extras": []}

    runs = [summary("a", none=0.1, oracle=0.5), summary("a", none=0.2, oracle=0.8), summary("b", none=0.3, oracle=0.4)]
    by_run, by_model = seeds.over_runs([*runs, summary("b", none=0.9)], "oracle", "none")
    assert by_run == pytest.approx([0.4, 0.6, 0.1]) and by_model == pytest.approx([0.5, 0.1])
