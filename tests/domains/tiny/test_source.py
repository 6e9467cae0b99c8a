"""The tiny world as a source of tasks."""

from selfadapt.domains.tiny import world
from selfadapt.domains.tiny.source import TinyWorld


def test_each_round_has_new_passages_and_the_heldout_ones_stay():
    source = TinyWorld(seed=3)
    assert source.tasks("train", 2, 1) == world.tasks("train", 4, seed=3)[2:]
    assert source.tasks("heldout", 2, 1) == world.tasks("heldout", 2, seed=3)


def test_the_oracle_restates_every_fact_and_its_lines_are_counted_by_kind():
    source = TinyWorld()
    task = source.tasks("heldout", 1)[0]
    assert source.describe(task, source.oracle(task)) == {"question-answer": 6}
    assert source.describe(task, f"{source.oracle(task)}\n\nSomething else.\n") == {"question-answer": 6, "other": 1}
