"""Reward noise: its tables on verdicts with known variances, the strategies by hand, and a very small run."""

import json

import numpy as np
import pytest

from benchmarks import reward_noise
from benchmarks.outer_updates import Comparison
from benchmarks.run_budgets import Measured, Strategy, choices_table
from selfadapt import Edit, Outcome, Task, Update, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.errors import InvalidEdit, InvalidValueError, UserError
from selfadapt.models.policy import Policy, State
from selfadapt.types import Rejected
from tests.worlds import random_world_model


def cells(text):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]


def verdicts(tasks, edits, runs, questions, edit=0.0, run=0.0, edit_run=0.0, edit_question=0.0, rest=0.0):
    """Normal verdicts with the given standard deviations."""
    draw = np.random.default_rng(0).standard_normal
    shape = (tasks, edits, runs, questions)
    return (
        edit * draw((tasks, edits, 1, 1))
        + run * draw((tasks, 1, runs, 1))
        + edit_run * draw((tasks, edits, runs, 1))
        + edit_question * draw((tasks, edits, 1, questions))
        + rest * draw(shape)
    )


def measured(values, baseline=-9.0):
    tasks, edits, runs, questions = values.shape
    return Measured(values, np.ones((tasks, edits), bool), np.full((tasks, runs, questions), baseline), 0)


@pytest.mark.parametrize(
    ("text", "strategy", "fields"),
    [
        ("mean:3", Strategy("mean:3", 3), ("3", "()", "0.0")),
        ("lcb:4", Strategy("lcb:4", 4, (), 1.0), ("4", "()", "1.0")),
        ("lcb:2:0.5", Strategy("lcb:2:0.5", 2, (), 0.5), ("2", "()", "0.5")),
        ("halving:1,3", Strategy("halving:1,3", 1, (3,)), ("1", "(3,)", "0.0")),
        ("halving:2,3,2", Strategy("halving:2,3,2", 2, (3, 2)), ("2", "(3,2,)", "0.0")),
    ],
)
def test_a_strategy_is_read_and_makes_fields_of_a_config(text, strategy, fields):
    assert Strategy.read(text) == strategy
    assert tuple(strategy.fields()[name] for name in ("inner_runs", "halving", "outer.rest_em.z")) == fields
    config = resolve(load_config("quickstart", strategy.fields()))
    assert (config.inner_runs, tuple(config.halving)) == (strategy.runs, strategy.stages)
    assert config.outer.rest_em.z == strategy.z


@pytest.mark.parametrize("text", ["best:3", "mean", "mean:0", "lcb:1", "lcb:3:x", "halving:", "halving:1,0"])
def test_what_is_no_strategy_is_refused(text):
    with pytest.raises(UserError, match=f"'{text}' is no strategy"):
        Strategy.read(text)


def test_strategies_choose_from_the_runs_that_they_see_as_by_hand():
    runs = [
        [0.9, 0.0, 0.0, 0.0, 0.0],  # the best single run
        [0.5, 0.5, 0.4, 0.6, 0.5],  # the surest
        [0.6, 0.9, 0.0, 0.9, 0.9],  # the best mean of four
        [0.7, 0.2, 0.2, 0.2, 0.2],
        [0.8, 0.0, 0.0, 0.1, 0.0],
    ]
    values = np.array(runs)[..., None]
    everyone = [True] * 5

    def chosen(text, able=everyone):
        outcome, updates = Strategy.read(text).choose(values, able)
        return outcome.edit.sample, round(outcome.reward, 6), updates

    assert chosen("mean:1") == (0, 0.9, 5)
    assert chosen("mean:4") == (2, 0.6, 20)
    assert chosen("lcb:4") == (1, 0.5, 20)  # .6 less .21 is below .5 less .04
    assert chosen("mean:1", [False, True, True, True, True]) == (4, 0.8, 5)
    # Left after one run: edits 0, 4 and 3; after one more of each 0 and 3 (.45 twice), of which 3 wins.
    assert chosen("halving:1,1,2") == (3, 0.325, 5 + 3 + 4)


def test_known_variances_make_the_tables():
    sizes = {"tasks": 1500, "edits": 4, "runs": 4, "questions": 5}
    parts = {"edit": 0.6, "run": 0.5, "edit_run": 0.4, "edit_question": 1.0, "rest": 1.2}
    components, _, reliability = reward_noise.variance_tables(verdicts(**sizes, **parts)).partition("\n\n")
    found = {row[0]: row[1:] for row in cells(components)[2:]}
    wanted = {"edit": 0.36, "run": 0.25, "question": 0, "edit x run": 0.16, "edit x question": 1, "rest": 1.44}
    for effect, variance in wanted.items():
        value, interval = found[effect][0].split(" ", 1)
        assert float(value) == pytest.approx(variance, abs=0.05)
        low, high = json.loads(interval)
        assert low - 0.02 <= variance <= high + 0.02
    assert float(found["edit x question"][1].split()[0]) == pytest.approx(0.2, abs=0.02)  # in a mean over questions
    assert [found[effect][2] for effect in ("edit", "run", "rest")] == ["true, on these questions", "cancels", "noise"]
    rows = {row[0]: [float(cell.split()[0]) for cell in row[1:]] for row in cells(reliability)[2:]}
    for runs in reward_noise.RUNS:
        noise, shared = (0.16 + 1.44 / 5) / runs, 0.25 / runs
        truth = [0.56 / (0.56 + noise), 0.56 / (0.56 + noise + shared), 0.36 / (0.56 + noise)]
        assert rows[f"{runs} runs"] == pytest.approx(truth, abs=0.04)


def test_the_true_reward_of_choices_is_that_of_runs_which_they_did_not_see():
    noise = cells(choices_table(measured(verdicts(150, 5, 8, 2, rest=1.0)), [Strategy.read("mean:2")], draws=10))
    reward, gain = float(noise[3][2]), float(noise[3][4].split()[0])
    assert reward > 0.4 and abs(gain) < 0.1  # the best of five looks better than it is: nothing is true here
    some = verdicts(150, 5, 12, 2, edit=0.5, edit_run=1.0)
    rows = cells(choices_table(measured(some), [Strategy.read(text) for text in ("mean:1", "mean:3")], draws=10))
    assert [row[:2] for row in rows[2:]] == [["a random edit", "0.0"], ["mean:1", "5.0"], ["mean:3", "15.0"]]
    # The best of five is 1.163 standard deviations above the mean, and a part of it is true.
    for row, runs in zip(rows[3:], (1, 3), strict=True):
        assert float(row[4].split()[0]) == pytest.approx(1.163 * 0.25 / (0.25 + 1 / runs) ** 0.5, abs=0.1)
        assert row[-1] == "0.0%"
    assert rows[3][5].startswith("+0.000 [+0.000")
    above = cells(choices_table(measured(some, baseline=9.0), [Strategy.read("mean:1")], draws=2))
    assert [row[-1] for row in above[2:]] == ["100.0%", "100.0%"]


def test_a_strategy_must_leave_runs_to_measure_its_choice():
    values = measured(verdicts(3, 5, 4, 2, rest=1.0))
    with pytest.raises(UserError, match="halving:1,2,1 can use 4 of the 4 runs"):
        choices_table(values, [Strategy.read("halving:1,2,1")])
    with pytest.raises(UserError, match="5 edits of a task can be halved 3 times"):
        choices_table(values, [Strategy.read("halving:1,1,1,1,1")])


def test_tasks_that_lack_verdicts_are_left_out():
    whole = {"edits": [[[0, 1]] * 3] * 2, "baseline": [[1, 0]] * 3, "able": [True, False]}
    rejected = {**whole, "edits": [[[0, 1]] * 3, [[0, 1]]]}
    other = {**whole, "edits": [[[0]] * 3] * 2, "baseline": [[1]] * 3}
    unchanged = {**whole, "baseline": [[1, 0]]}  # a baseline that trains nothing has one run
    nothing = {**whole, "able": [False, False]}
    found = Measured.of([whole, rejected, other, unchanged, nothing])
    assert found.edits.shape == (2, 2, 3, 2) and found.left_out == 3
    assert found.baselines.tolist() == [[[1, 0]] * 3] * 2 and found.able.tolist() == [[True, False]] * 2
    with pytest.raises(UserError, match="run `measure` first"):
        Measured.of([rejected])


CONFIG = {"seed": "3", "contexts": "5", "edits": "2", "at_once": "6"}


class OneOfTwo:
    """A domain in which the second edit of task t1 cannot be applied."""

    def tasks(self, split, count, round=0):
        return [Task(f"t{number}", "", ()) for number in range(count)]

    def apply(self, task, text):
        if text == "t1 1":
            raise InvalidEdit("no edit")
        return Update([text])

    def baseline(self, task):
        return Update(["alone"])


@pytest.fixture
def measuring(monkeypatch):
    """Replaces model and engine: an edit's text is its task and number, and its verdicts are its number and the run."""
    calls = []

    def sample(policy, domain, tasks, settings):
        assert settings.inner_runs == 1
        return [Edit(task.id, i, "", f"{task.id} {i}") for task in tasks for i in range(settings.edits)]

    def score(student, domain, tasks, pairs, settings):
        calls.append(([task.id for task in tasks], settings.inner_runs, settings.at_once))
        outcomes = []
        for edit, what in pairs:
            runs = 1 if isinstance(what, Rejected) else settings.inner_runs
            each = [(float(edit.sample), float(run)) for run in range(runs)]
            flat, status = tuple(v for run in each for v in run), "no edit" if isinstance(what, Rejected) else "ok"
            outcomes.append(Outcome(edit, 0.0, verdicts=flat, status=status, runs=(0.0,) * runs))
        return outcomes

    policy = Policy("model")
    monkeypatch.setattr(loop, "sample", sample)
    monkeypatch.setattr(loop, "score", score)
    monkeypatch.setattr(Comparison, "of", lambda config: Comparison(config, OneOfTwo(), State(policy, policy), ()))
    return calls


def test_measuring_records_each_run_of_every_edit_and_continues_its_file(measuring, tmp_path):
    file = tmp_path / "noise.jsonl"
    arguments = ["measure", str(file), "--runs=3", *(f"--set={name}={value}" for name, value in CONFIG.items())]
    reward_noise.main([*arguments, "--seeds=3"])
    assert measuring == [(["t0", "t1"], 3, 2), (["t2", "t3"], 3, 2), (["t4"], 3, 2)]
    lines = file.read_text().splitlines(keepends=True)
    first, second = json.loads(lines[0]), json.loads(lines[1])
    runs = [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]
    assert (first["seed"], first["task"], first["able"]) == (3, "t0", [True, True])
    assert first["edits"] == [runs, [[1.0, run] for _, run in runs]]
    assert first["baseline"] == [[-1.0, run] for _, run in runs]
    assert second["able"] == [True, False] and second["edits"][1] == [[1.0, 0.0]]
    measuring.clear()
    file.write_text("".join(lines[:2] + lines[4:]))
    reward_noise.main([*arguments, "--seeds=3,4"])
    assert [tasks for tasks, *_ in measuring] == [["t2", "t3"], ["t0", "t1"], ["t2", "t3"], ["t4"]]
    assert file.read_text().splitlines(keepends=True)[3:5] == lines[2:4]


def test_each_strategy_trains_with_its_fields_and_is_evaluated_as_the_others(monkeypatch, tmp_path, capsys):
    trained = []

    class Fake(Comparison):
        def first_round(self):
            return self.config.inner_runs, tuple(self.config.halving)

        def run(self, outer, first):
            trained.append((*first, outer.select.z, outer.merge))
            if outer.select.z == 2.0:
                raise InvalidValueError("diverged")
            return "trained", [{"reward": 0.5, "invalid": 0.0, "inner_updates": 10 * self.config.inner_runs}] * 2

        def rewards(self, state, temperature):
            assert (self.config.inner_runs, self.config.seed, temperature) == (1, 3, 1.0)
            return [0.75 if state == "trained" else 0.25] * 2

    monkeypatch.setattr(Comparison, "of", lambda config: Fake(config, None, "start", ()))
    file = tmp_path / "train.jsonl"
    reward_noise.main(["train", str(file), "--seeds=3", "mean:2"])
    reward_noise.main(["train", str(file), "--seeds=3", "mean:2", "lcb:3:2", "halving:1,2"])
    reward_noise.main(["train", str(file), "--seeds=3", "mean:2"])
    assert trained == [(2, (), 0.0, False), (3, (), 2.0, False), (1, (2,), 0.0, False)]
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["variant"] for record in records] == ["untrained", "mean:2", "lcb:3:2", "halving:1,2"]
    assert records[2]["failed"] == "diverged" and "heldout" not in records[2]
    capsys.readouterr()
    reward_noise.main(["table", str(file)])
    shown = capsys.readouterr().out
    assert "| mean:2 | 1 | 0.750 | +0.500 | - | 0.750 | 0 |" in shown
    assert "| mean:2 | 40 |\n| halving:1,2 | 20 |" in shown


@pytest.mark.slow
def test_strategies_are_measured_and_trained_with_a_model(tmp_path, capsys):
    measured_file, trained_file = tmp_path / "noise.jsonl", tmp_path / "train.jsonl"
    small = [
        "preset=tiny",
        f"model={random_world_model(tmp_path / 'model')}",
        "inner.epochs=1",
        "domain.split=document",
    ]
    small += [
        "domain.max_segments=1",
        "sampling.max_new_tokens=16",
        "outer.rest_em.select=best",
        "outer.rest_em.epochs=1",
    ]
    small += ["contexts=2", "edits=2", "evaluation.contexts=2", "rounds=1"]
    arguments = [f"--set={field}" for field in small]
    reward_noise.main(["measure", str(measured_file), "--runs=3", *arguments])
    capsys.readouterr()
    reward_noise.main(["choose", str(measured_file), "mean:1", "halving:1,1"])
    out = capsys.readouterr().out
    assert out.startswith("2 tasks, 0 left out") and "| halving:1,1 | 3.0 |" in out
    reward_noise.main(["train", str(trained_file), *arguments, "halving:1,1"])
    untrained, record = (json.loads(line) for line in trained_file.read_text().splitlines())
    assert len(untrained["heldout"]) == len(record["heldout"]) == 2
    assert [round["inner_updates"] for round in record["rounds"]] == [2 * (2 + 1 + 2)]
