"""The filters of sampling, by the program of each platform."""

import jax
import numpy as np
import pytest

from selfadapt.engine.generate.choose import filter_logits, sampling_mode
from selfadapt.parallel import sharding


@pytest.fixture(scope="module")
def rows():
    """Logits with many ties, filters of each row, and which tokens these keep."""
    generator = np.random.default_rng(0)
    logits = np.round(generator.normal(size=(24, 700)) * 4).astype(np.float32) / 2
    top_k = generator.integers(1, 300, 24) * (np.arange(24) % 3 > 0)
    top_p, kept = np.ones(24), np.ones(logits.shape, bool)
    for row, k in enumerate(top_k):
        if k:
            kept[row] = logits[row] >= np.sort(logits[row])[-k]
        if row % 4:
            mass = np.where(kept[row], np.exp(logits[row].astype(np.float64)), 0.0)
            levels = np.unique(logits[row][kept[row]])[::-1]
            masses = np.array([0.0, *(mass[logits[row] >= level].sum() for level in levels)]) / mass.sum()
            last = generator.choice(np.flatnonzero(np.diff(masses) > 1e-4))  # so that rounding decides nothing
            top_p[row] = (masses[last] + masses[last + 1]) / 2
            kept[row] &= logits[row] >= levels[last]
    return logits, top_p.astype(np.float32), top_k.astype(np.int32), kept


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_filters_keep_what_sorting_keeps_with_all_ties(rows, platform, monkeypatch):
    monkeypatch.setattr(sharding, "current_platform", lambda: platform)
    logits, top_p, top_k, kept = rows
    found = np.asarray(jax.jit(lambda *given: filter_logits(*given))(logits, top_p, top_k))
    np.testing.assert_array_equal(found, np.where(kept, logits, -np.inf))


def test_a_filter_that_no_row_uses_can_be_left_out(rows):
    logits, top_p, top_k, _ = rows
    for name, given in {"top_p": (top_p, None), "top_k": (None, top_k)}.items():
        unused = (top_p, 0 * top_k) if name == "top_p" else (np.ones_like(top_p), top_k)
        np.testing.assert_array_equal(filter_logits(logits, *given), filter_logits(logits, *unused))
        assert sampling_mode(top_k=name == "top_k", top_p=name == "top_p") == name
    assert (sampling_mode(top_k=True, top_p=True), sampling_mode(top_k=False, top_p=False)) == ("top_k top_p", "plain")
