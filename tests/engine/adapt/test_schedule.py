"""Targets, the order of the data, and the learning rate of each optimizer step. Host code; nothing is compiled."""

import pytest

from selfadapt import TokenSequence, Update
from selfadapt.engine.adapt.schedule import encode, learning_rate, micro_batches, optimizer_steps, training_steps


def test_every_epoch_has_each_sequence_once_in_an_order_of_seed_and_epoch():
    steps = optimizer_steps(Update((), epochs=2, batch_size=3, seed=1), 7)
    assert [len(step) for step in steps] == [3, 3, 1] * 2
    first, second = sum(steps[:3], []), sum(steps[3:], [])
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    other = optimizer_steps(Update((), epochs=2, batch_size=3, seed=2), 7)
    assert other != steps == optimizer_steps(Update((), epochs=2, batch_size=3, seed=1, learning_rate=1.0), 7)


def test_without_shuffling_the_order_is_the_given_one():
    update = Update((), epochs=2, batch_size=2, gradient_accumulation=2, shuffle=False)
    assert optimizer_steps(update, 5) == [[0, 1, 2, 3], [4]] * 2


@pytest.mark.parametrize(
    "schedule, expected", [("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]), ("constant", [0, 0.5, 1, 1, 1, 1])]
)
def test_the_rate_warms_up_from_zero_and_decays(schedule, expected):
    update = Update((), learning_rate=1.0, warmup_steps=2, schedule=schedule)
    assert [learning_rate(update, step, 6) for step in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("loss, on_prompt", [("target", False), ("all", True)])
def test_the_loss_of_a_pair_is_on_its_target_and_on_its_prompt_if_asked(loss, on_prompt):
    def tokenizer(text, starts):
        return [1] * starts + [ord(letter) for letter in text]

    (pair,) = encode(Update([("ab", "cde")], loss=loss), tokenizer)
    assert pair.ids.tolist() == [1, *map(ord, "abcde")]
    assert pair.mask.tolist() == [False, on_prompt, on_prompt, True, True, True]


def test_an_adapter_takes_its_own_slot_where_a_shard_has_one_for_each():
    update = Update([TokenSequence((3,) * 6)], rank=2)
    encoded = encode(update, lambda text: [])
    counts = (1, 3, 0, 2)  # micro-batches of the adapters of two shards
    pending = [micro_batches(k, update, encoded, 32)[:1] * count for k, count in enumerate(counts)]
    steps = [(at, places) for _, at, places in training_steps(pending, lambda shape: 2, 2)]
    assert len(steps) == 3 and all(at == places for at, places in steps)
    assert sum(len(places) for _, places in steps) == sum(counts)
