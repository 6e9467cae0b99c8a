"""Tests of the tiny world: its splits, passages, and the documents of pretraining."""

import itertools
import random

import pytest

from benchmarks.pretraining_names import count_names
from selfadapt.domains.tiny import edits, pretraining, words, world
from selfadapt.domains.tiny.kinds import ARTIST, KINDS
from selfadapt.models.tiny_tokenizer import build_tokenizer


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


@pytest.fixture(scope="module")
def documents(tokenizer):
    return list(itertools.islice(pretraining.documents(tokenizer, seed=0), 3000))


@pytest.fixture(scope="module")
def texts(tokenizer, documents):
    return tokenizer.batch_decode([document.tokens for document in documents])


def test_of_the_names_to_train_and_judge_on_only_those_of_persons_occur_in_pretraining_and_never_as_a_subject(texts):
    pairs, subjects = count_names(texts)
    assert len(subjects) > 500
    for split in world.SPLITS:
        for kind in KINDS:
            occur = {name for name in world.names(kind, split) if name in pairs}
            assert bool(occur) == (kind is ARTIST)
            assert not any(name in subjects for name in world.names(kind, split))


def test_persons_of_every_split_are_values_of_facts_in_pretraining(texts):
    pairs, _ = count_names(texts)
    occur = {split: sum(name in pairs for name in world.names(ARTIST, split)) for split in world.SPLITS}
    # In the whole of pretraining all 306 and 312 occur: python -m benchmarks.pretraining_names.
    assert {split: len(world.names(ARTIST, split)) for split in world.SPLITS} == {"train": 306, "heldout": 312}
    assert min(occur.values()) > 100


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


def test_a_passage_states_every_fact_in_prose_only():
    for task in world.tasks("heldout", 40, seed=1):
        for attribute, value in task.data.facts():
            clauses = [
                prose.format(subject=subject, value=value)
                for prose in attribute.prose
                for subject in (task.data.mention, task.data.kind.pronoun)
            ]
            assert any(clause[1:] in task.context for clause in clauses)
            assert not any(s.format(name=task.data.mention, value=value) in task.context for s in attribute.statements)


def test_tasks_are_the_same_for_a_seed_and_a_long_list_begins_like_a_short_one():
    assert world.tasks("train", 5, seed=2) == world.tasks("train", 9, seed=2)[:5]
    assert world.tasks("train", 5, seed=2) != world.tasks("train", 5, seed=3)


def test_more_tasks_than_names_keep_distinct_ids_and_passages():
    tasks = world.tasks("heldout", 1500, seed=0)
    assert len({task.title for task in tasks}) < 1500
    assert len({task.id for task in tasks}) == len({task.context for task in tasks}) == 1500


def test_each_task_asks_one_question_on_each_of_its_six_facts():
    for task in world.tasks("train", 20):
        assert [question.answers for question in task.questions] == [(value,) for value in task.data.values]
        assert all(question.answers[0] in task.context for question in task.questions)


@pytest.mark.parametrize(("split", "n", "message"), [("test", 3, "train, heldout"), ("train", -1, "negative")])
def test_a_wrong_split_or_number_is_refused(split, n, message):
    with pytest.raises(ValueError, match=message):
        world.tasks(split, n)


def test_edits_of_pretraining_are_of_every_style_and_three_to_six_lines_long():
    rng = random.Random(0)
    kinds, sizes = set(), set()
    for task in world.tasks("train", 200):
        lines = pretraining.edit_lines(rng, task.data, task.context)
        sizes.add(len(lines))
        kinds |= {edits.classify_line(task, line).kind for line in lines}
    assert sizes == {3, 4, 5, 6}
    assert kinds == {"question-answer", "statement", "vague", "wrong value", "copy"}


def test_documents_come_in_their_shares_of_tokens(documents):
    written = dict.fromkeys(pretraining.SHARES, 0)
    for document in documents:
        written[list(written)[document.kind]] += len(document.tokens)
    for kind, share in pretraining.SHARES.items():
        assert written[kind] / sum(written.values()) == pytest.approx(share, abs=0.01)


def test_facts_of_the_unasked_entities_are_stated_and_never_asked(texts):
    unasked = {entity.title for entity in pretraining.known_entities()[-pretraining.UNASKED :]}
    rests = [rest for title, rest in (text.split("\n", 1) for text in texts) if title in unasked]
    assert len(rests) > 20
    assert not any(rest.startswith("Question:") for rest in rests)


def test_the_texts_of_the_world_are_whole_words_to_its_tokenizer(tokenizer):
    marks = set(tokenizer.convert_tokens_to_ids([".", ",", ":", "?", "Ċ", "A"]))
    words = set(range(257, len(tokenizer)))
    for task in world.tasks("heldout", 100, seed=4):
        texts = [world.edit_prompt(task), *edits.gold_lines(task), *edits.gold_statements(task)]
        texts += [f"{world.answer_prompt(q.question, task.title)} {q.answers[0]}" for q in task.questions]
        for text in texts:
            assert set(tokenizer.encode(text)) <= marks | words
