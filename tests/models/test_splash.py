"""The kernel for long rows on TPUs, interpreted, gives what attention at once gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.models import splash
from selfadapt.models.attention import Visibility, attention
from selfadapt.parallel import sharding

ROWS, HEADS, KEY_HEADS, TIME, FEATURES, BLOCK = 2, 4, 2, 200, 128, 128


def arrays():
    """Two rows of queries, keys, values and gradients, of three sequences each, with keys that nothing may see."""
    generator = np.random.default_rng(0)
    sides = [generator.normal(size=(ROWS, h, TIME, FEATURES)) for h in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)]
    segments = np.stack([np.searchsorted(cuts, np.arange(TIME), side="right") + 1 for cuts in [(50, 140), (3, 190)]])
    hidden = np.where(generator.random((ROWS, TIME)) < 0.1, 0, segments)
    return [jnp.asarray(side, jnp.float32) for side in sides], jnp.asarray(segments), jnp.asarray(hidden)


def compared(mesh=None):
    """Yields the kernel's output and gradients, each with those of attention at once."""
    (*sides, gradient), segments, hidden = arrays()
    bias = Visibility(jnp.arange(TIME)[None], segments, hidden).mask(None)
    seen = (bias > -1).any(axis=-1)[:, None, :, None]  # some queries see no key

    def both(run, under):
        def found(sides, gradient, under):
            output, pull = jax.vjp(lambda q, k, v: run(q, k, v, under), *sides)
            return output, *pull(gradient)

        return jax.jit(found)(sides, jnp.where(seen, gradient, 0), under)

    def kernel(q, k, v, segments):
        return splash.splash_attention(q, k, v, segments, block=BLOCK, interpret=True)

    with sharding.using(mesh):
        ours = both(kernel, (segments, hidden))
    theirs = both(attention, bias)
    assert np.isfinite(ours[0]).all()
    yield np.where(seen, ours[0], 0), np.where(seen, theirs[0], 0)
    yield from zip(ours[1:], theirs[1:], strict=True)


def test_the_kernel_gives_outputs_and_gradients_of_attention_at_once():
    for ours, theirs in compared():
        np.testing.assert_allclose(ours, theirs, atol=2e-5)  # sums over keys in float32, block by block


@pytest.mark.parametrize(
    ("platform", "dtype", "features", "window", "suits"),
    [
        ("tpu", jnp.bfloat16, 128, None, True),
        ("cpu", jnp.bfloat16, 128, None, False),
        ("tpu", jnp.float32, 128, None, False),  # the kernel's products round to bfloat16
        ("tpu", jnp.bfloat16, 64, None, False),
        ("tpu", jnp.bfloat16, 128, jnp.int32(0), False),
    ],
)
def test_only_what_the_kernel_computes_is_given_to_it(platform, dtype, features, window, suits, monkeypatch):
    monkeypatch.setattr(sharding, "current_platform", lambda: platform)
    q, k = (jax.ShapeDtypeStruct((1, heads, 4, features), dtype) for heads in (HEADS, KEY_HEADS))
    assert splash.suits(q, k, window) == suits
