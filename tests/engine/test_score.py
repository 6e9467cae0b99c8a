"""`log_likelihood` against a plain pass over each row."""

import dataclasses

import numpy as np
import pytest

from selfadapt.engine import score
from selfadapt.engine.generate.sampling import generate
from selfadapt.engine.score import log_likelihood
from tests.engine.tiny import prompts_of, random_adapters, slow_logprobs, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def slow_score(model, prompt, target, adapter=None):
    rows = slow_logprobs(model, [*prompt, *target], adapter)[len(prompt) - 1 : -1]
    return rows[np.arange(len(target)), list(target)].sum()


@pytest.mark.parametrize("changes", [{}, {"num_layers": 5, "windows": (0, 4, 0, 4, 0)}], ids=["unrolled", "scanned"])
def test_targets_score_as_in_a_plain_pass(changes):
    model = tiny_model(**changes)
    prompts, targets = prompts_of((3, 70, 1, 22)), prompts_of((5, 1, 30, 9), seed=1)
    expected = [slow_score(model, *pair) for pair in zip(prompts, targets, strict=True)]
    np.testing.assert_allclose(log_likelihood(model, prompts, targets), expected, rtol=1e-5)
    means = log_likelihood(model, prompts, targets, normalize=True)
    np.testing.assert_allclose(means, np.divide(expected, [5, 1, 30, 9]), rtol=1e-5)


def test_each_list_is_scored_by_its_own_adapter(model):
    adapters = random_adapters(model.config, 3)
    prompts = [prompts_of((4, 9)), [], prompts_of((6,), seed=2)]
    targets = [prompts_of((3, 2), seed=3), [], prompts_of((8,), seed=4)]
    found = log_likelihood(model, prompts, targets, adapters=adapters)
    assert [scores.shape for scores in found] == [(2,), (0,), (1,)]
    for adapter, heads, tails, scores in zip(adapters, prompts, targets, found, strict=True):
        for head, tail, value in zip(heads, tails, scores, strict=True):
            assert value == pytest.approx(slow_score(model, head, tail, adapter), rel=1e-5)


def test_sampled_texts_score_the_sum_of_their_log_probabilities(model):
    adapters = random_adapters(model.config, 2)
    prompts = prompts_of((12, 30))
    samples = generate(model, prompts, adapters=adapters, temperature=1.0, max_new_tokens=20, return_details=True)
    scores = log_likelihood(model, prompts, [[s.tokens for s in each] for each in samples], adapters=adapters)
    for values, each in zip(scores, samples, strict=True):
        np.testing.assert_allclose(values, [sample.logprobs.sum() for sample in each], atol=1e-3)


def test_scores_do_not_depend_on_chunks(model):
    prompts, targets = prompts_of((3, 40, 11, 22)), prompts_of((5, 6, 13, 9), seed=1)
    expected = log_likelihood(model, prompts, targets)
    np.testing.assert_allclose(log_likelihood(model, prompts, targets, memory_bytes=1), expected, rtol=1e-5)


def test_the_projection_to_the_vocabulary_may_be_done_in_blocks(model):
    tokens = np.asarray(prompts_of((16,) * 6)).reshape(1, 6, 16).astype(np.int32)
    start, length = np.arange(1, 7, dtype=np.int32)[None], np.full((1, 6), 7, np.int32)
    arguments = (model.params, None, tokens, start, length, model.config, score.target_width(7))
    expected = score.sum_logprobs(*arguments)
    three_positions = 8 * model.config.vocab_size * 3  # 48 do not divide by it
    np.testing.assert_allclose(score.sum_logprobs(*arguments, logits_bytes=5 * three_positions), expected, rtol=1e-5)
    for r in range(6):
        row = tokens[0, r].tolist()
        wanted = slow_score(model, row[: r + 1], row[r + 1 : r + 8])
        assert expected[0, r] == pytest.approx(wanted, rel=1e-5)


def test_a_target_text_gets_no_special_tokens(model):
    ids = model.tokenizer("Yes.", add_special_tokens=False)["input_ids"]
    assert log_likelihood(model, ["Is it so? "], ["Yes."]) == log_likelihood(model, ["Is it so? "], [ids])


def test_a_broken_adapter_scores_nan_and_harms_no_neighbour(model):
    adapters = random_adapters(model.config, 2)
    lora = adapters.lora
    broken = dataclasses.replace(adapters, lora=lora.replace(scale=lora.scale.at[0].set(np.nan)))
    pair = (prompts_of((4,)), prompts_of((3,), seed=1))
    healthy, found = log_likelihood(model, *pair, adapters=adapters), log_likelihood(model, *pair, adapters=broken)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], healthy[1])


@pytest.mark.parametrize(
    ("prompts", "targets", "message"),
    [
        ([[5], [6]], [[7]], "2 prompts and 1 targets"),
        ([[5], [6]], [[7], []], "target 1 has no tokens"),
        ([[5], ""], [[7], [8]], "prompt 1 has no tokens"),
        ([[5] * 200], [[7] * 100], "prompt 0 and its target have 300 tokens"),
        ([[5]], "answer", "targets is a single string"),
    ],
)
def test_bad_input_is_named_before_anything_runs(model, prompts, targets, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(model, prompts, targets)
