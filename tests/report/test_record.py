"""What is recorded about an edit."""

import math
import types

import numpy as np
import pytest

from selfadapt import ContextEdit, ContextUpdate, Edit, Outcome, Task, TokenSequence, Update, loop
from selfadapt.outer import Report
from selfadapt.report.record import Record, Recorder, training_texts
from selfadapt.types import Rejected


@pytest.mark.parametrize(
    ("what", "texts"),
    [
        (Update(["a b", ("prompt ", "target"), TokenSequence((1, 2, 3)), ((1, 2), (0, 1))]),
         ["a b", "prompt target", "3 tokens", "2 tokens"]),
        (ContextEdit("memo"), ["memo"]),
        (ContextUpdate(["a", ("b ", "c")], context="memo"), ["memo", "a", "b c"]),
        (Rejected("no edit"), []),
    ],
)  # fmt: skip
def test_training_sequences_are_recorded_as_texts(what, texts):
    assert training_texts(what) == texts


def test_sequences_beyond_the_most_characters_are_counted():
    update = Update([("x" * 10, "y" * 10)] * 8)
    assert training_texts(update, most=45) == ["x" * 10 + "y" * 10] * 3 + ["(5 more)"]
    assert len(training_texts(update, most=160)) == 8


class Writer:
    """Keeps what is written."""

    def __init__(self):
        self.edits, self.events = [], []

    def edit(self, record):
        self.edits.append(record)

    def event(self, name, **fields):
        self.events.append((name, fields))


def recorded_round(outcomes):
    """Returns the numbers of a round and the lines of its edits."""
    tasks = [Task(f"t{number}", "", ()) for number in range(3)]
    writer, record = Writer(), Record()
    recorder = Recorder(record, writer, types.SimpleNamespace(describe=lambda task, text: {}))
    pairs = [(outcome.edit, Rejected("")) for outcome in outcomes]
    baselines = {task.id: 0.0 for task in tasks}
    done = loop.Round(baselines, pairs, outcomes, Report(), inner_updates=7)
    recorder.round(1, "untrained", tasks, done, 1)
    return record.rounds[0], writer.edits


def rated(task, sample, proxy, verdicts=()):
    ratings = (5, 5, 5, 5) if proxy else ()
    return Outcome(Edit(f"t{task}", sample, "", ""), 0.5, verdicts=verdicts, ratings=ratings, proxy=proxy)


def test_ratings_are_compared_with_the_verdicts_over_all_edits_and_within_tasks():
    rewards = [
        [(0.1, 0.0), (0.2, 0.5), (0.3, 1.0)],  # in the same order
        [(0.4, 0.5), (0.9, 0.25), (0.5, 0.375)],  # in the opposite one
        [(0.7, 0.5), (0.7, 1.0), (0.7, 0.0)],  # rated alike: no order within the task
    ]
    outcomes = [
        rated(task, sample, proxy, (inner, inner))
        for task, pairs in enumerate(rewards)
        for sample, (proxy, inner) in enumerate(pairs)
    ]
    numbers, edits = recorded_round(outcomes)
    pairs = [pair for each in rewards for pair in each]
    assert numbers["proxy_mean"] == pytest.approx(np.mean([proxy for proxy, _ in pairs]))
    assert numbers["inner_mean"] == pytest.approx(np.mean([inner for _, inner in pairs]))

    def ranks(values):  # equal values share their mean rank
        return [np.mean([place for place, other in enumerate(sorted(values)) if other == value]) for value in values]

    wanted = np.corrcoef(*map(ranks, zip(*pairs, strict=True)))[0, 1]
    assert numbers["rank_correlation"] == pytest.approx(wanted)
    assert numbers["rank_correlation_within"] == pytest.approx(0.0)  # the mean of 1 and -1
    assert (edits[0]["proxy"], edits[0]["ratings"]) == (0.1, [5, 5, 5, 5])


def test_without_verdicts_ratings_are_compared_with_nothing_and_without_ratings_nothing_is_added():
    numbers, _ = recorded_round([rated(0, 0, 0.5), rated(0, 1, 1.0)])
    assert numbers["proxy_mean"] == 0.75 and "rank_correlation" not in numbers and "inner_mean" not in numbers
    numbers, edits = recorded_round([rated(0, 0, None, (1.0,))])
    assert "proxy_mean" not in numbers and not {"proxy", "ratings"} & set(edits[0])


def test_a_constant_rating_has_no_rank_correlation():
    numbers, _ = recorded_round([rated(0, sample, 0.5, (float(sample),)) for sample in range(3)])
    assert math.isnan(numbers["rank_correlation"]) and math.isnan(numbers["rank_correlation_within"])


def test_an_edits_runs_and_a_rounds_inner_updates_are_recorded():
    kept = Outcome(Edit("t0", 0, "", ""), 0.75, runs=(0.5, 1.0))
    out = Outcome(Edit("t0", 1, "", ""), 0.5, runs=(0.5,), eliminated=True)
    numbers, edits = recorded_round([kept, out])
    assert numbers["inner_updates"] == 7
    assert [(edit["runs"], edit["eliminated"]) for edit in edits] == [([0.5, 1.0], False), ([0.5], True)]
