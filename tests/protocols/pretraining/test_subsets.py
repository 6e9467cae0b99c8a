"""Which passages are learned together, and which of their questions are asked."""

import random
import re

import pytest

from selfadapt.data import load_tasks, seal_subset
from selfadapt.errors import InvalidValueError
from selfadapt.protocols.pretraining import subsets
from selfadapt.types import Question, Task

POOL = [Task(f"task {n}", "text", tuple(Question(f"{n}.{q}?", ("!",)) for q in range(n % 3 + 1))) for n in range(20)]


def test_subsets_are_nested_and_single_passages_have_a_model_each():
    one, four, ten = subsets(POOL, (1, 4, 10), 3, 0, 42)
    assert one.learned == one.asked == ((POOL[0],), (POOL[1],), (POOL[2],))
    assert four.learned == (tuple(POOL[:4]),) and ten.learned == ten.asked == (tuple(POOL[:10]),)
    assert [each.label for each in (one, four, ten)] == ["n1", "n4", "n10"]


def test_a_sample_of_questions_leaves_out_passages_without_any():
    (all_of,), (found,) = (subsets(POOL, (20,), 1, most, 42) for most in (0, 6))
    asked = [question.question for task in found.asked[0] for question in task.questions]
    every = [question.question for task in all_of.asked[0] for question in task.questions]
    assert len(asked) == 6 and asked == [question for question in every if question in asked]
    assert found.learned == all_of.learned and all(task.questions for task in found.asked[0])
    assert subsets(POOL, (20,), 1, 39, 42) == [all_of] and subsets(POOL, (20,), 1, 6, 43) != [found]


def test_seals_500_questions_are_those_of_pythons_shuffle(seal_data):
    pool = seal_subset(load_tasks(seal_data / "seal/knowledge/squad_val.json"), 200)
    (found,) = subsets(pool, (200,), 1, 500, 42)
    expected = [(task.id, question.question) for task in pool for question in task.questions]
    assert len(expected) == 974
    random.seed(42)
    random.shuffle(expected)
    asked = {(task.id, question.question) for task in found.asked[0] for question in task.questions}
    assert asked == set(expected[:500])


@pytest.mark.parametrize(
    "sizes, singles, message",
    [
        ((), 1, "sizes is (); it must be rising numbers"),
        ((0, 4), 1, "sizes is (0, 4)"),
        ((4, 4), 1, "sizes is (4, 4)"),
        ((1, 21), 1, "sizes has 21, and config.evaluation.contexts takes 20 passages"),
        ((1, 4), 21, "singles is 21, and config.evaluation.contexts takes 20"),
        ((4,), 0, "singles is 0"),
    ],
)
def test_sizes_that_the_passages_do_not_allow_are_named(sizes, singles, message):
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        subsets(POOL, sizes, singles, 0, 42)
