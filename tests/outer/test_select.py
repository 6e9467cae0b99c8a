"""Selection for ReST-EM, against SEAL's saved selection."""

import dataclasses
import json
import math
import statistics

import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.outer.select import (
    METHODS,
    Selection,
    best_of,
    better_half,
    improvement,
    lower_bound,
    solved,
    top_fraction,
)
from selfadapt.types import Edit, Outcome


def outcome(task, sample, reward, text="text", status="ok", version=0):
    edit = Edit(task, sample, "prompt", text, policy_version=version)
    return Outcome(edit, reward, status=status, policy_version=version)


def picked(outcomes):
    return [(chosen.edit.task_id, chosen.edit.sample) for chosen in outcomes]


def test_seals_saved_selection_is_reproduced(seal_data):
    ranked = json.loads((seal_data / "seal/knowledge/rank_iter1.json").read_text())["articles"]
    saved = [json.loads(line) for line in (seal_data / "seal/knowledge/sft_best1of5_iter1.jsonl").open()]
    outcomes = [
        Outcome(Edit(article["context"], i, article["prompt"], edit["text"]), edit["stats"]["adapter_mean"])
        for article in ranked
        for i, edit in enumerate(article["completions"])
    ]
    chosen = [{"prompt": o.edit.prompt, "completion": o.edit.text} for o in best_of(outcomes)]
    assert chosen == saved and len(saved) == 50


def test_ties_go_to_the_first_edit_in_whatever_order_outcomes_arrive():
    assert picked(best_of([outcome("a", 2, 0.5), outcome("a", 1, 0.5), outcome("a", 0, 0.4)])) == [("a", 1)]


def test_empty_and_invalid_edits_are_never_selected():
    outcomes = [
        outcome("a", 0, 0.9, text=" \n"),
        outcome("a", 1, 0.9, status="the learning rate is nan"),
        outcome("a", 2, math.nan),
        outcome("a", 3, 0.1),
        outcome("b", 0, 0.9, text=""),
    ]
    assert picked(best_of(outcomes)) == [("a", 3)]
    assert picked(improvement(outcomes, {"a": 0.0})) == [("a", 3)]
    assert picked(top_fraction(outcomes, 1.0)) == [("a", 3)]


def test_where_tasks_are_solved_or_not_every_edit_of_reward_one_is_selected():
    outcomes = [outcome("a", i, reward) for i, reward in enumerate([1.0, 0.0, 1.0])]
    outcomes += [outcome("b", 0, 1.0, status="not JSON"), outcome("b", 1, 0.999), outcome("c", 0, 1.0)]
    assert picked(solved(outcomes)) == [("a", 0), ("a", 2), ("c", 0)]
    assert picked(Selection("solved")(outcomes, {"a": 1.0})) == picked(solved(outcomes))
    assert Selection("solved").most(3, 5) == 15


def test_several_of_a_task_come_best_first():
    outcomes = [outcome("a", i, r) for i, r in enumerate([0.1, 0.9, 0.5])] + [outcome("b", 0, 0.2)]
    assert picked(best_of(outcomes, k=2)) == [("a", 1), ("a", 2), ("b", 0)]


def test_an_improvement_is_more_than_the_margin_over_its_own_baseline():
    outcomes = [outcome("a", 0, 0.5), outcome("a", 1, 0.7), outcome("b", 0, 0.7)]
    assert picked(improvement(outcomes, {"a": 0.5, "b": 0.9})) == [("a", 1)]
    assert picked(improvement(outcomes, {"a": 0.1, "b": 0.1}, margin=0.5)) == [("a", 1), ("b", 0)]
    with pytest.raises(ValueError, match=r"no baseline.*'b'"):
        improvement(outcomes, {"a": 0.5})


def test_the_top_fraction_is_rounded_up_and_ties_go_to_the_first():
    outcomes = [outcome(f"t{i}", 0, r) for i, r in enumerate([0.2, 0.9, 0.9, 0.9, 0.1])]
    assert picked(top_fraction(outcomes, 0.4)) == [("t1", 0), ("t2", 0)]
    assert len(top_fraction(outcomes, 0.41)) == 3
    assert len(top_fraction([outcome(str(i), 0, 0.0) for i in range(250)], 0.2)) == 50
    for fraction in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction"):
            top_fraction(outcomes, fraction)


@pytest.mark.parametrize("select", [best_of, lambda o: improvement(o, {"a": 0.0}), lambda o: top_fraction(o, 0.5)])
def test_rewards_of_different_policies_are_never_ranked_together(select):
    with pytest.raises(ValueError, match="mix policy versions"):
        select([outcome("a", 0, 0.5, version=0), outcome("a", 1, 0.5, version=1)])
    stale = Outcome(Edit("a", 1, "", "text", policy_version=0), 0.5, policy_version=1)
    with pytest.raises(ValueError, match="written by 0 and scored with 1"):
        select([outcome("a", 0, 0.5, version=1), stale])


def of_runs(task, sample, *runs, **fields):
    """An outcome whose reward is the mean of its inner runs."""
    return dataclasses.replace(outcome(task, sample, statistics.fmean(runs)), runs=runs, **fields)


def test_a_lower_confidence_bound_prefers_the_surer_edit_and_returns_outcomes_as_they_are():
    sure, lucky = of_runs("a", 0, 0.5, 0.5, 0.6, 0.6), of_runs("a", 1, 0.1, 0.9, 0.9, 0.9)
    # Standard errors: .1 / sqrt(12) = .0289 of a mean of .55, and .4 / 2 = .2 of a mean of .7.
    assert lower_bound(sure, 1.0) == pytest.approx(0.55 - 0.1 / math.sqrt(12))
    assert lower_bound(lucky, 2.0) == pytest.approx(0.7 - 0.4)
    outcomes = [sure, lucky]
    assert Selection("best")(outcomes, {}) == [lucky] == Selection("best", z=0.8)(outcomes, {})
    assert Selection("best", z=1.0)(outcomes, {}) == [sure]
    assert Selection("best", k=2, z=1.0)(outcomes, {}) == [sure, lucky]


def test_an_improvement_has_to_be_sure_where_bounds_are_used():
    outcomes = [of_runs("a", 0, 0.4, 0.8), of_runs("a", 1, 0.55, 0.57), of_runs("b", 0, 0.2, 1.0)]
    baselines = {"a": 0.5, "b": 0.5}
    assert picked(Selection("best_improving")(outcomes, baselines)) == [("a", 0), ("b", 0)]
    assert picked(Selection("best_improving", z=1.0)(outcomes, baselines)) == [("a", 1)]
    assert picked(Selection("improvement", z=0.1)(outcomes, baselines)) == [("a", 0), ("a", 1), ("b", 0)]


def test_a_bound_takes_a_single_run_as_exact_and_needs_a_run_of_every_edit_that_can_be_selected():
    failed = outcome("a", 1, 0.9, status="no edit")
    assert picked(Selection(z=1.0)([of_runs("a", 0, 0.4, 0.8), failed], {})) == [("a", 0)]
    assert picked(Selection(z=1.0)([of_runs("a", 0, 0.4, 0.8), of_runs("a", 2, 0.5)], {})) == [("a", 2)]
    with pytest.raises(InvalidValueError, match=r"edit 2 of a has no inner runs"):
        Selection(z=1.0)([of_runs("a", 0, 0.4, 0.8), outcome("a", 2, 0.9)], {})
    for z in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidValueError, match=r"config\.outer\.rest_em\.z"):
            Selection(z=z)


def test_the_better_half_is_rounded_up_and_counts_only_what_can_be_selected():
    outcomes = [outcome("a", i, reward) for i, reward in enumerate([0.1, 0.9, 0.5, 0.5, 0.2])]
    assert picked(better_half(outcomes)) == [("a", 1), ("a", 2), ("a", 3)]
    outcomes += [outcome("b", 0, 0.9, status="diverged"), outcome("b", 1, 0.3), outcome("b", 2, 0.4)]
    assert picked(better_half(outcomes)) == [("a", 1), ("a", 2), ("a", 3), ("b", 2)]


@pytest.mark.parametrize("method", METHODS)
def test_eliminated_edits_are_never_selected(method):
    lucky = of_runs("a", 0, 1.0, 1.0, eliminated=True)
    outcomes = [lucky, of_runs("a", 1, 1.0, 1.0, 1.0)]
    for z in (0.0, 1.0):
        assert picked(Selection(method, fraction=1.0, z=z)(outcomes, {"a": 0.5})) == [("a", 1)]


def test_nothing_selects_nothing():
    assert best_of([]) == better_half([]) == improvement([], {}) == top_fraction([], 0.5) == []
