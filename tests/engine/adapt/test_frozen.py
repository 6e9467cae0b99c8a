"""`adapt(on=...)`: training on frozen adapters, against merging them into the weights and training there."""

import math

import jax
import numpy as np
import pytest

from selfadapt import Adapters, TokenSequence, Update, adapt, generate, merge
from selfadapt.engine import memory
from selfadapt.engine.adapt.work import plan_work
from selfadapt.errors import OutOfMemoryError
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

# The merged weights are other float32 numbers than the sum of two products: relative differences of 1e-7 to 1e-6 in
# each layer's output. Adam divides each gradient by its own size, so that they grow in some steps.
LOSS = dict(rtol=1e-4)
# Of logits that spread over several units, after training with such differences.
LOGITS = dict(rtol=0, atol=2e-4)


pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def sequences(seed, lengths):
    return [TokenSequence(tuple(tokens)) for tokens in prompts_of(lengths, seed)]


FIRST = [
    Update(sequences(0, [9, 16]), rank=4, alpha=8, learning_rate=1e-2, epochs=3, targets="all-linear"),
    Update(sequences(1, [12, 7]), rank=2, alpha=8, learning_rate=1e-2, epochs=3, targets=("o_proj",), seed=1),
    Update(sequences(2, [14]), rank=3, alpha=1, learning_rate=1e-2, epochs=3, seed=2),
]
SECOND = [
    Update(sequences(3, [11, 8]), rank=2, alpha=4, learning_rate=1e-2, epochs=3, seed=3, weight_decay=0.1),
    Update(sequences(4, [10, 15]), rank=4, learning_rate=5e-3, epochs=3, targets="all-linear", max_grad_norm=0.1),
    Update(sequences(5, [16] * 3), rank=3, optimizer="sgd", learning_rate=0.2, epochs=2, weight_decay=0.1),
]
TOKENS = np.random.default_rng(7).integers(3, 97, (2, 16))


@pytest.fixture(scope="module")
def first(model):
    return adapt(model, FIRST)


@pytest.fixture(scope="module")
def second(model, first):
    return adapt(model, SECOND, on=first)


@pytest.fixture(scope="module")
def merged(model, first):
    """For each update of SECOND the model with the adapter under it in its weights, and a fresh adapter there."""
    bases = [merge(model, first[k]) for k in range(len(first))]
    return [(base, adapt(base, [update])) for base, update in zip(bases, SECOND, strict=True)]


def logits(model, adapter, tokens=TOKENS):
    return np.asarray(model.logits(tokens, adapter))


@pytest.mark.parametrize("number", range(3), ids=["adamw-decayed", "all-linear-clipped", "sgd"])
def test_an_adapter_on_a_frozen_one_equals_a_fresh_adapter_on_merged_weights(model, first, second, merged, number):
    base, fresh = merged[number]
    assert second.status[number] == "ok" and fresh.status == ["ok"]
    np.testing.assert_allclose(second.losses[number], fresh.losses[0], **LOSS)
    joined = Adapters.join(first, second)[number]
    np.testing.assert_allclose(logits(model, joined), logits(base, fresh), **LOGITS)
    assert np.abs(logits(model, joined) - logits(base, None)).max() > 0.05  # the second update did something
    assert second.specs[number].rank == SECOND[number].rank


def test_frozen_adapters_are_not_changed(model):
    frozen = random_adapters(model.config, 2)
    before = jax.tree.map(np.array, frozen.lora)
    adapt(model, [update.replace(weight_decay=0.5) for update in SECOND[:2]], on=frozen)
    jax.tree.map(np.testing.assert_array_equal, before, frozen.lora)


def test_a_diverging_update_or_frozen_adapter_leaves_its_neighbours_bit_for_bit(model):
    frozen = random_adapters(model.config, 4)
    updates = [SECOND[0].replace(seed=seed) for seed in range(4)]
    clean = adapt(model, updates, on=frozen)
    assert clean.status == ["ok"] * 4
    broken = jax.tree.map(np.array, frozen.lora)
    broken.b["v_proj"][:, 3] = math.nan
    updates[1] = updates[1].replace(learning_rate=1e30)
    mixed = adapt(model, updates, on=Adapters(broken, frozen.specs))
    assert [status == "ok" for status in mixed.status] == [True, False, True, False]
    for k in (0, 2):
        np.testing.assert_array_equal(clean.losses[k], mixed.losses[k])
        for name in clean.lora.a:
            np.testing.assert_array_equal(clean.lora.a[name][:, k], mixed.lora.a[name][:, k])
            np.testing.assert_array_equal(clean.lora.b[name][:, k], mixed.lora.b[name][:, k])
    # What failed adds nothing: joined, it is the frozen adapter alone.
    joined = frozen.join(mixed)
    np.testing.assert_allclose(logits(model, joined[1]), logits(model, frozen[1]), **LOGITS)


def test_joined_adapters_write_what_merged_weights_write(model, first, second, merged):
    prompts = prompts_of((5, 12), seed=3)
    joined = first.join(second).padded(16)
    found = generate(model, [prompts] * 3, adapters=joined, max_new_tokens=12, return_details=True)
    for texts, (base, fresh) in zip(found, merged, strict=True):
        expected = generate(merge(base, fresh), prompts, max_new_tokens=12, return_details=True)
        assert [each.tokens for each in texts] == [each.tokens for each in expected]


def test_joining_adds_the_changes_of_adapters_of_any_rank_target_and_scale(model, first):
    other = random_adapters(model.config, 3)
    joined = first.join(other).padded(12)
    assert [spec.rank for spec in joined.specs] == [7, 5, 6] and {spec.output_scale for spec in joined.specs} == {1.0}
    assert joined.specs[1].targets == ("q_proj", "v_proj", "o_proj", "down_proj")
    for name, a in joined.lora.a.items():
        assert a.shape[-1] == joined.lora.b[name].shape[-2] == 12
        for k, spec in enumerate(joined.specs):
            change = np.asarray(a[:, k]) @ np.asarray(joined.lora.b[name][:, k])
            expected = np.zeros_like(change)
            for part in (first, other):
                if name in part.lora.a:
                    product = np.asarray(part.lora.a[name][:, k]) @ np.asarray(part.lora.b[name][:, k])
                    expected += product * float(part.lora.scale[k])
            np.testing.assert_allclose(change, expected, atol=1e-5)
            assert not np.asarray(a[:, k, :, spec.rank :]).any()  # padding comes last, so that it can be cut off
    again = joined.join(other)
    assert [spec.rank for spec in again.specs] == [10, 8, 9]


def test_frozen_adapters_count_for_memory(model):
    update, frozen = SECOND[0], random_adapters(model.config, 1)
    size = memory.adapter_bytes(model.config, 3, sorted(frozen.lora.a))
    budget = next(2**n for n in range(12, 40) if _fits(model, update, 2**n, None))
    needs = next(n for n in range(budget // 2, 2 * budget, size // 8) if _fits(model, update, n, None))
    assert not _fits(model, update, needs + size, frozen)
    assert _fits(model, update, needs + (1 + memory.FROZEN_COPIES) * size, frozen)


def _fits(model, update, budget, on):
    try:
        plan_work(model, [update], memory_bytes=budget, on=on)
    except OutOfMemoryError:
        return False
    return True


def test_wrong_stacks_are_named(model, first):
    with pytest.raises(ValueError, match="on holds 3 adapters for 2 updates"):
        adapt(model, SECOND[:2], on=first)
    with pytest.raises(ValueError, match="stacks of 3 and 2 adapters"):
        first.join(first[:2])
    with pytest.raises(ValueError, match="made for another base"):
        adapt(model, SECOND[:1], on=random_adapters(tiny_model(num_layers=1).config, 1))
