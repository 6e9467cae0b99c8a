"""Several runs side by side: what their policies choose."""

import pytest

from benchmarks import seeds
from selfadapt.errors import UserError
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


def test_the_numbers_of_a_domain_are_means_over_the_runs_that_have_them():
    def summary(rule, table, more):
        details = {"reward, rule": rule, "reward, table": table, "edit": "text"}
        ladder = [{"name": "untrained", "details": details}, {"name": "none"}]
        return {"ladder": ladder, "extras": [{"name": "words only", "details": more}]}

    runs = [summary(0.5, 1.0, {"reward, rule": 1}), summary(0.25, 0.0, {})]
    assert seeds.numbers(runs).strip().splitlines() == [
        "| row | reward, rule | reward, table |",
        "| --- | --- | --- |",
        "| untrained | 0.375 | 0.500 |",
        "| words only | 1.000 | - |",
    ]
    assert seeds.numbers([{"ladder": [{"name": "none"}], "extras": []}]) == ""


def test_differences_are_taken_within_runs_and_then_over_base_models():
    def summary(model, **means):
        return {"model": model, "ladder": [{"name": name, "mean": mean} for name, mean in means.items()], "extras": []}

    runs = [summary("a", none=0.1, oracle=0.5), summary("a", none=0.2, oracle=0.8), summary("b", none=0.3, oracle=0.4)]
    by_run, by_model = seeds.over_runs([*runs, summary("b", none=0.9)], "oracle", "none")
    assert by_run == pytest.approx([0.4, 0.6, 0.1]) and by_model == pytest.approx([0.5, 0.1])


def summary(seed, model="tiny", **fields):
    return {"seed": seed, "model": model, "seconds": 60.0, "paired": []} | fields


def value(mean):
    return {"mean": mean, "stderr": 0.01}


def evolution(seed, honest, best, model="tiny"):
    rows = [
        {"name": name, "answers": 9.0, "honest": value(mean), "best": value(best)}
        for name, mean in zip(("none", "trained_tree"), honest, strict=True)
    ]
    pair = {"a": "trained_tree", "b": "none", "low": -0.1, "high": 0.9}
    paired = [pair | {"measure": measure, "difference": at} for measure, at in (("honest", 0.5), ("best", 0.7))]
    return summary(seed, model, protocol="evolve", evolution=rows, paired=paired)


def test_one_measure_of_a_protocol_is_shown(tmp_path, capsys):
    paths = []
    for seed, gain in enumerate((0.5, 0.7)):
        paths.append(tmp_path / f"run{seed}")
        paths[-1].mkdir()
        write_json(paths[-1] / "summary.json", evolution(seed, (0.1, 0.1 + gain), best=0.9))
    seeds.main(["--measure=honest", *map(str, paths)])
    shown = capsys.readouterr().out
    assert "| 0 | 1 | 0.100 ± 0.010 | 0.800 ± 0.010 | 60 |" in shown and "0.900 ±" not in shown
    assert "+0.500 [-0.100, +0.900]" in shown and "+0.700 [" not in shown  # that of the best
    assert "| trained_tree - none | +0.600 [-0.671, +1.871], n = 2 | - |" in shown  # t = 12.7 at one degree of freedom


def test_continual_runs_have_measures_and_pretraining_has_sizes():
    streams = summary(1, protocol="continual", retention=[{"name": "policy", "measures": {"forgetting": value(0.2)}}])
    assert seeds.rows(streams, "forgetting") == {"policy": value(0.2)}
    sizes = [{"size": 1, "accuracy": value(0.6)}, {"size": 64, "accuracy": value(0.3)}]
    learned = summary(1, pretraining=[{"name": "policy", "sizes": sizes}])
    assert seeds.rows(learned, None) == {"policy, n = 1": value(0.6), "policy, n = 64": value(0.3)}


@pytest.mark.parametrize("measure", ["mean", None])
def test_a_measure_that_a_protocol_lacks_is_named(measure):
    with pytest.raises(UserError, match=f"--measure={measure}: .* have honest, best"):
        seeds.rows(evolution(0, (0.1, 0.2), 0.5), measure)


def test_a_measure_of_a_ladder_is_refused():
    with pytest.raises(UserError, match="leave it out"):
        seeds.rows({"ladder": [], "extras": []}, "honest")


def test_runs_are_compared_with_others_of_the_same_seed_and_model():
    ours = [evolution(0, (0.0, 0.6), 1.0), evolution(1, (0.0, 0.8), 1.0)]
    others = [evolution(1, (0.0, 0.5), 1.0), evolution(0, (0.0, 0.2), 1.0), evolution(0, (0.0, 0.9), 1.0, "other")]
    # gains of .4 and .3; paired the other way round they would be .1 and .6, which have another interval
    table = seeds.against_table(ours, others, "honest").splitlines()
    assert table[-1] == "| trained_tree | +0.350 [-0.285, +0.985], n = 2 |"
    with pytest.raises(UserError, match="no run with seed 2 of tiny"):
        seeds.against_table([evolution(2, (0.0, 0.6), 1.0)], others, "honest")


def test_differences_of_further_rows_can_be_asked_for():
    runs = [evolution(0, (0.3, 0.6), 1.0), evolution(1, (0.1, 0.8), 1.0)]
    table = seeds.differences_table(runs, "honest", [("none", "trained_tree")]).splitlines()
    assert table[-1].startswith("| none - trained_tree | -0.500 [")
