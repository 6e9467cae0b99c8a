"""The control of the benchmark on real text: each passage has a mismatched one, of another article."""

import pytest

from benchmarks import real_text
from selfadapt import Question, Task
from selfadapt.errors import UserError


def tasks(*titles):
    return [Task(str(i), f"Passage {i}.", (Question("Q?", ("A",)),), title) for i, title in enumerate(titles)]


def test_a_mismatched_passage_is_the_next_one_of_another_title():
    assert real_text.mismatched(tasks("A", "A", "B", "C", "A")) == [2, 2, 3, 4, 2]
    assert real_text.mismatched(tasks("A", "B", "C")) == [1, 2, 0]
    with pytest.raises(UserError, match="all 2 passages are of the article 'A'"):
        real_text.mismatched(tasks("A", "A"))


def test_the_table_has_every_row_and_its_differences_paired_by_passage():
    rows = {
        real_text.BASE: [-5.0, -4.0],
        real_text.OWN: [-3.0, -2.0],
        real_text.OWN_EDIT: [-3.5, -2.5],
        real_text.OTHER: [-4.0, -3.0],
        real_text.OTHER_EDIT: [-4.5, -2.5],
    }
    lines = real_text.table(rows).splitlines()
    assert "| the passage | -2.50 [-8.85, 3.85] |" in lines
    assert "| the passage - no adaptation | +2.00 [+2.00, +2.00] |" in lines
    assert "| the passage - a mismatched passage | +1.00 [+1.00, +1.00] |" in lines
    assert "| own edit and the passage - a mismatched edit and its passage | +0.50 [-5.85, +6.85] |" in lines
