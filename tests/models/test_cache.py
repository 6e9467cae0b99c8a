"""Decoding with a cache, by the program of each platform."""

import numpy as np
import pytest

from selfadapt.parallel import sharding
from tests.models.decoding import decoded_and_whole


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("layers", [2, 5], ids=["unrolled", "scanned"])
def test_decoded_tokens_have_the_outputs_of_a_pass_over_the_row(platform, layers, monkeypatch):
    monkeypatch.setattr(sharding, "current_platform", lambda: platform)
    found, whole = decoded_and_whole(layers)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)  # sums of float32 in another order
