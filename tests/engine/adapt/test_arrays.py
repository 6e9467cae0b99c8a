"""The arrays of training steps, compared with a loop over slots, rows and sequences. Nothing is compiled."""

import itertools

import numpy as np
import pytest

from selfadapt import Update
from selfadapt.engine.adapt import schedule
from selfadapt.engine.adapt.arrays import Table

UPDATES = (
    Update((), epochs=3),
    Update((), epochs=2, batch_size=3),
    Update((), epochs=2, batch_size=4, divergence=0.5, anchors=("a",), anchor_rows=2),
)


def encoded(generator, count, hidden):
    found = []
    for size in generator.integers(2, 40, count):
        mask = np.arange(size) % 3 > 0
        attention = generator.random(size) < 0.7 if hidden else None
        found.append(schedule.Encoded(generator.integers(1, 90, size).astype(np.int32), mask, attention))
    return found


@pytest.fixture(scope="module")
def pending():
    generator = np.random.default_rng(0)
    result = []
    for k, update in enumerate(UPDATES * 3):
        sequences = encoded(generator, 5 + k, hidden=k > 3)
        anchors = encoded(generator, 3, hidden=False) if update.divergence else []
        result.append(schedule.micro_batches(k, update, sequences, 64, anchors))
    return result


def looped(shape, chosen, slots, rows):
    """The token arrays of micro-batches by slot, one number at a time."""
    names = ("tokens", "weights", "segments", "key_segments", "positions")
    arrays = {name: np.zeros((slots, rows, shape.time), float) for name in names}
    for slot, micro_batch in chosen.items():
        for row, sequences in enumerate(micro_batch.rows):
            numbered = [(n, s, t) for n, s in enumerate(sequences, 1) for t in range(len(s.ids))]
            for place, (number, sequence, token) in enumerate(numbered):
                visible = sequence.attention is None or sequence.attention[token]
                values = (
                    sequence.ids[token],
                    sequence.mask[token] / micro_batch.targets,
                    number,
                    number * visible,
                    token,
                )
                for name, value in zip(names, values, strict=True):
                    arrays[name][slot, row, place] = value
    return arrays if shape.packed else {name: arrays[name] for name in names[:2]}


def test_arrays_are_those_of_a_loop_over_slots_rows_and_tokens(pending):
    table = Table(pending)
    every = list(itertools.chain.from_iterable(pending))
    shapes = {each.shape for each in every}
    assert {(shape.packed, shape.anchor_rows) for shape in shapes} == {(False, 0), (True, 0), (True, 2)}
    for shape in shapes:
        numbers = np.asarray([number for number, each in enumerate(every) if each.shape == shape][::-1])
        at = 1 + 2 * np.arange(len(numbers))
        slots, rows = 2 * len(numbers) + 1, shape.rows + 1
        chosen = {slot: every[number] for slot, number in zip(at, numbers, strict=True)}
        found = table.token_arrays(shape, numbers, at, slots, rows)
        expected = looped(shape, chosen, slots, rows)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values.astype(found[name].dtype), err_msg=name)
        anchors = table.anchor_arrays(
            shape, numbers, at, slots, shape.anchor_rows, np.full(len(numbers), np.float32(3))
        )
        assert bool(anchors) == bool(shape.anchor_rows)
        for slot, each in chosen.items() if anchors else ():
            targets = sum(anchor.mask.sum() for anchor in each.anchors)
            for row, anchor in enumerate(each.anchors):
                size = len(anchor.ids)
                assert anchors["anchors"][slot, row, :size].tolist() == anchor.ids.tolist()
                np.testing.assert_allclose(
                    anchors["anchor_weights"][slot, row, :size], 3 * anchor.mask / targets, rtol=1e-6
                )
        assert all(not values[0].any() and not values[2].any() for values in anchors.values())


def test_the_table_has_the_adapter_step_and_tokens_of_each_micro_batch(pending):
    table = Table(pending)
    assert np.diff(table.first).tolist() == [len(own) for own in pending]
    for number, each in enumerate(itertools.chain.from_iterable(pending)):
        tokens = sum(len(sequence.ids) for row in each.rows for sequence in row) + sum(len(a.ids) for a in each.anchors)
        found = (table.place[number], table.step[number], table.last[number], table.tokens[number])
        assert found == (each.adapter, each.step, each.last, tokens)
    chosen = np.asarray([table.first[2] + 1, table.first[0], table.first[2]])
    sequences, anchors = table.lengths(chosen)
    for k in range(len(pending)):
        own = {0: pending[0][:1], 2: pending[2][:2]}.get(k, [])
        assert sequences[k] == [len(s.ids) for each in own for row in each.rows for s in row]
        assert anchors[k] == [len(anchor.ids) for each in own for anchor in each.anchors]


@pytest.mark.parametrize("shard_size", [9, 3, 4])
def test_a_training_step_takes_the_next_micro_batch_of_each_of_its_adapters(pending, shard_size):
    done = [0] * len(pending)
    shards = -(-len(pending) // shard_size)
    for shape, slots, adapters in schedule.training_steps(pending, lambda shape: 2, shard_size):
        assert len(set(slots)) == len(slots) == len(set(adapters)) == len(adapters) > 0
        for slot, adapter in zip(slots, adapters, strict=True):
            assert slot // 2 == adapter // shard_size < shards
            assert pending[adapter][done[adapter]].shape == shape
            done[adapter] += 1
    assert done == [len(own) for own in pending]


def test_the_fullest_training_step_runs_first_with_the_adapters_that_have_most_left():
    short, long = (schedule.Shape(time=time, rows=1, packed=False, whole=True) for time in (16, 32))

    def own(adapter, *shapes):
        return [schedule.MicroBatch(adapter, n, shape, [], True, 1) for n, shape in enumerate(shapes)]

    pending = [own(0, long), own(1, short, short), own(2, short, long, long), own(3, short)]
    found = [(shape.time, adapters) for shape, _, adapters in schedule.training_steps(pending, lambda shape: 2)]
    assert found == [(16, [2, 1]), (32, [2, 0]), (16, [1, 3]), (32, [2])]


def test_epochs_share_the_rows_of_their_micro_batches(pending):
    assert len({id(each.rows) for each in pending[0]}) == 5 and len(pending[0]) == 15
