"""Batch compaction drops rows that have ended, and preemption those that do not fit; texts stay the same."""

import dataclasses

import jax
import numpy as np
import pytest

from selfadapt.engine.generate import sampling
from selfadapt.engine.generate.batching import padded_size
from selfadapt.engine.generate.live import LONG, NOWHERE, LiveRows
from selfadapt.engine.generate.sampling import generate
from selfadapt.models.model import Model
from selfadapt.plan.writing import write
from tests.engine.tiny import prompts_of, random_adapters, tiny_model


@pytest.mark.parametrize(
    ("adapters", "rows", "shards"), [(1, 40, 1), (1, 40, 4), (6, 7, 1), (8, 3, 4), (8, 1, 2), (2, 5, 2)]
)
def test_every_live_row_is_kept_once_and_with_its_adapter(adapters, rows, shards):
    size, generator = adapters * rows, np.random.default_rng(0)
    live, values, ended = LiveRows.all(adapters, rows, shards), np.arange(size), np.zeros(size, bool)
    homes = values * shards // size  # the shard of each row
    owners = values // rows
    on_device, adapters_there = values.reshape(adapters, rows), np.arange(adapters)
    count = moves = 0
    while not ended.all():
        if (smaller := live.compacted(ended, grows=True, count=1)) is not None:
            count += 1
            assert smaller.live.places.size < live.places.size
            by_shard, here = on_device.reshape(shards, -1), [[] for _ in range(shards)]
            for target in range(shards):
                here[target] += list(by_shard[target])
                for source in range(shards) if smaller.sent is not None else ():
                    here[target] += list(by_shard[source, smaller.sent[source, target]])
            if adapters == 1:  # as many rows move as there are too many for the shape
                left, width = (~live.here(ended)).reshape(shards, -1).sum(axis=1), smaller.rows.shape[1]
                assert width == padded_size(-(-int(left.sum()) // shards))
                moved = smaller.live.places.reshape(shards, -1) != NOWHERE
                moved &= smaller.rows >= by_shard.shape[1]
                assert moved.sum() == np.maximum(left - width, 0).sum() and moved.any() == (smaller.sent is not None)
                moves += moved.sum()
            live = smaller.live
            on_device = np.take_along_axis(np.asarray(here), smaller.rows, axis=1).reshape(live.places.shape)
            if smaller.adapters is not None:
                parts = adapters_there.reshape(len(smaller.adapters), -1)
                adapters_there = np.take_along_axis(parts, smaller.adapters, axis=1).ravel()
        here = live.places != NOWHERE
        assert sorted(live.places[here]) == sorted(set(live.places[here]))
        assert set(np.flatnonzero(~ended)) <= set(live.places[here])
        np.testing.assert_array_equal(live.places[here], on_device[here])
        if adapters > 1:
            assert (homes[on_device.reshape(shards, -1)] == np.arange(shards)[:, None]).all()
        if len(adapters_there) == len(on_device):
            np.testing.assert_array_equal(
                owners[live.places][here], np.repeat(adapters_there[:, None], here.shape[1], 1)[here]
            )
        assert live.here(ended)[~here].all()
        ended |= generator.random(size) < 0.3
    assert count and bool(moves) == (adapters == 1 and shards > 1)


def test_rows_of_one_shard_are_sent_to_different_ones():
    ended = np.arange(32) % 8 >= np.repeat([8, 2, 2, 1], 8)  # 8, 2, 2 and 1 rows left
    smaller = LiveRows.all(1, 32, 4).compacted(ended, grows=True, count=1)
    assert smaller.live.places.tolist() == [[0, 1, 2, 3, 8, 9, 4, 7, 16, 17, 5, NOWHERE, 24, 6, NOWHERE, NOWHERE]]
    assert smaller.sent.shape == (4, 4, 2)


def test_rows_stay_where_they_are_if_too_few_have_ended():
    live = LiveRows.all(1, 20, 1)
    first = [np.arange(20) < count for count in (1, 4, 9, 10)]  # 19 rows take as much as 20, and 11 as 12
    for ended, size in zip(first, (None, 16, 12, 10), strict=True):
        smaller = live.compacted(ended, grows=True, count=1)
        assert (smaller and smaller.live.places.shape) == (size and (1, size))
    assert [live.compacted(ended, grows=False, count=LONG + 1) is None for ended in first] == [True, True, True, False]
    assert live.compacted(first[-1], grows=False, count=LONG) is None


@pytest.fixture(scope="module")
def model():
    """A model whose texts end after 60 tokens on average."""
    return tiny_model(max_position_embeddings=512, eos_token_ids=(5, 6))


@pytest.mark.parametrize("count", [pytest.param(0, id="base", marks=pytest.mark.slow), pytest.param(5, id="adapters")])
def test_texts_do_not_depend_on_compaction(model, monkeypatch, count):
    adapters = random_adapters(model.config, count) if count else None
    lists = [prompts_of((5, 20, 7)[: 1 + k % 3], seed=k) for k in range(count)] if count else prompts_of([9] * 12)
    options = {"num_samples": 3, "max_new_tokens": 200 if count else 300, "temperature": 1.5, "return_details": True}
    compactions = []
    real = LiveRows.compacted

    def counted(self, done, **when):
        compactions.append(real(self, done, **when))
        return compactions[-1]

    monkeypatch.setattr(LiveRows, "compacted", counted)
    found = generate(model, lists, adapters=adapters, stats=(few := {}), **options)
    monkeypatch.setattr(LiveRows, "compacted", lambda self, done, **when: None)
    expected = generate(model, lists, adapters=adapters, stats=(all_rows := {}), **options)
    monkeypatch.undo()
    compactions = [smaller for smaller in compactions if smaller is not None]
    assert len(compactions) > 1 and (not count or any(smaller.adapters is not None for smaller in compactions))
    assert few["decode_tokens"] < all_rows["decode_tokens"] and few["new_tokens"] == all_rows["new_tokens"]
    flat, wanted = (jax.tree.leaves(each, is_leaf=lambda x: dataclasses.is_dataclass(x)) for each in (found, expected))
    lengths = [len(one.tokens) for one in flat]
    assert min(lengths) < 128 < max(lengths)
    if not count:  # one chunk without padding: the plan goes through the same stages
        planned = write(np.reshape(lengths, (1, -1)), 16, options["max_new_tokens"], 1, samples=3)
        assert few["decode_tokens"] == len(lengths) + sum(stage.padded for stage in planned.stages)
    assert [(one.tokens, one.finish) for one in flat] == [(one.tokens, one.finish) for one in wanted]
    for ours, theirs in zip(flat, wanted, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)  # sums in another order


@pytest.mark.parametrize(("adapters", "rows", "shards"), [(1, 48, 1), (1, 48, 4), (8, 6, 4)])
def test_as_many_rows_are_preempted_on_each_shard_as_memory_asks_for(adapters, rows, shards):
    size = adapters * rows
    live, done = LiveRows.all(adapters, rows, shards), np.zeros(size, bool)
    done[:4] = True
    whole = size // shards
    assert not live.preempted(done, whole).any()
    out = live.preempted(done, whole // 2)
    assert out.any() and not (out & done).any()
    for own in np.split(out & ~done, shards):  # the last ones of each shard
        assert own[np.argmax(own) :].all()
    smaller = live.compacted(done | out, grows=True, count=0)
    assert smaller.live.places.size <= shards * (whole // 2)
    left = (~done & ~out).reshape(shards, -1).sum(axis=1)
    assert left.min() > 0 and left.max() - left.min() <= 1
    assert (~done & ~live.preempted(done, 0)).sum() == 1  # one row always stays


def test_texts_that_need_more_memory_than_was_reserved_are_written_again(model, monkeypatch):
    config = dataclasses.replace(model.config, eos_token_ids=())
    endless = Model(config, model.params, model.tokenizer)
    prompts = prompts_of([9] * 10)
    options = {"num_samples": 2, "max_new_tokens": 200, "temperature": 1.5, "return_details": True}
    expected = generate(endless, prompts, **options)
    monkeypatch.setattr(sampling, "RESERVED", 128)
    few = {"memory_bytes": 1_920_000}
    (first,), (whole,) = (
        sampling.schedule(endless, [0] * 10, [9] * 10, samples=2, max_new_tokens=n, **few) for n in (128, 200)
    )
    assert not first.waiting and whole.waiting
    found = generate(endless, prompts, stats=(stats := {}), **options, **few)
    assert 0 < stats["restarted"] < 20 and stats["chunks"] > 1
    assert [[one.tokens for one in own] for own in found] == [[one.tokens for one in own] for own in expected]
