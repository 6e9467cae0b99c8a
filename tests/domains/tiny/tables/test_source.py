"""Tests of the tasks of the world of tables: kinds, questions, prompts and perfect edits."""

import collections
import re

import pytest

from selfadapt.domains.tiny.tables.source import TinyTables
from selfadapt.domains.weights_or_words import Sections
from selfadapt.errors import InvalidValueError
from tests.domains.tiny.rules import reference

SOURCE = TinyTables(3)
TASKS = SOURCE.tasks("train", 12, round=1)


def stated(prompt):
    """The facts of an edit's prompt, and the lines of a rule that its examples show."""
    facts = [line for line in prompt.split("\n") if re.fullmatch(r"[a-z]+ = [A-Z]", line)]
    rule = []
    for key, asked, truth in re.findall(r"\? ([a-z]+) (.*) -> .* \| (.*)", prompt):
        for digit in re.findall(r"\d+", asked):
            truth = truth.replace(digit, "", 1)
        rule.append(f"{key} = {truth.strip()}")
    return rule, facts


def test_kinds_take_turns_and_have_their_lines():
    assert [task.title for task in TASKS] == ["rule", "table", "mixed"] * 4
    for task in TASKS:
        assert SOURCE.kind(task.id) == task.title
        rule, facts = stated(SOURCE.edit_prompt(task))
        assert len(facts) == {"rule": 0, "table": 20, "mixed": 14}[task.title]
        assert len(rule) in ({0} if task.title == "table" else {5, 6})


def test_all_answers_follow_from_what_the_prompt_of_the_edit_shows():
    for task in TASKS:
        rule, facts = stated(task.context)
        values = dict(line.split(" = ") for line in facts)
        assert len({question.question for question in task.questions}) == len(task.questions) == 16
        for question in task.questions:
            (answer,) = question.answers
            if question.question in values:
                assert answer == values[question.question]
            else:
                assert answer == reference.answer(rule, question.question)
        of_rule = sum(question.question not in values for question in task.questions)
        assert of_rule == {"rule": 16, "table": 0, "mixed": 8}[task.title]


def test_no_question_is_an_example_that_the_policy_reads():
    for task in SOURCE.tasks("train", 90):
        assert not [each for each in task.questions if f"? {each.question} " in task.context]


def test_the_keys_of_a_rule_take_turns():
    counts = collections.Counter(question.question.split(" ")[0] for question in TASKS[0].questions)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_question_follows_the_lines_of_an_instruction_in_the_form_of_its_kind():
    mixed = TASKS[2]
    for question, alone, after in zip(
        mixed.questions, SOURCE.questions(mixed, ()), SOURCE.questions(mixed, ["x = 1", "y"]), strict=True
    ):
        asked = question.question
        assert alone == (f"? {asked} -> " if " " in asked else f"{asked} = ")
        assert after == f"x = 1\ny\n{alone}"


def test_training_is_on_the_value_of_a_line_or_on_all_of_a_line_without_one():
    assert SOURCE.sequence("pug = R") == ("pug = ", "R\n")
    assert SOURCE.sequence("be careful") == ("", "be careful\n")
    assert SOURCE.sequence("a = b = c") == ("a = ", "b = c\n")


def test_a_perfect_author_writes_rules_as_words_and_tables_as_weights_if_it_may():
    for task in TASKS:
        rule, facts = map(tuple, stated(task.context))
        found = SOURCE.oracles(task, 12)
        assert found["free"] == Sections(rule, facts)
        assert found["words"] == Sections((rule + facts)[:12])
        assert found["weights"] == Sections((), rule + facts)


def test_tasks_are_new_in_each_round_of_training_and_the_same_where_held_out():
    first, second = SOURCE.tasks("train", 12), SOURCE.tasks("heldout", 6, round=1)
    assert second == SOURCE.tasks("heldout", 6) != TinyTables(4).tasks("heldout", 6)
    assert not {task.context for task in first} & {task.context for task in (*TASKS, *second)}
    assert len({task.id for task in (*first, *TASKS, *second)}) == 30
    with pytest.raises(InvalidValueError, match="no split 'test'"):
        SOURCE.tasks("test", 1)
