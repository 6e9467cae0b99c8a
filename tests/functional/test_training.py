"""`functional.adapt` trains the adapters of `adapt`, and each as if it were alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from selfadapt import TokenSequence, Update, adapt, functional
from selfadapt.engine.adapt import initial_adapters
from selfadapt.errors import InvalidValueError
from tests.engine.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_stream")

COUNTS, RATES, MOST, TIME = (3, 1, 2, 3), (1e-2, 2e-2, 5e-3, np.nan), 3, 14
UPDATE = Update((), rank=3, alpha=6, targets="q_proj", epochs=3, batch_size=2, warmup_steps=1, weight_decay=0.1, seed=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


@pytest.fixture(scope="module")
def rows():
    """Rows of four adapters of which each uses some, all as long as each other or shorter, `[4, 3, TIME]`."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(9, TIME + 1, (len(COUNTS), MOST))
    tokens = generator.integers(3, 97, (len(COUNTS), MOST, TIME)).astype(np.int32)
    return np.where(np.arange(TIME) < lengths[..., None], tokens, 0), lengths


@pytest.fixture(scope="module")
def trained(model, rows):
    """The program, and what it makes of all adapters."""
    tokens, lengths = rows
    steps = jax.tree.map(lambda leaf: leaf[np.asarray(COUNTS)], functional.steps_of(UPDATE, MOST))
    steps = steps.replace(rate=steps.rate / UPDATE.learning_rate * np.asarray(RATES, np.float32)[:, None])
    lora = initial_adapters(model.config, [UPDATE]).lora
    program = jax.jit(functools.partial(functional.adapt, config=model.config, weight_decay=UPDATE.weight_decay))
    return functools.partial(program, model.params), (lora, tokens, np.arange(TIME) < lengths[..., None], steps)


@pytest.mark.slow
def test_adapters_are_those_of_adapt(model, rows, trained):
    tokens, lengths = rows
    updates = []
    for k, (count, rate) in enumerate(zip(COUNTS, RATES, strict=True)):
        sequences = [TokenSequence(tuple(tokens[k, r, : lengths[k, r]].tolist())) for r in range(count)]
        updates.append(UPDATE.replace(sequences=sequences, learning_rate=rate))
    expected = adapt(model, updates)
    program, (lora, tokens, mask, steps) = trained
    found = program(lora=lora, tokens=tokens, mask=mask, steps=steps)
    assert expected.status[:3] == ["ok"] * 3 and found.valid.tolist() == [True, True, True, False]
    for k, losses in enumerate(expected.losses[:3]):
        # Adam divides a gradient by its own size, which magnifies differences in the order of sums.
        np.testing.assert_allclose(found.losses[k, : len(losses)], losses, rtol=1e-4)
        assert not np.asarray(found.losses)[k, len(losses) :].any()
    text = tokens[:, :1, :8]
    ours = model.logits(text, dataclasses.replace(expected, lora=found.lora))
    np.testing.assert_allclose(ours, model.logits(text, expected), atol=2e-3)
    assert not any(np.asarray(leaf)[:, 3].any() for leaf in found.lora.a.values())


@pytest.mark.slow
def test_an_adapter_gets_the_result_that_it_gets_beside_others(trained):
    program, (lora, tokens, mask, steps) = trained
    together = program(lora=lora, tokens=tokens, mask=mask, steps=steps)
    order = np.asarray([3, 1, 0, 0])
    other = jax.tree.map(lambda leaf: leaf[order], (tokens, mask, steps))
    again = program(lora=lora, tokens=other[0], mask=other[1], steps=other[2])
    for ours, theirs in zip(jax.tree.leaves(again.lora.b), jax.tree.leaves(together.lora.b), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs)[:, order])


@pytest.mark.slow
def test_the_first_token_of_a_row_is_never_a_target(trained):
    program, (lora, tokens, mask, steps) = trained
    without = np.where(np.arange(TIME) == 0, False, mask)
    one, other = (program(lora=lora, tokens=tokens, mask=each, steps=steps).losses for each in (mask, without))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_step_without_rows_is_not_taken(trained):
    program, (lora, tokens, mask, steps) = trained
    none = steps.replace(rows=np.full_like(steps.rows, -1))
    found = program(lora=lora, tokens=tokens, mask=mask, steps=none)
    assert not found.valid.any() and not np.asarray(found.losses).any()


def test_unequal_axes_and_updates_without_a_counterpart_are_errors(model):
    steps = functional.steps_of(UPDATE, 2)
    lora = initial_adapters(model.config, [UPDATE]).lora
    rows = np.zeros((2, 2, 8), np.int32)
    with pytest.raises(InvalidValueError, match="tokens has the rows of 2 adapters, steps 3 optimizer steps of 3"):
        functional.adapt(model.params, model.config, lora, rows, rows > 0, steps)
    with pytest.raises(InvalidValueError, match="Update.loss is 'target'"):
        functional.inner_update(model.config, UPDATE.replace(loss="target"), 3)
    with pytest.raises(InvalidValueError, match="most is 0"):
        functional.steps_of(UPDATE, 0)


@pytest.mark.parametrize(
    "changes", [{"loss": "target"}, {"orthogonality": 0.5}, {"divergence": 0.5, "anchors": ("It is old.",)}]
)
def test_an_inner_update_with_what_has_no_counterpart_is_an_error(model, changes):
    with pytest.raises(InvalidValueError, match="an edit's lines are trained with 'all' and without a penalty"):
        functional.inner_update(model.config, UPDATE.replace(**changes), most=2)
