"""The programs that are lowered without arrays, for plans, are those that a call runs."""

import jax
import pytest

from selfadapt.engine import score
from selfadapt.engine.generate import batching, programs, sampling
from selfadapt.models.lora import abstract_lora
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

LISTS = [prompts_of((5, 20)), prompts_of((9, 2, 33), seed=1)]
SAMPLES, NEW = 2, 150


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def described(lowered):
    """Returns shape and dtype of all that goes into a program and comes out."""
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((lowered.args_info, lowered.out_info))]


def recorded(monkeypatch, module, *names):
    """Returns a list that fills with the programs of a module as they are run, each once."""
    programs = []

    def record(program):
        def recording(*args):
            if (found := described(program.lower(*args))) not in programs:
                programs.append(found)
            return program(*args)

        return recording

    for name in names:
        monkeypatch.setattr(module, name, record(getattr(module, name)))
    return programs


def planned(model, schedule, lists, **options):
    """Returns the shape of the one chunk that a schedule makes of lists of rows, and abstract adapters for it."""
    owners = [k for k, rows in enumerate(lists) for _ in rows]
    lengths = [len(row) for rows in lists for row in rows]
    (chunk,) = schedule(model, owners, lengths, stack=len(lists), **options)
    lora = abstract_lora(model.config, chunk.shape[0], 3, ["q_proj", "v_proj", "down_proj"], None)
    return (*chunk.shape, batching.padded_length(chunk, lengths)), lora


def test_generate_runs_the_programs_that_are_lowered_for_its_schedule(model, monkeypatch):
    ran = recorded(monkeypatch, programs, "start", "extend")
    adapters = random_adapters(model.config, 2)
    sampling.generate(model, LISTS, adapters=adapters, num_samples=SAMPLES, max_new_tokens=NEW, temperature=1.0)
    monkeypatch.undo()
    shape, lora = planned(model, sampling.schedule, LISTS, samples=SAMPLES, max_new_tokens=NEW)
    options = {"samples": SAMPLES, "mode": "plain"}
    first, last = (programs.cache_slots(shape[-1], count, NEW) for count in (1, NEW - 1))
    assert first < last
    wanted = [programs.lower_start(model, lora, shape, slots=first, **options)]
    for slots in (first, last):
        state = programs.abstract_state(model, lora, shape, slots=slots, **options)
        wanted.append(programs.lower_extend(model, lora, state, mode="plain"))
    assert ran == [described(lowered) for lowered in wanted]


def test_log_likelihood_runs_the_program_that_is_lowered_for_its_schedule(model, monkeypatch):
    ran = recorded(monkeypatch, score, "sum_logprobs")
    targets = [[[5, 6, 7], [8]], [[9]] * 3]
    score.log_likelihood(model, LISTS, targets, adapters=random_adapters(model.config, 2))
    monkeypatch.undo()
    joined = [[p + t for p, t in zip(*lists, strict=True)] for lists in zip(LISTS, targets, strict=True)]
    shape, lora = planned(model, score.schedule, joined)
    assert ran == [described(score.lower(model, lora, shape, score.target_width(3)))]
