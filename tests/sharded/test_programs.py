"""The programs on meshes of eight devices give what one device gives.

Tolerances. Sums over a divided axis are taken in another order, which changes float32 results by about 1e-6 of
their size; log-likelihoods are sums of a few of these. Adam divides a gradient by its own size, so where a gradient
is nearly zero such a difference turns into a part of the learning rate: adapters are compared by what they compute.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from selfadapt import Adapters, TokenSequence, Update, adapt, generate, load_model, log_likelihood, merge, save_peft
from selfadapt.engine import memory
from selfadapt.engine.adapt import training_step
from selfadapt.engine.generate import programs
from selfadapt.engine.generate.live import LiveRows
from selfadapt.models import hf
from selfadapt.parallel import sharding
from selfadapt.parallel.sharding import make_mesh
from selfadapt.plan import hlo
from tests.models.helpers import tiny_checkpoint

LOGITS = dict(rtol=0, atol=2e-4)  # of logits that spread over several units
# For what takes long to compile and is not about one axis: the mesh that has all three.
all_axes = pytest.mark.parametrize("mesh", [(2, 2, 2)], indirect=True, ids=["2x2x2"])
COUNT = 11  # does not divide by 8, 4 or 2


def sequences(seed, lengths):
    generator = np.random.default_rng(seed)
    return [TokenSequence(tuple(generator.integers(3, 97, n).tolist())) for n in lengths]


UPDATES = [
    Update(
        sequences(k, [9 + k % 5, 16, 5]),
        rank=2 + 2 * (k % 2),
        targets=("q_proj", "o_proj") if k % 3 == 0 else ("v_proj", "down_proj"),
        learning_rate=5e-3,
        epochs=1 + k % 2,
        batch_size=1 if k % 4 else 3,
        seed=k,
    )
    for k in range(COUNT)
]
PROMPTS = [[list(range(3 + k, 8 + k)), list(range(20, 31))][: 1 + k % 2] for k in range(COUNT)]
TARGETS = [[[5, 6, 7]] * len(prompts) for prompts in PROMPTS]
FLAT = [list(range(4, 9)), list(range(30, 50)), [7]]
TOKENS = np.arange(24).reshape(2, 12) % 97


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model whose vocabulary (97), heads (4) and key-value heads (2) do not all divide by the mesh axes."""
    directory = tmp_path_factory.mktemp("qwen2")
    tiny_checkpoint("qwen2", directory, tokenizer=True, num_hidden_layers=2)
    return directory


def results(model):
    adapters = adapt(model, UPDATES)
    sampling = dict(temperature=1.0, max_new_tokens=10, num_samples=2, return_details=True)
    return {
        "adapters": adapters,
        "logits": np.asarray(model.logits(np.stack([TOKENS] * COUNT), adapters)),
        "sampled": generate(model, PROMPTS, adapters=adapters, **sampling),
        "sampled by the base": generate(model, FLAT, seed=3, **sampling),
        "scores": log_likelihood(model, PROMPTS, TARGETS, adapters=adapters),
        "scores of the base": log_likelihood(model, FLAT, [[9, 10]] * 3),
        "alone": adapt(model, UPDATES[1:2]),
    }


@pytest.fixture(scope="module")
def one_device(directory):
    return results(load_model(directory))


@pytest.fixture(scope="module")
def sharded_model(directory, mesh):
    return load_model(directory, mesh=mesh)


@pytest.fixture(scope="module")
def sharded(sharded_model):
    return results(sharded_model)


def test_weights_load_into_their_shards(directory, mesh, sharded_model):
    unsharded = load_model(directory).params
    for weight in hf.weights(sharded_model.config):
        tree = sharded_model.params["layers"] if weight.stacked else sharded_model.params
        plain = unsharded["layers"] if weight.stacked else unsharded
        leaf = tree[weight.path[-1]]
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(plain[weight.path[-1]]))
        if weight.path[-1] == "gate_proj":
            parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
            assert leaf.addressable_shards[0].data.size == leaf.size // parts


def test_a_process_may_use_fewer_devices_than_it_has(directory):
    mesh = make_mesh(data=2, tensor=2)
    assert mesh.devices.size == 4
    tokens = np.asarray(load_model(directory, mesh=mesh).logits(TOKENS))
    np.testing.assert_allclose(tokens, np.asarray(load_model(directory).logits(TOKENS)), **LOGITS)


@pytest.mark.slow
@all_axes
def test_adapters_on_frozen_ones_are_those_of_one_device(directory, sharded_model, mesh):
    found = []
    for model in (load_model(directory), sharded_model):
        first = adapt(model, UPDATES)
        second = adapt(model, UPDATES[::-1], on=first)
        joined = first.join(second).padded(8)
        prompts = generate(model, PROMPTS, adapters=joined, max_new_tokens=6, return_details=True)
        tokens = [generation.tokens for each in prompts for generation in each]
        found.append((second, np.asarray(model.logits(np.stack([TOKENS] * COUNT), joined)), tokens))
    (plain, logits, tokens), (divided, sharded_logits, sharded_tokens) = found
    for one, other in zip(plain.losses, divided.losses, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_allclose(sharded_logits, logits, rtol=0, atol=1e-3)  # two trainings one after the other
    assert tokens == sharded_tokens


def test_each_part_of_a_weight_is_read_once_and_by_itself(directory, mesh, monkeypatch):
    read = []
    real = hf.read_part
    monkeypatch.setattr(hf, "read_part", lambda *arguments: read.append(part := real(*arguments)) or part)
    params = load_model(directory, mesh=mesh).params
    parts = {
        (id(leaf), str(shard.index)): shard.data.size
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
    }
    assert sum(part.size for part in read) == sum(parts.values())


def test_adapters_equal_those_of_one_device(one_device, sharded):
    assert sharded["adapters"].status == ["ok"] * COUNT
    np.testing.assert_allclose(sharded["logits"], one_device["logits"], **LOGITS)
    for ours, theirs in zip(sharded["adapters"].losses, one_device["adapters"].losses, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_single_adapter_is_trained_with_its_rows_divided(one_device, sharded):
    np.testing.assert_allclose(sharded["alone"].losses[0], one_device["alone"].losses[0], rtol=1e-4)
    pairs = zip(jax.tree.leaves(sharded["alone"].lora), jax.tree.leaves(one_device["alone"].lora), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=2e-4)


@pytest.mark.parametrize("which", ["sampled", "sampled by the base"])
def test_samples_equal_those_of_one_device(one_device, sharded, which):
    flat = jax.tree.leaves(sharded[which], is_leaf=lambda x: dataclasses.is_dataclass(x))
    expected = jax.tree.leaves(one_device[which], is_leaf=lambda x: dataclasses.is_dataclass(x))
    assert [one.tokens for one in flat] == [one.tokens for one in expected]
    for ours, theirs in zip(flat, expected, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@all_axes
def test_the_program_that_writes_tokens_is_compiled_once_for_a_shape(sharded, sharded_model):
    extend = programs.extend.on("cpu")
    for prompts, adapters in ((FLAT, None), (PROMPTS, sharded["adapters"])):
        extend.clear_cache()
        generate(sharded_model, prompts, adapters=adapters, max_new_tokens=70, return_details=True)
        assert extend._cache_size() == 1


@pytest.mark.slow
@all_axes
@pytest.mark.parametrize("which", ["base", "adapters"])
def test_compacted_batches_give_the_texts_of_one_device(
    directory, one_device, sharded, sharded_model, which, monkeypatch
):
    found, compactions, real = [], [], LiveRows.compacted

    def recorded(self, done, **when):
        compactions.append(real(self, done, **when))
        return compactions[-1]

    monkeypatch.setattr(LiveRows, "compacted", recorded)
    for model, results in ((load_model(directory), one_device), (sharded_model, sharded)):
        lists, adapters = (PROMPTS, results["adapters"]) if which == "adapters" else (FLAT * 8, None)
        options = dict(temperature=4.0, max_new_tokens=150, num_samples=2, seed=5, return_details=True)
        texts = generate(model, lists, adapters=adapters, **options)
        found.append(jax.tree.leaves(texts, is_leaf=lambda x: dataclasses.is_dataclass(x)))
    alone, divided = [each for each in compactions if each is not None]  # at 128 tokens, where the cache grows
    assert alone.sent is None and (divided.sent is not None) == (which == "base")  # rows move between shards
    if which == "base":
        monkeypatch.setattr(LiveRows, "compacted", lambda self, done, **when: None)
        texts = generate(sharded_model, FLAT * 8, **options)
        assert [one.tokens for own in texts for one in own] == [one.tokens for one in found[0]]
    for ours, theirs in zip(*found, strict=True):
        assert ours.tokens == theirs.tokens
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.slow
@all_axes
def test_texts_that_waited_for_places_are_those_of_one_device(directory, sharded_model):
    options = dict(temperature=4.0, max_new_tokens=150, num_samples=2, seed=5, return_details=True)
    prompts = [[*prompt, 3 + k] for k in range(16) for prompt in FLAT]
    texts = generate(sharded_model, prompts, stats=(stats := {}), memory_bytes=700_000, **options)
    assert stats["filled"] > 50 and stats["chunks"] == 1
    expected = generate(load_model(directory), prompts, **options)
    assert [one.tokens for own in texts for one in own] == [one.tokens for own in expected for one in own]


@pytest.mark.parametrize("which", ["scores", "scores of the base"])
def test_scores_equal_those_of_one_device(one_device, sharded, which):
    np.testing.assert_allclose(np.hstack(sharded[which]), np.hstack(one_device[which]), atol=2e-4)


@all_axes
def test_scores_of_some_of_the_adapters_equal_those_of_one_device(one_device, sharded, sharded_model, directory):
    prompts = [lists if k in (1, 2, 5, 9) else [] for k, lists in enumerate(PROMPTS)]
    targets = [[[5, 6, 7]] * len(lists) for lists in prompts]
    found = log_likelihood(sharded_model, prompts, targets, adapters=sharded["adapters"])
    expected = log_likelihood(load_model(directory), prompts, targets, adapters=one_device["adapters"])
    np.testing.assert_allclose(np.hstack(found), np.hstack(expected), atol=2e-4)


def test_each_shard_holds_its_own_adapters(mesh, sharded):
    lora = sharded["adapters"].lora
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    padded = -(-COUNT // shards) * shards
    tensor = mesh.shape["tensor"]
    for side, features in ((lora.a, 2), (lora.b, 3)):
        for leaf in side.values():
            held = leaf.addressable_shards[0].data
            assert leaf.shape[1] == padded and held.shape[1] == padded // shards
            assert held.shape[features] == leaf.shape[features] // tensor


def test_adapters_can_be_sliced_stacked_saved_and_merged(one_device, sharded, sharded_model, directory, tmp_path):
    ours, theirs = sharded["adapters"], one_device["adapters"]
    assert len(ours[3:]) == COUNT - 3
    again = Adapters.stack([ours[:4], ours[4:]])
    found = np.asarray(sharded_model.logits(np.stack([TOKENS] * COUNT), again))
    np.testing.assert_allclose(found, sharded["logits"], atol=1e-5)
    plain = load_model(directory)
    expected = np.asarray(merge(plain, theirs[10]).logits(TOKENS))
    merged = merge(sharded_model, ours[10])
    np.testing.assert_allclose(np.asarray(merged.logits(TOKENS)), expected, **LOGITS)
    shapes = jax.tree.map(lambda leaf: leaf.sharding.spec, merged.params)
    assert shapes == jax.tree.map(lambda leaf: leaf.sharding.spec, sharded_model.params)
    merged.save(tmp_path / "merged")
    np.testing.assert_allclose(np.asarray(load_model(tmp_path / "merged").logits(TOKENS)), expected, **LOGITS)
    save_peft(ours[10], tmp_path / "adapter")


@all_axes
def test_training_resumes_from_given_adapters(one_device, sharded, sharded_model, directory):
    more = adapt(sharded_model, UPDATES, init=sharded["adapters"])
    expected = adapt(load_model(directory), UPDATES, init=one_device["adapters"])
    for ours, theirs in zip(more.losses, expected.losses, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.slow
@all_axes
def test_chunks_that_memory_forces_change_nothing(one_device, sharded_model, monkeypatch):
    real = memory.plan_adapt
    monkeypatch.setattr(memory, "plan_adapt", lambda *args: dataclasses.replace(real(*args), chunk=8))
    small = adapt(sharded_model, UPDATES)
    assert small.stats["chunks"] == 2
    found = np.asarray(sharded_model.logits(np.stack([TOKENS] * COUNT), small))
    np.testing.assert_allclose(found, one_device["logits"], **LOGITS)


@pytest.mark.slow
def test_adapters_of_other_optimizers_equal_those_of_one_device(directory):
    factored = optax.adafactor(1e-2, min_dim_size_to_factor=4)  # whose state is not shaped like the parameters
    base = Update(sequences(0, [16, 12]), rank=4, epochs=2, learning_rate=5e-3)
    updates = [base.replace(optimizer=optimizer) for optimizer in ("lion", factored, "lion", factored)]
    ours, theirs = (adapt(load_model(directory, mesh=mesh), updates) for mesh in (make_mesh(2, 2, 2), None))
    for one, other in zip(ours.losses, theirs.losses, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_the_loss_in_chunks_equals_that_of_one_device(directory, mesh):
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(8, 2, 7, 64)).astype(np.float32)
    targets = generator.integers(0, 97, (8, 2, 7))

    def losses(model, **options):
        def total(hidden):
            found = training_step.token_losses(model.params, model.config, hidden, targets, **options)
            return (found * np.arange(found.size).reshape(found.shape)).sum(), found

        hidden_here = sharding.put(model.mesh, hidden, ("adapters", "rows", "time", "hidden"))
        with sharding.using(model.mesh):
            program = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(hidden_here).compile()
        (_, found), gradient = program(hidden_here)
        return np.asarray(found), np.asarray(gradient), program.as_text()

    found, gradient, text = losses(load_model(directory, mesh=mesh), logits_bytes=4 * 97 * 4)
    expected, slope, _ = losses(load_model(directory))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-4)
    crossing = [each for each in hlo.Program(text).collectives() if "data" in each.axes(mesh.shape)]
    assert all(each.bytes == 4 for each in crossing)  # the sum of the losses; a chunk has tokens of every shard


def test_no_collective_of_an_adapt_step_crosses_data(sharded_model, mesh, monkeypatch):
    texts = []
    program = training_step.program

    def recording(*args, **kwargs):
        texts.append(program.lower(*args, **kwargs).compile().as_text())
        return program(*args, **kwargs)

    monkeypatch.setattr(training_step, "program", recording)
    adapt(sharded_model, UPDATES)
    assert texts
    axes = set()
    for text in set(texts):
        for collective in hlo.Program(text).collectives():
            axes |= set(collective.axes(mesh.shape))
    assert axes == {name for name, size in mesh.shape.items() if name != "data" and size > 1}
