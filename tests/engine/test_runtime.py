"""Programs side by side on a CPU, and their compiler options."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import TokenSequence, Update, adapt, generate
from selfadapt.engine import runtime
from selfadapt.engine.generate import programs, sampling
from tests.engine.tiny import prompts_of, random_adapters, tiny_model


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


def test_texts_of_two_streams_are_those_of_one(model, monkeypatch):
    adapters, options = random_adapters(model.config, 4), {"max_new_tokens": 20, "temperature": 1.0, "num_samples": 4}
    calls = [{}, {"adapters": adapters, "stop": "a"}, {"adapters": adapters[:1]}, {"memory_bytes": 2_000_000}]
    lists, chunks = prompts_of([9, 12, 5, 7] * 5), []
    for count in (1, 2):
        monkeypatch.setattr(runtime, "parallel_streams", lambda mesh, count=count: count)
        stats = [{} for _ in calls]
        texts = [generate(model, lists, **options, **call, stats=own) for call, own in zip(calls, stats, strict=True)]
        chunks.append([own["chunks"] for own in stats])
        if count == 1:
            expected = texts
    assert texts == expected
    assert chunks == [[1, 1, 1, 1], [2, 2, 2, 2]] and stats[-1]["filled"] > 0
    assert generate(model, lists[:3], stats=(few := {}), **options) and few["chunks"] == 1  # 12 texts


def test_an_error_in_one_chunk_of_texts_stops_the_others(model, monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 2)
    real, runs = programs.extend, []

    def failing(*args):
        runs.append(threading.current_thread())
        if len(runs) == 5:
            raise RuntimeError("stop here")
        return real(*args)

    monkeypatch.setattr(sampling.programs, "extend", failing)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="stop here"):
        generate(model, prompts_of([9] * 64), max_new_tokens=240, temperature=1.0)
    assert len(runs) <= 6 and len(set(runs)) == 2 and threading.active_count() == before


def test_jobs_that_have_not_begun_are_dropped_after_an_error():
    ran, stops, go = [], [], threading.Event()

    def job(number):
        ran.append(number)
        if number == 0:
            raise RuntimeError("first")
        go.wait(10)
        return number

    jobs = [functools.partial(job, number) for number in range(20)]
    with pytest.raises(RuntimeError, match="first"):
        runtime.side_by_side(jobs, 2, lambda: (stops.append(True), go.set()))
    assert stops == [True] and len(ran) < 20
    assert runtime.side_by_side(jobs[1:], 3, stops.clear) == list(range(1, 20)) and stops == [True]


def test_a_program_has_the_options_of_its_platform_and_is_a_part_of_another(monkeypatch):
    asked = []
    monkeypatch.setattr(
        runtime, "compiler_options", lambda kind: asked.append(kind) or {"xla_cpu_enable_fast_math": True}
    )

    @functools.partial(runtime.jit, static_argnames="power")
    def program(x, power):
        """Raises to a power."""
        return x**power

    assert program(3.0, power=2) == 9 and program(jnp.full(2, 2.0), power=3).tolist() == [8, 8]
    assert asked == ["cpu"] and program.__doc__ == "Raises to a power." and program.__name__ == "program"
    outer = jax.jit(lambda x: program(x, power=2) + 1)  # options are those of the outermost program alone
    assert outer(3.0) == 10 and jax.jit(lambda: program(3.0, power=2) + 1)() == 10 and asked == ["cpu"]
    assert program.lower(jax.ShapeDtypeStruct((4,), jnp.float32), power=2).out_info.shape == (4,)
