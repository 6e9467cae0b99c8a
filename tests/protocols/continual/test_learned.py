"""What streams have learned: adapters of several steps, against sums and means in weight space."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.models.lora import Adapters
from selfadapt.protocols.continual.learned import Learned
from selfadapt.protocols.continual.remedies import REMEDIES
from tests.engine.tiny import CONFIG, random_adapters

STREAMS = 2


def step(seed, failed=()):
    """The adapters of a step; those of streams that failed are zero, as `adapt` returns them."""
    adapters = random_adapters(CONFIG, STREAMS, seed)
    keep = jnp.asarray([k not in failed for k in range(STREAMS)], jnp.float32)[:, None, None]
    b = {name: leaf * keep for name, leaf in adapters.lora.b.items()}
    lora = dataclasses.replace(adapters.lora, b=b, scale=adapters.lora.scale * 0.7)
    specs = tuple(dataclasses.replace(spec, scale=0.7) for spec in adapters.specs)
    return Adapters(lora, specs, ["diverged" if k in failed else "ok" for k in range(STREAMS)])


def change(adapters, k, name):
    """What adapter k adds to a weight, `[layers, in, out]`."""
    factors = (np.asarray(side[name][:, k], np.float64) for side in (adapters.lora.a, adapters.lora.b))
    return np.matmul(*factors) * float(adapters.lora.scale[k])


STEPS = [step(0), step(1, failed=[1]), step(2)]
LEARNT = {0: [0, 1, 2], 1: [0, 2]}  # the steps that did not fail, by stream


def learned(remedy):
    found = Learned(REMEDIES[remedy], STREAMS, len(STEPS))
    assert found.current() is None and found.below() is None
    for each in STEPS:
        found.add(each)
    return found


@pytest.mark.parametrize("remedy, power", [("sum", 0), ("mean", -1)])
def test_adapters_are_added_up_or_averaged_over_the_steps_that_did_not_fail(remedy, power):
    found = learned(remedy).current()
    assert found.status == ["ok", "ok"] and len(found) == STREAMS
    for k, steps in LEARNT.items():
        for name in found.lora.a:
            expected = sum(change(STEPS[number], k, name) for number in steps) * float(len(steps)) ** power
            np.testing.assert_allclose(change(found, k, name), expected, rtol=1e-4, atol=1e-5)
        assert found.specs[k].output_scale == pytest.approx(float(found.lora.scale[k]))


def test_only_adapters_that_add_up_are_trained_on_top_of_each_other():
    assert learned("sum").below() is not None and learned("mean").below() is None
    apart = learned("retrieved")
    assert apart.below() is None and apart.current() is None and apart.steps == len(STEPS)
    for number, each in enumerate(STEPS):
        for k in range(STREAMS):
            found = change(apart.all(), number * STREAMS + k, "v_proj")
            np.testing.assert_array_equal(found, change(each, k, "v_proj"))


def test_a_factor_is_needed_for_each_adapter():
    with pytest.raises(InvalidValueError, match="3 factors for 2 adapters"):
        STEPS[0].scaled([1.0, 2.0, 3.0])
