"""Prompts take the places of texts that have ended; no text overwrites what another one still needs."""

import itertools

import numpy as np
import pytest

from selfadapt.engine import runtime
from selfadapt.engine.generate import batching, programs, sampling
from selfadapt.engine.generate.batch import Batch
from selfadapt.engine.generate.live import NOWHERE
from selfadapt.engine.generate.sampling import generate
from selfadapt.plan.writing import write
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

WIDTH, MOST = 16, 600


def go_through(batch, ends, looks=None):
    """Writes texts of some lengths; returns the tokens of each row, which were preempted, and slots and rows by time.

    `looks` yields the most tokens that are written before the host looks. Every token is put down at its slot, and each
    text must find all its tokens there as long as it lasts.
    """
    counts, preempted = np.minimum(ends, np.arange(batch.rows) < batch.live.places.size), np.zeros(batch.rows, bool)
    looks = looks or itertools.repeat(programs.DECODE_STEPS)
    cache, shapes = {}, []  # by row, for each slot the token that it holds
    while True:
        while (filling := batch.filled((counts >= ends) | preempted)) is not None:
            rows = batch.rows_of(filling.prompts)
            assert (counts[rows[rows != NOWHERE]] == 0).all()
            counts[rows[rows != NOWHERE]] = 1
            cache = {row: cache.get(row, {}) for row in batch.live.places.ravel()}  # rows that took places start empty
        done = (counts >= ends) | preempted
        if batch.live.here(done).all():
            return counts, preempted, shapes
        slots = batch.slots
        room = batch.room(done, counts)
        preempted |= room.preempted
        done |= preempted
        assert room.grows == (batch.slots > slots)
        if batch.live.here(done).all():
            continue
        shapes.append((batch.slots, batch.live.places.size))
        left = [row for row in batch.live.places.ravel() if row != NOWHERE and not done[row]]
        steps = batch.steps(done, counts, next(looks))
        assert steps >= 1 and batch.slot + steps <= batch.slots
        for step in range(steps):
            for row in batch.live.places.ravel():  # rows that have ended write too
                cache.setdefault(row, {})[batch.slot + step] = counts[row] - 1 + step
        for row in left:
            held = counts[row] - 1 + min(steps, ends[row] - counts[row])
            assert set(range(held)) <= set(cache[row].values())
            counts[row] = min(counts[row] + steps, ends[row])
        batch.advance(steps)


@pytest.mark.parametrize(("prompts", "waiting", "samples", "shards"), [(16, 80, 1, 1), (8, 40, 3, 4), (1, 5, 2, 1)])
def test_every_text_is_written_once_and_finds_its_tokens(prompts, waiting, samples, shards):
    for seed in range(8):
        generator = np.random.default_rng(seed)
        ends = np.clip(generator.exponential(100, (prompts + waiting) * samples).astype(int), 1, MOST)
        batch = Batch((1, prompts * samples), samples, waiting, WIDTH, MOST, shards)
        looks = (int(most) for most in generator.integers(1, 33, 10_000))  # stop strings make the host look early
        counts, preempted, shapes = go_through(batch, ends, looks)
        assert (counts == ends).all() and not preempted.any()
        slots, rows = zip(*shapes, strict=True)
        assert max(slots) - WIDTH < 2 * max(128, ends.max())  # the longest text has to fit, not all in a row
        assert slots == tuple(sorted(slots)) and rows == tuple(sorted(rows, reverse=True))
        assert prompts == 1 or rows[-1] < rows[0]


def test_texts_that_take_places_take_fewer_tokens_in_a_row():
    ends = np.clip(np.random.default_rng(0).exponential(100, 96).astype(int), 1, MOST)
    _, _, shapes = go_through(Batch((1, 16), 1, 80, WIDTH, MOST, 1), ends)
    assert len(shapes) * programs.DECODE_STEPS < 0.6 * ends.reshape(6, 16).max(axis=1).sum()


def test_texts_that_have_filled_the_cache_are_preempted_unless_most_have():
    def few_rows(batch, slots):  # as many slots as the first cache has, twice: while it is copied
        return 8 * 2 * (WIDTH + 128) // (slots + batch.slots)

    ends = np.where(np.arange(64) % 8 == 3, MOST, 40)  # few are long: they start again, and the others go on
    counts, preempted, shapes = go_through(Batch((1, 8), 1, 56, WIDTH, MOST, 1, few_rows), ends)
    assert (ends[preempted] > 40).sum() > 4 > (ends[preempted] == 40).sum()
    counts, preempted, shapes = go_through(Batch((1, 8), 1, 56, WIDTH, MOST, 1, few_rows), np.full(64, MOST))
    assert 0 < preempted.sum() < 64 and max(shapes)[0] > WIDTH + MOST / 2  # all are long: the first ones stay
    assert counts[0] == MOST


def test_places_are_filled_with_whole_prompts_on_each_shard():
    batch = Batch((1, 16), 2, 3, WIDTH, MOST, 2)
    done = np.zeros(batch.rows, bool)
    assert batch.filled(done) is None
    done[[1, 3, 4, 8, 9]] = True  # three places of the first shard and two of the other
    filling = batch.filled(done)
    assert filling.prompts.tolist() == [[8], [9]] and filling.places.tolist() == [[1, 3], [0, 1]]
    assert batch.live.places.tolist() == [[0, 16, 2, 17, 4, 5, 6, 7, 18, 19, 10, 11, 12, 13, 14, 15]]
    assert batch.filled(done) is None  # one place is no place for two samples
    done[5] = True
    filling = batch.filled(done)
    assert filling.prompts.tolist() == [[10], [NOWHERE]] and filling.places.tolist() == [[4, 5], [8, 8]]
    done[:] = True
    assert batch.filled(done) is None and not batch.waiting


def test_only_rows_of_one_adapter_wait():
    def planned(owners, **options):
        return batching.plan_chunks(owners, [10] * len(owners), lambda length: 100, 1700, **options)

    (chunk,) = planned([0] * 40, waiting=True)
    assert chunk.shape == (1, 16) and len(chunk.rows[0]) == 16 and sorted(chunk.indices) == list(range(40))
    (chunk,) = planned([0] * 400, waiting=True, shards=3)
    assert chunk.shape == (1, 48) and len(chunk.waiting) == 352
    both = planned([0] * 40 + [1] * 8, waiting=True, stack=2)
    assert [(len(chunk.rows[0]), len(chunk.waiting)) for chunk in both] == [(16, 24), (8, 0)]
    for chunks in (
        planned([0] * 40),
        planned([k for k in range(8) for _ in range(40)], waiting=True, shards=4, stack=8),
    ):
        assert len(chunks) > 1 and not any(chunk.waiting for chunk in chunks)


@pytest.fixture(scope="module")
def model():
    """A model whose texts end after 60 tokens on average."""
    return tiny_model(max_position_embeddings=512, eos_token_ids=(5, 6))


OPTIONS = {"num_samples": 2, "max_new_tokens": 400, "temperature": 1.5, "top_k": 40, "return_details": True}


@pytest.fixture(scope="module")
def together(model):
    """Texts that are written all at once."""
    return generate(model, prompts_of([9, 12, 5, 7] * 12), **OPTIONS)


def flat(texts):
    return [one for own in texts for one in own]


@pytest.mark.parametrize("reserved", [sampling.RESERVED, pytest.param(128, marks=pytest.mark.slow)])
def test_texts_are_the_same_if_most_of_them_wait(model, together, monkeypatch, reserved):
    monkeypatch.setattr(sampling, "RESERVED", reserved)
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)
    prompts = prompts_of([9, 12, 5, 7] * 12)
    few = {"memory_bytes": 3_500_000}
    sizes = [len(prompt) for prompt in prompts]
    (chunk,) = sampling.schedule(model, [0] * 48, sizes, samples=2, max_new_tokens=min(400, reserved), **few)
    assert len(chunk.waiting) > 30
    found = flat(generate(model, prompts, stats=(stats := {}), **OPTIONS, **few))
    assert stats["filled"] >= 2 * len(chunk.waiting) and (stats["restarted"] > 0) == (reserved == 128)
    if reserved > 400:  # the plan goes through the same stages
        lengths = np.array([[len(one.tokens) for one in together[index]] for index in chunk.indices]).ravel()
        first = 2 * len(chunk.rows[0])
        planned = write(lengths[None, :first], 16, 400, 1, samples=2, waiting=lengths[first:])
        texts = first + planned.fills * planned.fill * 2
        assert stats["decode_tokens"] == texts + sum(stage.padded for stage in planned.stages)
    assert [(one.tokens, one.finish) for one in found] == [(one.tokens, one.finish) for one in flat(together)]
    for ours, theirs in zip(found, flat(together), strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)  # sums in another order


@pytest.mark.slow
def test_texts_of_an_adapter_with_stop_strings_are_the_same_if_most_wait(model):
    adapters, prompts = random_adapters(model.config, 2), [prompts_of([9, 12, 5, 7] * 12), prompts_of([6] * 3)]
    stop = model.tokenizer.decode([17])
    options = OPTIONS | {"stop": stop, "adapters": adapters}
    found, wanted = (generate(model, prompts, **options, memory_bytes=each) for each in (3_500_000, None))
    for ours, theirs in zip(found, wanted, strict=True):
        assert [one.tokens for one in flat(ours)] == [one.tokens for one in flat(theirs)]
    assert any(one.finish == "stop" and one.tokens[-1] not in (5, 6) for one in flat(found[0]))
