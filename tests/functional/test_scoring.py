"""`functional.score` gives the log-probabilities of `log_likelihood`, and decides what greedy decoding writes."""

import functools

import jax
import numpy as np
import pytest

from selfadapt import functional, generate, log_likelihood
from selfadapt.errors import InvalidValueError
from tests.engine.tiny import prompts_of, random_adapters, tiny_model

MOST = 4


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_layers=1)


def test_scores_are_those_of_the_engine_and_of_greedy_decoding(model):
    adapters = random_adapters(model.config, 2)
    asked = [prompts_of([6, 3, 5, 4], seed) for seed in (1, 2)]
    written = generate(model, asked, adapters=adapters, max_new_tokens=MOST + 1, return_details=True)
    answers = [[text.tokens[: 1 + q] for q, text in enumerate(texts)] for texts in written]
    after = np.asarray([[text.tokens[1 + q] for q, text in enumerate(texts)] for texts in written])
    ends = np.isin(np.arange(97), after[:, :2])  # what follows the others is the end of an answer only by chance
    expected = ends[after].tolist()
    answers[0][0] = ((answers[0][0][0] + 1) % 97,)
    expected[0][0] = False
    assert sorted(set(sum(expected, []))) == [False, True]
    arrays = [np.zeros((2, 4, width), np.int32) for width in (6, MOST)]
    lengths = [np.zeros((2, 4), np.int32) for _ in arrays]
    for tokens, length, lists in zip(arrays, lengths, (asked, answers), strict=True):
        for k, own in enumerate(lists):
            for q, ids in enumerate(own):
                tokens[k, q, : len(ids)], length[k, q] = ids, len(ids)
    lengths[1][1, 3] = 0  # no question
    program = jax.jit(functools.partial(functional.score, config=model.config))
    found = program(
        model.params,
        lora=adapters.lora,
        questions=arrays[0],
        question_lengths=lengths[0],
        answers=arrays[1],
        answer_lengths=lengths[1],
        ends=ends,
    )
    likelihoods = np.stack(log_likelihood(model, asked, answers, adapters=adapters))
    likelihoods[1, 3], expected[1][3] = 0.0, False
    np.testing.assert_allclose(found.logprobs, likelihoods, atol=1e-5)
    assert found.exact.tolist() == expected


def test_questions_beyond_the_models_positions_are_an_error(model):
    tokens, lengths = np.zeros((1, 1, 250), np.int32), np.ones((1, 1), np.int32)
    with pytest.raises(InvalidValueError, match="have 257 tokens with their padding"):
        functional.score(
            model.params, model.config, None, tokens, lengths, tokens[..., :6], lengths, np.zeros(97, bool)
        )
