"""The functional programs on eight devices give what one device gives, divided by XLA or by `shard_map`."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from selfadapt import Update, functional
from selfadapt.functional import Contexts, Vocabulary
from selfadapt.functional.encoding import padded
from selfadapt.parallel import sharding
from selfadapt.parallel.sharding import make_mesh
from selfadapt.plan import hlo
from tests.engine.tiny import prompts_of, tiny_model

pytestmark = pytest.mark.slow

CONTEXTS, SAMPLES, QUESTIONS = 8, 2, 3
UPDATE = Update((), rank=2, alpha=4, targets="q_proj,down_proj", epochs=2, learning_rate=5e-3, batch_size=4)


def contexts():
    """Random contexts of a vocabulary of 97 tokens."""

    def several(lengths, seed):
        return padded(prompts_of(lengths * CONTEXTS, seed), (CONTEXTS, QUESTIONS))

    return Contexts(
        prompts=padded(prompts_of([5, 9, 7, 4] * 2, 0)),
        prefixes=padded(prompts_of([2, 3, 1, 2] * 2, 1)),
        passages=padded(prompts_of([14, 9, 12, 11] * 2, 2)),
        questions=several([4, 6, 5], 3),
        answers=several([2, 1, 3], 4),
    )


@pytest.fixture(scope="module")
def plain():
    """A program of the arguments that a mesh divides, these arguments, and what it returns on one device."""
    model = tiny_model(num_layers=1)
    keys = functional.sample_keys([f"context {n}" for n in range(CONTEXTS)], 0, SAMPLES)
    inner = functional.inner_update(model.config, UPDATE, 4)
    tokens = np.arange(model.config.vocab_size)  # every eighth ends a line
    vocabulary = Vocabulary(np.where(tokens % 8, 0, 2).astype(np.int8), tokens % 4 == 0, np.zeros(0, np.int32))

    def program(contexts, keys):
        options = dict(inner=inner, new_tokens=12, line_tokens=6)
        return functional.episode(model.params, model.config, contexts, vocabulary, keys, **options)

    return program, (contexts(), keys), jax.jit(program)(contexts(), keys)


def check(found, expected):
    np.testing.assert_array_equal(found[0].tokens, expected[0].tokens)
    np.testing.assert_array_equal(found[1].exact, expected[1].exact)
    assert np.asarray(found[1].valid).all()
    # Adam magnifies differences in the order of sums, since it divides a gradient by its own size.
    np.testing.assert_allclose(found[1].logprobs, expected[1].logprobs, atol=1e-3)
    np.testing.assert_allclose(found[1].losses, expected[1].losses, rtol=1e-3)


def test_an_episode_divided_by_xla_is_that_of_one_device(plain):
    program, given, expected = plain
    mesh = make_mesh(8, 1, 1)
    given = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
    with sharding.using(mesh):
        compiled = jax.jit(program).lower(*given).compile()
        check(compiled(*given), expected)
    # Of sixteen adapters each device trains two; what crosses over are tokens and scores.
    largest = max((each.bytes for each in hlo.Program(compiled.as_text()).collectives()), default=0)
    assert largest <= 4 * CONTEXTS * SAMPLES * QUESTIONS * 97


def test_an_episode_in_shard_map_is_that_of_one_device(plain):
    program, given, expected = plain
    mesh, divided = make_mesh(8, 1, 1), PartitionSpec("data")
    # Loops begin with values that are the same on all devices, which the check of varying types rejects.
    mapped = jax.shard_map(program, mesh=mesh, in_specs=divided, out_specs=divided, check_vma=False)
    with sharding.using(mesh):
        check(jax.jit(mapped)(*given), expected)
