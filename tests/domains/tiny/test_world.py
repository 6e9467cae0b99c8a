"""Tests of the tiny world: its splits, passages, oracle edits and the reading of edits."""

import itertools
import random

import pytest

from selfadapt.domains.tiny import pretraining, words, world
from selfadapt.domains.tiny.kinds import KINDS, VAGUE
from selfadapt.models.tiny_tokenizer import build_tokenizer
from selfadapt.types import Task


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(world.every_text())


def wordings(attribute):
    return (*attribute.statements, attribute.evaluation, *attribute.edit_questions, *attribute.prose)


def test_the_splits_share_no_name_and_together_have_all():
    for kind in KINDS:
        splits = [set(world.names(kind, split)) for split in ("pretraining", "train", "heldout")]
        assert all(not one & other for one, other in itertools.combinations(splits, 2))
        assert set().union(*splits) == {f"{first} {second}" for first in kind.first for second in kind.second}
        assert all(len(split) > 250 for split in splits)


def test_names_of_the_evaluation_never_occur_in_the_pretraining_stream(tokenizer):
    judged = {task.data.name for split in world.SPLITS for task in world.tasks(split, 1280, seed=3)}
    titles = set()
    for document in itertools.islice(pretraining.documents(tokenizer, seed=0), 4000):
        text = tokenizer.decode(document.tokens)
        titles.add(text.split("\n")[0])
        spoken = text.replace("\n", " ").replace(".", " ").replace("?", " ").split(" ")
        pairs = {f"{first} {second}" for first, second in itertools.pairwise(spoken)}
        # An artist's name also stands for people: only what a text is about is kept apart.
        people = {pair for pair in pairs if pair.split(" ")[0] in words.PERSON_FIRST}
        assert not (pairs - people) & judged
    assert len(titles) > 1000
    assert not {title.split(" ", 2)[2] for title in titles} & judged


def test_no_word_stands_in_two_lists():
    lists = [*words.POOLS.values(), words.PERSON_FIRST, words.PERSON_SECOND]
    lists += [pieces for kind in KINDS if kind.pronoun == "it" for pieces in (kind.first, kind.second)]
    every = list(itertools.chain.from_iterable(lists))
    assert len(every) == len(set(every))


def test_every_wording_names_the_entity_and_all_but_questions_the_value_and_none_begins_with_either():
    for attribute in itertools.chain.from_iterable(kind.attributes for kind in KINDS):
        for wording in wordings(attribute):
            assert ("{subject}" if wording in attribute.prose else "{name}") in wording
            assert ("{value}" in wording) == (not wording.endswith("?"))
            assert not wording.startswith("{")
            assert wording not in attribute.prose or " and " not in wording  # it joins the clauses of a passage
        assert attribute.evaluation not in attribute.edit_questions


def test_each_pool_serves_two_attributes_of_a_kind_and_an_entity_has_six_different_values():
    for kind in KINDS:
        pools = [attribute.pool for attribute in kind.attributes]
        assert sorted(pools.count(pool) for pool in set(pools)) == [2, 2, 2]
    assert all(len(set(task.data.values)) == 6 for task in world.tasks("train", 200))


def test_a_passage_says_every_fact_in_prose_only():
    for task in world.tasks("heldout", 40, seed=1):
        for attribute, value in task.data.facts():
            said = [
                prose.format(subject=subject, value=value)
                for prose in attribute.prose
                for subject in (task.data.mention, task.data.kind.pronoun)
            ]
            assert any(clause[1:] in task.context for clause in said)
            assert not any(s.format(name=task.data.mention, value=value) in task.context for s in attribute.statements)


def test_tasks_are_the_same_for_a_seed_and_a_long_list_begins_like_a_short_one():
    assert world.tasks("train", 5, seed=2) == world.tasks("train", 9, seed=2)[:5]
    assert world.tasks("train", 5, seed=2) != world.tasks("train", 5, seed=3)


def test_tasks_go_on_without_end_and_keep_distinct_ids():
    tasks = world.tasks("heldout", 3000, seed=0)
    assert len({task.id for task in tasks}) == len({task.context for task in tasks}) == 3000


def test_each_task_asks_one_question_on_each_of_its_six_facts():
    for task in world.tasks("train", 20):
        assert [question.answers for question in task.questions] == [(value,) for value in task.data.values]
        assert all(question.answers[0] in task.context for question in task.questions)


@pytest.mark.parametrize(("split", "n", "said"), [("test", 3, "train, heldout"), ("train", -1, "negative")])
def test_a_wrong_split_or_number_is_refused(split, n, said):
    with pytest.raises(ValueError, match=said):
        world.tasks(split, n)


def test_oracle_lines_are_recognised_as_right():
    for task in world.tasks("heldout", 40, seed=5):
        nouns = [attribute.noun for attribute in task.data.kind.attributes]
        for lines, kind in (
            (world.gold_lines(task), "question-answer"),
            (world.gold_statements(task), "statement"),
        ):
            reports = [world.classify_line(task, line) for line in lines]
            assert [report.noun for report in reports] == nouns
            assert all(report.kind == kind and report.right for report in reports)


def test_copies_vague_lines_wrong_values_and_other_texts_are_told_apart():
    task, other = world.tasks("heldout", 2, seed=6)
    attribute, value = task.data.facts()[0]
    wrong = next(candidate for candidate in world.pool(attribute) if candidate != value)
    prose = attribute.prose[1]
    told = {
        world.sentences(task.context)[0]: "copy",
        world._sentence(prose.format(subject=task.data.kind.pronoun, value=value)): "copy",
        world._sentence(prose.format(subject=task.data.mention, value=wrong)): "wrong value",
        VAGUE[0].format(noun=attribute.noun, name=task.data.mention): "vague",
        attribute.statements[0].format(name=task.data.mention, value=wrong): "wrong value",
        attribute.statements[0].format(name=task.data.mention, value="nonsense"): "other",
        world.gold_lines(other)[0]: "other",
        "": "other",
    }
    for line, kind in told.items():
        report = world.classify_line(task, line)
        assert (report.kind, report.right) == (kind, False)


def test_only_tasks_of_the_world_can_be_classified():
    with pytest.raises(TypeError, match=r"tiny_world\.tasks"):
        world.classify_line(Task(id="x", context="", questions=()), "A line.")


def test_edits_of_pretraining_are_of_every_style_and_three_to_six_lines_long():
    rng = random.Random(0)
    kinds, sizes = set(), set()
    for task in world.tasks("train", 200):
        lines = pretraining.edit_lines(rng, task.data, task.context)
        sizes.add(len(lines))
        kinds |= {world.classify_line(task, line).kind for line in lines}
    assert sizes == {3, 4, 5, 6}
    assert kinds == {"question-answer", "statement", "vague", "wrong value", "copy"}


def test_documents_come_in_their_shares_of_tokens(tokenizer):
    written = dict.fromkeys(pretraining.SHARES, 0)
    for document in itertools.islice(pretraining.documents(tokenizer, seed=1), 2000):
        written[list(written)[document.kind]] += len(document.tokens)
    for kind, share in pretraining.SHARES.items():
        assert written[kind] / sum(written.values()) == pytest.approx(share, abs=0.01)


def test_facts_of_the_unasked_entities_are_told_and_never_asked(tokenizer):
    unasked = {entity.title for entity in pretraining.known_entities()[-pretraining.UNASKED :]}
    told = 0
    for document in itertools.islice(pretraining.documents(tokenizer, seed=2), 3000):
        title, rest = tokenizer.decode(document.tokens).split("\n", 1)
        if title in unasked:
            told += 1
            assert not rest.startswith("Question:")
    assert told > 20


def test_the_texts_of_the_world_are_whole_words_to_its_tokenizer(tokenizer):
    marks = set(tokenizer.convert_tokens_to_ids([".", ",", ":", "?", "Ċ", "A"]))
    words = set(range(257, len(tokenizer)))
    for task in world.tasks("heldout", 100, seed=4):
        texts = [world.edit_prompt(task), *world.gold_lines(task), *world.gold_statements(task)]
        texts += [f"{world.answer_prompt(q.question, task.title)} {q.answers[0]}" for q in task.questions]
        for text in texts:
            assert set(tokenizer.encode(text)) <= marks | words
