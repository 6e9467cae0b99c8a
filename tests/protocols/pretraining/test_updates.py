"""One update of the edits of many passages."""

import dataclasses

import pytest

from selfadapt.data import load_tasks, seal_subset
from selfadapt.domains.knowledge.sequences import training_sequences
from selfadapt.protocols.pretraining import combined
from selfadapt.types import Question, Rejected, Task, Update

ONE, TWO = (Task(name, f"About {name}.", (Question("?", ("!",)),), name.title()) for name in ("mars", "venus"))


@dataclasses.dataclass(frozen=True)
class Passages:
    """A domain that learns the passage after each edit, and refuses some."""

    rank: int = 7

    def apply(self, task, text):
        edit = [] if text is None else [f"{task.title}\n{text}"]
        return Update([*edit, f"{task.title}\n{task.context}"], rank=self.rank, seed=5)


class Documents:
    """SEAL's rules for continued pretraining."""

    def apply(self, task, text):
        if text is None:
            return Update([f"{task.title}\n{task.context}"])
        return Update(training_sequences(text, title=task.title, context=task.context, split="document"))


def learned(domain, **texts):
    return [(task, [domain.apply(task, text) for text in texts[task.id]]) for task in (ONE, TWO)]


def test_a_passage_is_learned_with_each_edit_or_once():
    domain = Passages()
    both = learned(domain, mars=["It is red.", "It is old."], venus=["It is hot."])
    found = combined(domain, both, repeat_passage=True, seed=10)
    assert found.sequences == (
        *("Mars\nIt is red.", "Mars\nAbout mars.", "Mars\nIt is old.", "Mars\nAbout mars."),
        *("Venus\nIt is hot.", "Venus\nAbout venus."),
    )
    assert (found.rank, found.seed) == (7, 15)
    once = combined(domain, both, repeat_passage=False, seed=10)
    assert once.sequences == (*found.sequences[:3], *found.sequences[4:])


def test_an_edit_that_is_rejected_adds_nothing_and_its_passage_is_learned_with_the_next():
    domain = Passages()
    given = [(ONE, [Rejected("no"), domain.apply(ONE, "It is red.")]), (TWO, [Rejected("no")])]
    found = combined(domain, given, repeat_passage=False, seed=0)
    assert found.sequences == ("Mars\nIt is red.", "Mars\nAbout mars.")


@pytest.mark.parametrize("repeat_passage, expected", [(True, 2000), (False, 1200)])
def test_the_sequences_of_seals_published_edits_are_as_many_as_in_its_files(seal_data, repeat_passage, expected):
    tasks = seal_subset(load_tasks(seal_data / "seal/knowledge/base_val.json"), 200)
    domain = Documents()
    given = [(task, [domain.apply(task, text) for text in task.data["completions"]]) for task in tasks]
    assert len(combined(domain, given, repeat_passage=repeat_passage, seed=0).sequences) == expected
