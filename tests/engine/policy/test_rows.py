"""Texts in rows: each in one place, groups together, few shapes."""

import numpy as np

from selfadapt.engine.policy import Written
from selfadapt.engine.policy.rows import MicroBatch, arrays, micro_batches


def test_long_texts_come_first_and_rows_depend_on_the_length_alone():
    lengths = [16, 90, 17, 30, 96, 20]
    found = micro_batches(lengths, [(i,) for i in range(6)], most=64, tokens=128, shards=1)
    assert found == [
        MicroBatch((4,), 1, 96),
        MicroBatch((1,), 1, 96),
        MicroBatch((3, 5, 2, 0), 4, 32),
    ]
    assert [each.rows for each in micro_batches(lengths, [(0,), (2,)], most=64, tokens=128, shards=1)] == [5]


def test_groups_stay_in_neighbouring_rows_and_rows_divide_over_shards():
    groups = [(0, 3), (2, 1)]
    assert micro_batches([10, 11, 12, 13], groups, most=4, tokens=16, shards=1) == [
        MicroBatch((0, 3), 2, 16),
        MicroBatch((2, 1), 2, 16),
    ]
    assert micro_batches([10, 11, 12, 13], groups, most=4, tokens=16, shards=8) == [MicroBatch((0, 3, 2, 1), 8, 16)]


def test_each_tokens_data_is_at_its_place_and_padding_is_zero():
    written = [Written((1, 2), (3, 4, 5)), Written((6,), (7, 8))]
    rows = arrays(MicroBatch((1, 0), 3, 6), written, {"old": [[-1, -2, -3], [-4, -5]], "x": [9, 8]}, {0: 0.5, 1: 0.25})
    np.testing.assert_array_equal(rows.tokens, [[6, 7, 8, 0, 0, 0], [1, 2, 3, 4, 5, 0], [0] * 6])
    np.testing.assert_array_equal(rows.mask, [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0] * 6])
    np.testing.assert_array_equal(rows.data["old"], [[0, -4, -5, 0, 0, 0], [0, 0, -1, -2, -3, 0], [0] * 6])
    np.testing.assert_array_equal(rows.data["x"], [[0, 8, 8, 0, 0, 0], [0, 0, 9, 9, 9, 0], [0] * 6])
    np.testing.assert_array_equal(rows.data["weight"], [[0, 0.25, 0.25, 0, 0, 0], [0, 0, 0.5, 0.5, 0.5, 0], [0] * 6])
