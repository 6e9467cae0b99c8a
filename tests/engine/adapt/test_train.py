"""`adapt` against a plain torch + PEFT loop, against itself one adapter at a time, and on bad input."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Adapters, TokenSequence, Update, adapt, load_model
from selfadapt.engine import memory
from selfadapt.engine.adapt import schedule, training_step
from selfadapt.engine.adapt.train import initial_adapters
from selfadapt.engine.adapt.work import plan_work
from selfadapt.errors import OutOfMemoryError
from selfadapt.models import decoder
from tests.models.helpers import tiny_checkpoint, tiny_torch_model

VOCABULARY = 97


pytestmark = pytest.mark.usefixtures("one_stream")  # tests/engine/test_runtime.py has two


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Qwen2 model with a tokenizer, of two layers so that programs compile fast."""
    directory = tmp_path_factory.mktemp("qwen2")
    tiny_checkpoint("qwen2", directory, tokenizer=True, num_hidden_layers=2)
    return load_model(directory)


@pytest.fixture(scope="module")
def together(model):
    return adapt(model, MIXTURE)


def sequences(seed, lengths):
    generator = np.random.default_rng(seed)
    return [TokenSequence(tuple(generator.integers(3, VOCABULARY, n).tolist())) for n in lengths]


def factors(adapters: Adapters):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((adapters.lora.a, adapters.lora.b))]


MIXTURE = [
    Update(sequences(0, [6, 16, 13]), rank=4, alpha=8, learning_rate=1e-2, epochs=3),
    Update(
        sequences(1, [15, 7, 9, 8, 14]),
        rank=8,
        alpha=8,
        learning_rate=5e-3,
        epochs=2,
        batch_size=2,
        schedule="cosine",
        warmup_steps=2,
        targets="all-linear",
        seed=3,
    ),
    Update(
        sequences(2, [12] * 7),
        rank=2,
        alpha=16,
        learning_rate=2e-3,
        epochs=4,
        batch_size=2,
        gradient_accumulation=2,
        schedule="constant",
        weight_decay=0.1,
        max_grad_norm=0.05,
        targets=("o_proj", "down_proj"),
    ),
    Update(
        [("prompt ", "target"), ("another ", "one")],
        rank=4,
        alpha=4,
        learning_rate=1e-2,
        epochs=5,
        loss="target",
        targets=("k_proj", "up_proj"),
        max_grad_norm=None,
        shuffle=False,
    ),
    Update(sequences(3, [12, 9]), rank=4, optimizer="sgd", learning_rate=0.2, weight_decay=0.1, epochs=3),
    # SEAL's padding: the end of the sequence, which is learned and hidden from all other positions.
    Update(
        [
            TokenSequence((*text.ids, *[2] * 5), attention=(True,) * 11 + (False,) * 5)
            for text in sequences(4, [11] * 2)
        ],
        rank=4,
        learning_rate=1e-2,
        epochs=3,
    ),
]
NAMES = [
    "plain",
    "all-linear-cosine-batched",
    "accumulated-decayed-clipped",
    "targets-of-pairs",
    "sgd",
    "padding-learned-and-hidden",
]


def by_peft(model, update, dtype="float32"):
    """Trains an update in torch with PEFT on the weights of `tiny_checkpoint`.

    Returns the loss of each optimizer step, the change of the logits on some tokens (computed in float32), and the
    tokens.
    """
    peft_loop = pytest.importorskip("benchmarks.peft_loop")
    import torch

    base = tiny_torch_model("qwen2", num_hidden_layers=model.config.num_layers).to(getattr(torch, dtype))
    wrapped = peft_loop.wrap(base, update)
    peft_loop.copy_adapter(wrapped, initial_adapters(model.config, [update]))
    encoded = schedule.encode(update, lambda text, _: model.tokenizer(text)["input_ids"])
    losses = peft_loop.train(wrapped, update, encoded)
    tokens = np.random.default_rng(9).integers(3, VOCABULARY, (4, 24))
    wrapped.float()
    with torch.no_grad():
        after = wrapped(torch.from_numpy(tokens)).logits.numpy()
        with wrapped.disable_adapter():
            before = wrapped(torch.from_numpy(tokens)).logits.numpy()
    return np.asarray(losses), after - before, tokens


def change(model, adapters, tokens):
    return np.asarray(model.logits(tokens, adapters)) - np.asarray(model.logits(tokens))


@pytest.mark.parametrize("number", range(len(MIXTURE)), ids=NAMES)
def test_an_update_equals_a_torch_peft_loop(model, together, number):
    losses, expected, tokens = by_peft(model, MIXTURE[number])
    adapters = together[number]  # its neighbors differ in everything
    assert adapters.status == ["ok"]
    # float32 sums in another order: relative differences of 1e-6 per step, amplified by Adam's division.
    np.testing.assert_allclose(adapters.losses[0], losses, rtol=1e-4)
    assert np.linalg.norm(change(model, adapters, tokens) - expected) < 0.01 * np.linalg.norm(expected)


def test_a_deep_model_whose_layers_are_scanned_equals_a_torch_peft_loop(tmp_path, monkeypatch):
    layers = decoder.UNROLL_UP_TO_LAYERS + 2
    tiny_checkpoint("qwen2", tmp_path, tokenizer=True, num_hidden_layers=layers)
    deep, update = load_model(tmp_path), MIXTURE[0].replace(targets="all-linear")
    losses, expected, tokens = by_peft(deep, update)
    neighbor = update.replace(rank=2, seed=1)

    real = memory.plan_adapt

    def all_recomputed(config, updates, init, micro_batches, *rest):
        plan = real(config, updates, init, micro_batches, *rest)
        return dataclasses.replace(plan, remat=tuple(one.shape for own in micro_batches for one in own))

    for plan_adapt in (real, all_recomputed):  # activations kept, and recomputed
        monkeypatch.setattr(memory, "plan_adapt", plan_adapt)
        adapters = adapt(deep, [update, neighbor])[0]
        np.testing.assert_allclose(adapters.losses[0], losses, rtol=1e-4)
        assert np.linalg.norm(change(deep, adapters, tokens) - expected) < 0.01 * np.linalg.norm(expected)


def test_adapters_of_a_bfloat16_model_equal_a_torch_peft_loop_and_those_trained_alone(model):
    half = model.with_params(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params))
    updates = [MIXTURE[0].replace(rank=rank, seed=rank, weight_decay=0.1) for rank in (4, 2)]
    adapters = adapt(half, updates)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters.lora)} == {jnp.dtype("float32")}
    losses, expected, tokens = by_peft(half, updates[0], "bfloat16")
    # Activations have 8 bits of precision: 0.4% each, with errors that partly cancel.
    np.testing.assert_allclose(adapters.losses[0], losses, rtol=0.02)
    rounded = half.with_params(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half.params))
    found = change(rounded, adapters[0], tokens)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    for k, update in enumerate(updates):
        np.testing.assert_allclose(adapters.losses[k], adapt(half, [update]).losses[0], rtol=5e-3)


def test_many_at_once_equal_one_at_a_time(model, together):
    for k, update in enumerate(MIXTURE):
        alone = adapt(model, [update])
        np.testing.assert_allclose(together.losses[k], alone.losses[0], rtol=1e-5)
        for name, leaf in alone.lora.b.items():
            # The frozen products have another number of rows, hence sums in another order.
            stacked = np.asarray(together.lora.b[name][:, k, : update.rank])
            np.testing.assert_allclose(stacked, np.asarray(leaf[:, 0]), atol=2e-5)
        assert alone.specs[0] == together.specs[k]


def test_chunks_give_what_one_chunk_gives(model):
    updates = [Update(sequences(k, [9, 14]), rank=4, epochs=2, seed=k) for k in range(6)]
    whole = adapt(model, updates)
    # Enough for three adapters of the six with AdamW's moments, the finished others, and the passes of one.
    activations = memory.activation_bytes(model.config, 16, 16, remat=True, itemsize=4)
    activations += memory.loss_bytes(model.config, 16, "cpu")
    copies = 3 * 3 + 3 + memory.PASS_COPIES
    free = activations + copies * memory.adapter_bytes(model.config, 4, ("q_proj", "v_proj"))
    chunks = adapt(model, updates, memory_bytes=free)
    assert whole.stats["chunks"] == 1 and chunks.stats["chunks"] == 2
    for one, other in zip(factors(whole), factors(chunks), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_too_little_memory_for_one_adapter_is_an_error_with_the_amount_needed(model):
    with pytest.raises(OutOfMemoryError, match="MiB are free"):
        adapt(model, MIXTURE[:1], memory_bytes=1000)


@pytest.fixture(scope="module")
def clean(model):
    healthy = [Update(sequences(k, [6, 12, 16]), rank=4, epochs=4, learning_rate=1e-2, seed=k) for k in range(5)]
    return healthy, adapt(model, healthy)


BAD = {
    "nan": dict(learning_rate=math.nan),
    "infinite": dict(learning_rate=math.inf),
    "absurd": dict(learning_rate=1e4),
    "huge": dict(learning_rate=1e30),
}


@pytest.mark.parametrize("kind", [*BAD, "empty", "long", "unknown-token"])
def test_a_bad_update_is_reported_equals_the_base_and_leaves_its_neighbours_bit_for_bit(model, clean, kind):
    healthy, clean = clean
    bad = {
        "empty": healthy[2].replace(sequences=[]),
        "long": healthy[2].replace(sequences=sequences(0, [600])),
        "unknown-token": healthy[2].replace(sequences=[TokenSequence((5, VOCABULARY + 3, 4))]),
    }.get(kind) or healthy[2].replace(**BAD[kind])
    mixed = adapt(model, [*healthy[:2], bad, *healthy[3:]])
    assert clean.status == ["ok"] * 5
    assert mixed.status[2] != "ok" and [mixed.status[k] for k in (0, 1, 3, 4)] == ["ok"] * 4
    tokens = np.random.default_rng(1).integers(3, VOCABULARY, (2, 16))
    np.testing.assert_array_equal(model.logits(tokens, mixed[2]), model.logits(tokens))
    for k in (0, 1, 3, 4):
        np.testing.assert_array_equal(clean.losses[k], mixed.losses[k])
        for name in ("q_proj", "v_proj"):
            np.testing.assert_array_equal(clean.lora.a[name][:, k, :, :4], mixed.lora.a[name][:, k, :, :4])
            np.testing.assert_array_equal(clean.lora.b[name][:, k, :4], mixed.lora.b[name][:, k, :4])


def test_training_can_start_from_adapters_of_different_ranks_and_targets(model):
    first = [
        adapt(model, [Update(sequences(0, [9, 12]), rank=4, epochs=2)]),
        adapt(model, [Update(sequences(1, [9, 12]), rank=2, epochs=2, targets=("o_proj",))]),
    ]
    more = [Update(sequences(2, [11, 8]), epochs=2), Update(sequences(3, [11, 8]), epochs=2)]
    joined = adapt(model, more, init=first)
    assert [spec.rank for spec in joined.specs] == [4, 2]
    for k in range(2):
        alone = adapt(model, [more[k]], init=first[k])
        np.testing.assert_allclose(joined.losses[k], alone.losses[0], rtol=1e-5)
    stacked = adapt(model, more, init=Adapters.stack(first))
    np.testing.assert_array_equal(stacked.losses[0], joined.losses[0])
    assert not np.allclose(joined.losses[0][0], adapt(model, more[:1]).losses[0][0])  # it did start elsewhere


def test_one_compilation_of_a_shape_serves_any_mixture(model):
    base = Update(sequences(5, [12, 14]), rank=4, epochs=2)
    mixture = [
        base,
        base.replace(learning_rate=3e-2, schedule="cosine", warmup_steps=1, weight_decay=0.2),
        base.replace(rank=2, alpha=1, targets=("v_proj",), epochs=5, max_grad_norm=None),
        base.replace(sequences=[("ab", "cdefgh")], loss="target", shuffle=False, seed=4),
    ]
    adapt(model, [base] * 4)
    compiled = training_step.program.on("cpu")._cache_size()
    adapters = adapt(model, mixture)
    assert training_step.program.on("cpu")._cache_size() == compiled
    assert adapters.status == ["ok"] * 4
    assert adapters.stats["padding_overhead"] == pytest.approx(
        adapters.stats["padded_tokens"] / adapters.stats["tokens"] - 1
    )


def test_a_training_step_of_one_adapter_does_not_copy_the_others(model):
    def temporaries(count):
        updates = [Update(sequences(k, [100] * 4), rank=8, batch_size=4, targets="all-linear") for k in range(count)]
        (stream,) = plan_work(model, updates).chunks[0]
        step = next(stream.training_steps())
        assert step.slots == 1
        start = initial_adapters(model.config, stream.updates)
        state = training_step.initial_state(start.lora, optimizer=stream.optimizer, accumulate=False)
        options = dict(config=model.config, optimizer=stream.optimizer, remat=False, shards=1)
        program = training_step.lower(model.params, state, stream.batch(step), None, **options).compile()
        return program.memory_analysis().temp_size_in_bytes, sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    (few, small), (many, large) = temporaries(4), temporaries(32)
    assert many - few < 0.05 * (large - small)


def test_a_step_too_large_for_one_micro_batch_accumulates_its_gradient(model, monkeypatch):
    update = Update(sequences(6, [30] * 6), rank=4, epochs=2, batch_size=6, learning_rate=1e-2)
    whole = adapt(model, [update])
    monkeypatch.setattr(schedule, "MAX_MICRO_BATCH_TOKENS", 64)
    parts = adapt(model, [update])
    assert parts.stats["training_steps"] > whole.stats["training_steps"]
    np.testing.assert_allclose(parts.losses[0], whole.losses[0], rtol=1e-5)
    for one, other in zip(factors(whole), factors(parts), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_packed_sequences_do_not_see_each_other(model):
    many = Update(sequences(7, [9, 11, 10, 12]), rank=4, batch_size=4, epochs=1, shuffle=False)
    loss = adapt(model, [many]).losses[0][0]
    alone = [adapt(model, [many.replace(sequences=[s])]).losses[0][0] for s in many.sequences]
    targets = [len(s.ids) - 1 for s in many.sequences]
    assert loss == pytest.approx(np.dot(alone, targets) / sum(targets), rel=1e-5)


def test_padding_overhead_counts_what_was_added(model):
    stats = adapt(model, [Update(sequences(0, [16]), epochs=2, rank=2)]).stats
    assert (stats["tokens"], stats["padded_tokens"], stats["padding_overhead"]) == (32, 32, 0.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(rank=0), "Update.rank is 0"),
        (dict(schedule="liner"), "Update.schedule is 'liner'"),
        (dict(loss="targets"), "Update.loss"),
        (dict(epochs=-1), "Update.epochs"),
        (dict(max_grad_norm=0), "Update.max_grad_norm"),
        (dict(weight_decay=math.nan), "Update.weight_decay"),
        (dict(orthogonality=-0.5), "Update.orthogonality"),
    ],
)
def test_a_wrong_field_of_an_update_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Update(["text"], **changes)


def test_wrong_arguments_are_named(model):
    with pytest.raises(ValueError, match="no updates"):
        adapt(model, [])
    with pytest.raises(ValueError, match="'query'"):
        adapt(model, [Update(["text"], targets=("query",))])
    with pytest.raises(TypeError, match=r"sequences\[0\] is int"):
        adapt(model, [Update([3])])
    with pytest.raises(ValueError, match="init holds 1 adapters for 2"):
        adapt(model, MIXTURE[:2], init=adapt(model, MIXTURE[:1]))


def test_zero_epochs_leave_the_base_model_and_are_no_error(model):
    adapters = adapt(model, [Update(["text"], epochs=0), MIXTURE[0]])
    assert adapters.status == ["ok", "ok"] and len(adapters.losses[0]) == 0
    tokens = np.asarray([[5, 6, 7, 8]])
    np.testing.assert_array_equal(model.logits(tokens, adapters[0]), model.logits(tokens))
