"""The kernel for long rows on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import splash
from selfadapt.parallel import sharding
from tests.models.test_splash import compared


def test_the_kernel_runs_on_each_devices_rows_and_heads(monkeypatch):
    mesh = sharding.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    for ours, theirs in compared(mesh):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    monkeypatch.setattr(sharding, "current_platform", lambda: "tpu")
    q, k = (jax.ShapeDtypeStruct((2, heads, 4, 128), jnp.bfloat16) for heads in (4, 1))
    with sharding.using(mesh):
        assert not splash.suits(q, k, None)  # heads are divided, and the one of the keys is not
