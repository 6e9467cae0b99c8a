"""Streams of adapters side by side on a CPU."""

import threading

import numpy as np
import pytest

from selfadapt import TokenSequence, Update, adapt
from selfadapt.engine import runtime
from tests.engine.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def updates(count):
    return [Update([TokenSequence((5, 7, k + 1, 9))], rank=2, epochs=3, seed=k) for k in range(count)]


def test_two_streams_give_what_one_gives(model, monkeypatch):
    results = []
    for streams in (1, 2):
        monkeypatch.setattr(runtime, "parallel_streams", lambda mesh, count=streams: count)
        results.append(adapt(model, updates(5)))
    one, two = results
    assert one.stats["tokens"] == two.stats["tokens"] and one.stats["chunks"] == two.stats["chunks"] == 1
    for k in range(5):
        np.testing.assert_allclose(one.losses[k], two.losses[k], rtol=1e-5)


def test_progress_counts_every_micro_batch_of_every_stream(model, monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 2)
    seen = []
    adapt(model, updates(5), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (15, 15)


def test_an_error_in_one_stream_stops_the_others_and_is_raised(model, monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 2)
    calls = []

    def fail(done, total):
        calls.append(done)
        raise RuntimeError("stop here")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="stop here"):
        adapt(model, [update.replace(epochs=200) for update in updates(2)], progress=fail)
    assert len(calls) <= 2 and threading.active_count() == before
