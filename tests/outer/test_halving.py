"""Successive halving, against a table of runs that is gone through by hand."""

import dataclasses
import random
import statistics

import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.outer.halving import check, halve
from selfadapt.types import Edit, Outcome


def measured(edit, runs, status="ok"):
    verdicts = tuple(verdict for run in runs for verdict in run)
    means = tuple(statistics.fmean(run) for run in runs)
    return Outcome(edit, statistics.fmean(verdicts), ("x",) * len(verdicts), verdicts, status, runs=means)


def halved(table, first, stages, status=None):
    """Halves edits whose runs are in a table, by (task, sample); returns the outcomes and what was measured."""
    calls, done = [], first

    def measure(stage, left):
        nonlocal done
        calls.append([(outcome.edit.task_id, outcome.edit.sample) for outcome in left])
        span, done = slice(done, done + stages[stage]), done + stages[stage]
        return [measured(each.edit, table[each.edit.task_id, each.edit.sample][span], *(status or ())) for each in left]

    outcomes = [measured(Edit(*key, "", "text"), runs[:first]) for key, runs in table.items()]
    return halve(outcomes, len(stages), measure), calls


def by_hand(table, first, stages):
    """The runs of each edit and the survivors, task by task."""
    runs = {key: first for key in table}
    left = list(table)
    for stage in stages:
        kept = []
        for task in dict.fromkeys(task for task, _ in left):
            own = [key for key in left if key[0] == task]
            mean = {key: statistics.fmean(v for run in table[key][: runs[key]] for v in run) for key in own}
            kept += sorted(own, key=lambda key: (-mean[key], key[1]))[: -(-len(own) // 2)]
        left = kept
        for key in left:
            runs[key] += stage
    return runs, set(left)


@pytest.mark.parametrize("seed", range(4))
def test_stages_measure_the_better_half_further_as_by_hand(seed):
    source, first, stages = random.Random(seed), 1 + seed % 2, (1, 3, 2)
    sizes = {"a": 5, "b": 6, "c": 8}
    table = {
        (task, sample): [[source.random() < 0.5 for _ in range(3)] for _ in range(first + sum(stages))]
        for task, size in sizes.items()
        for sample in range(size)
    }
    outcomes, calls = halved(table, first, stages)
    runs, kept = by_hand(table, first, stages)
    assert [(outcome.edit.task_id, outcome.edit.sample) for outcome in outcomes] == list(table)
    for outcome in outcomes:
        key = outcome.edit.task_id, outcome.edit.sample
        own = table[key][: runs[key]]
        assert outcome.runs == tuple(statistics.fmean(run) for run in own)
        assert outcome.verdicts == tuple(verdict for run in own for verdict in run)
        assert len(outcome.answers) == len(outcome.verdicts)
        assert outcome.reward == pytest.approx(statistics.fmean(outcome.verdicts))
        assert outcome.eliminated == (key not in kept)
    assert [len(call) for call in calls] == [3 + 3 + 4, 2 + 2 + 2, 1 + 1 + 1]


def test_an_edit_that_fails_later_has_that_status_and_gets_no_further_runs():
    table = {("a", sample): [[sample / 3]] * 3 for sample in range(3)}
    outcomes, calls = halved(table, 1, (1, 1), status=("diverged",))
    assert calls == [[("a", 2), ("a", 1)]]
    assert [outcome.status for outcome in outcomes] == ["ok", "diverged", "diverged"]
    assert all(len(outcome.runs) <= 2 for outcome in outcomes) and all(outcome.eliminated for outcome in outcomes)


def test_without_stages_outcomes_are_as_they_were():
    outcomes = [measured(Edit("a", sample, "", "text"), [[1.0]]) for sample in range(3)]
    assert halve(outcomes, 0, lambda stage, left: pytest.fail("measured")) == outcomes
    assert not any(dataclasses.replace(outcome).eliminated for outcome in outcomes)


@pytest.mark.parametrize(("edits", "most"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
def test_there_are_as_many_stages_as_edits_can_be_halved(edits, most):
    check((1,) * most, edits)
    with pytest.raises(InvalidValueError, match=rf"has {most + 1} stages, and {edits} edits.* halved {most} times"):
        check((1,) * (most + 1), edits)


@pytest.mark.parametrize("stages", [(0,), (2, -1), (1.5,), ("2",)])
def test_a_stage_without_runs_is_refused(stages):
    with pytest.raises(InvalidValueError, match=r"config\.halving is .*at least 1 inner run"):
        check(stages, 5)
