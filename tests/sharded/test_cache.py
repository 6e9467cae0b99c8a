"""Decoding on a mesh, by the program for TPUs."""

import jax
import numpy as np
import pytest

from selfadapt.parallel import sharding
from tests.models.decoding import decoded_and_whole


@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_decoded_tokens_have_the_outputs_of_a_pass_over_the_row(axis, monkeypatch):
    monkeypatch.setattr(sharding, "current_platform", lambda: "tpu")
    mesh = sharding.make_mesh(**{"data": 1, axis: 2}, devices=jax.devices()[:2])
    found, whole = decoded_and_whole(5, mesh)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)  # sums of float32 in another order
