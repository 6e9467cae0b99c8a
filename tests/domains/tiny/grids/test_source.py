"""Tests of the tiny world of grids as a source of tasks."""

import numpy as np
import pytest

from selfadapt.domains.arc.tasks import ArcTask
from selfadapt.domains.tiny.grids import dsl, source
from selfadapt.domains.tiny.grids.source import TinyGrids, rule_of
from selfadapt.errors import InvalidValueError


def test_training_tasks_are_new_each_round_and_heldout_ones_always_the_same():
    source = TinyGrids(seed=3)
    assert source.tasks("train", 4, round=1) == source.tasks("train", 8)[4:]
    assert source.tasks("heldout", 4, round=1) == source.tasks("heldout", 8)[:4]
    assert source.tasks("heldout", 2) != TinyGrids(seed=4).tasks("heldout", 2)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_task_follows_its_rule_and_no_rule_of_one_step_explains_its_demonstrations(split):
    for task in TinyGrids().tasks(split, 40):
        rule = rule_of(task)
        assert dsl.split_of([step.name for step in rule.steps]) == split
        shown = [(np.array(given), np.array(output)) for given, output in task.train]
        asked = [(np.array(given), np.array(output)) for given, output in zip(task.tests, task.solutions, strict=True)]
        assert (len(shown), len(asked)) == (4, 1) and dsl.explains(rule, shown + asked)
        assert not any(dsl.explains(simple, shown) for simple in dsl.simple_rules())


def test_demonstrations_that_hide_a_step_are_drawn_again(monkeypatch):
    draw, rules = dsl.draw_examples, []

    def hiding(rng, rule, count):
        if count == source.DEMONSTRATIONS + 1:  # not the probes of a rule
            rules.append(rule)
            rule = dsl.Rule(rule.steps[:1]) if len(rules) == 1 else rule
        return draw(rng, rule, count)

    (as_drawn,) = TinyGrids().tasks("train", 1)
    monkeypatch.setattr(source.dsl, "draw_examples", hiding)
    (task,) = TinyGrids().tasks("train", 1)
    assert len(rules) == 2 and task != as_drawn
    assert dsl.explains(rules[1], [tuple(map(np.array, pair)) for pair in task.train])


def test_an_unknown_split_or_a_task_of_another_source_is_an_error():
    with pytest.raises(InvalidValueError, match="has no split 'test'; choose one of train, heldout"):
        TinyGrids().tasks("test", 1)
    with pytest.raises(InvalidValueError, match="task '00d62c1b' is not of the tiny world of grids"):
        rule_of(ArcTask("00d62c1b", (), ()))
