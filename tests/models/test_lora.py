"""The adapters that training starts from, without a device."""

import math

import numpy as np

from selfadapt.models.lora import initial_factors
from tests.engine.tiny import tiny_model


def test_initial_factors_are_uniform_in_pefts_bounds_and_depend_on_seed_and_target_alone():
    config = tiny_model().config
    features = config.projections()["q_proj"][0]
    bound = 1 / math.sqrt(features)
    drawn = initial_factors(config, 8, "q_proj", seed=0)
    assert drawn.shape == (config.num_layers, features, 8)
    assert 0.95 * bound < np.abs(drawn).max() <= bound
    assert abs(drawn.mean()) < 0.1 * bound and abs(drawn.std() - bound / math.sqrt(3)) < 0.1 * bound
    np.testing.assert_array_equal(drawn, initial_factors(config, 8, "q_proj", seed=0))
    assert not np.array_equal(drawn, initial_factors(config, 8, "q_proj", seed=1))
    assert not np.array_equal(drawn, initial_factors(config, 8, "o_proj", seed=0)[:, :features])
