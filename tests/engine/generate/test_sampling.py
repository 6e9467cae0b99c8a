"""`generate` against plain forward passes, its random numbers, and its bookkeeping."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from selfadapt.engine.generate import batching
from selfadapt.engine.generate.sampling import generate
from tests.engine.tiny import greedy_tokens, prompts_of, random_adapters, slow_logprobs, tiny_model

LENGTHS = (3, 17, 1, 40, 16)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def tokens_of(generations):
    return [generation.tokens for generation in generations]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 6, "tie_word_embeddings": False, "qk_norm": True},  # scanned layers, one stacked cache
        {"windows": (4, 0)},
        {"num_layers": 5, "windows": (0, 5, 5, 0, 5)},
    ],
    ids=["unrolled", "scanned", "window", "scanned-window"],
)
def test_greedy_continuations_are_the_most_probable_tokens_of_a_plain_pass(changes):
    model = tiny_model(**changes)
    prompts = prompts_of(LENGTHS)
    count = 140  # past the first size of the cache
    found = generate(model, prompts, max_new_tokens=count, return_details=True)
    for prompt, generation in zip(prompts, found, strict=True):
        assert len(generation.tokens) == count
        assert generation.tokens == greedy_tokens(model, prompt, generation.tokens)
        assert generation.finish == "length"


def test_each_list_is_continued_by_its_own_adapter(model):
    adapters = random_adapters(model.config, 3)
    lists = [prompts_of((5, 20)), [], prompts_of((9, 2, 33), seed=1)]
    found = generate(model, lists, adapters=adapters, max_new_tokens=10, return_details=True)
    assert [len(each) for each in found] == [2, 0, 3]
    for adapter, prompts, generations in zip(adapters, lists, found, strict=True):
        for prompt, generation in zip(prompts, generations, strict=True):
            assert generation.tokens == greedy_tokens(model, prompt, generation.tokens, adapter)


def test_a_flat_list_is_continued_by_every_adapter(model):
    adapters = random_adapters(model.config, 2)
    prompts = prompts_of((4, 8))
    shared = generate(model, prompts, adapters=adapters, max_new_tokens=6)
    assert shared == generate(model, [prompts, prompts], adapters=adapters, max_new_tokens=6)
    assert shared[0] != shared[1]


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_log_probabilities_equal_a_teacher_forced_pass(model, temperature):
    adapters = random_adapters(model.config, 2)
    prompts = prompts_of((12, 30))
    found = generate(
        model,
        prompts,
        adapters=adapters,
        max_new_tokens=20,
        temperature=temperature,
        top_k=20,
        top_p=0.9,
        return_details=True,
    )
    for adapter, generations in zip(adapters, found, strict=True):
        for prompt, generation in zip(prompts, generations, strict=True):
            row = slow_logprobs(model, [*prompt, *generation.tokens], adapter)[len(prompt) - 1 : -1]
            expected = row[np.arange(20), list(generation.tokens)]
            np.testing.assert_allclose(generation.logprobs, expected, atol=1e-4)


def test_a_sample_does_not_depend_on_its_batch(model):
    prompts = prompts_of((7, 30, 12, 18, 5))
    names = [f"passage {i}" for i in range(5)]
    options = {"temperature": 1.0, "max_new_tokens": 12, "seed": 4, "return_details": True}
    together = generate(model, prompts, num_samples=4, ids=names, **options)
    assert len(set(tokens_of(together[0]))) > 1, "samples of a prompt differ"
    alone = generate(model, prompts[2:3], num_samples=2, ids=names[2:3], **options)
    assert tokens_of(alone[0]) == tokens_of(together[2][:2])
    backwards = generate(model, prompts[::-1], num_samples=4, ids=names[::-1], **options)
    assert [tokens_of(each) for each in backwards[::-1]] == [tokens_of(each) for each in together]
    in_chunks = generate(model, prompts, num_samples=4, ids=names, memory_bytes=1, **options)
    assert [tokens_of(each) for each in in_chunks] == [tokens_of(each) for each in together]
    filtered_beside = generate(model, [*prompts[:2], prompts[2]], ids=names[:3], top_p=[0.5, 0.9, 1.0], **options)
    assert filtered_beside[2].tokens == together[2][0].tokens


def test_the_random_key_is_of_seed_id_and_sample_index(model):
    prompt = prompts_of((6,))[0]
    options = {"temperature": 1.0, "max_new_tokens": 16}
    first, second = generate(model, [prompt], num_samples=2, ids=["a"], **options)[0]
    assert first != second
    assert generate(model, [prompt, prompt], ids=["a", "a"], **options) == [first, second]
    assert generate(model, [prompt], ids=["a"], seed=1, **options) != [first]
    assert generate(model, [prompt], ids=["b"], **options) != [first]
    assert generate(model, [prompt, prompt], **options) == generate(model, [prompt], num_samples=2, **options)[0]


def test_adapters_that_share_a_prompt_share_its_keys(model):
    one = random_adapters(model.config, 1)
    twice = type(one).stack([one, one])
    found = generate(model, prompts_of((6,)), adapters=twice, temperature=1.0, max_new_tokens=16)
    assert found[0] == found[1]


def frequencies(model, prompt, count, **options):
    """Returns how often each token came first among `count` samples of a prompt."""
    samples = generate(model, [prompt], num_samples=count, max_new_tokens=1, return_details=True, **options)[0]
    return np.bincount([sample.tokens[0] for sample in samples], minlength=model.config.vocab_size)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.7, 0), (1.0, 1.0, 7), (1.5, 0.8, 12)]
)
def test_tokens_are_as_frequent_as_their_probabilities(model, temperature, top_p, top_k):
    prompt, count = prompts_of((9,))[0], 6000
    logprobs = slow_logprobs(model, prompt)[-1].astype(np.float64) / temperature
    probabilities = np.exp(logprobs) / np.exp(logprobs).sum()
    order = np.argsort(-probabilities)
    if top_k:
        probabilities[order[top_k:]] = 0
        probabilities /= probabilities.sum()
    if top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= top_p]] = 0
        probabilities /= probabilities.sum()
    observed = frequencies(model, prompt, count, temperature=temperature, top_p=top_p, top_k=top_k, seed=1)
    assert observed[probabilities == 0].sum() == 0
    common = probabilities * count >= 5
    pooled_observed = [*observed[common], observed[~common].sum()]
    pooled_expected = [*(probabilities[common] * count), probabilities[~common].sum() * count]
    if pooled_expected[-1] == 0:
        pooled_observed, pooled_expected = pooled_observed[:-1], pooled_expected[:-1]
    assert stats.chisquare(pooled_observed, pooled_expected).pvalue > 1e-3


def test_top_p_keeps_the_smallest_set_with_the_mass_and_always_one_token(model):
    prompt = prompts_of((9,))[0]
    best = int(slow_logprobs(model, prompt)[-1].argmax())
    observed = frequencies(model, prompt, 200, temperature=1.0, top_p=1e-6)
    assert observed[best] == 200
    assert frequencies(model, prompt, 200, temperature=5.0, top_k=1)[best] == 200


def test_filters_agree_with_transformers():
    torch = pytest.importorskip("torch")
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    from selfadapt.engine.generate.choose import filter_logits

    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(6, 300)) * 3).astype(np.float32)
    top_p, top_k = np.array([0.1, 0.5, 0.9, 0.99, 1.0, 0.7]), np.array([0, 5, 50, 0, 3, 299])
    found = np.asarray(filter_logits(jnp.asarray(logits), jnp.asarray(top_p, jnp.float32), jnp.asarray(top_k)))
    for row, p, k, mine in zip(logits, top_p, top_k, found, strict=True):
        scores = torch.tensor(row)[None]
        if k:
            scores = TopKLogitsWarper(int(k))(None, scores)
        if p < 1:
            scores = TopPLogitsWarper(float(p))(None, scores)
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(scores[0].numpy()))


def test_each_prompt_has_its_own_temperature(model):
    prompts = prompts_of((6, 6, 6))
    found = generate(model, prompts, temperature=[0.0, 1.0, 3.0], max_new_tokens=8, return_details=True)
    assert found[0].tokens == greedy_tokens(model, prompts[0], found[0].tokens)
    assert found[1].tokens != greedy_tokens(model, prompts[1], found[1].tokens)
    alone = generate(model, prompts[2:], temperature=3.0, max_new_tokens=8, return_details=True)
    assert alone[0].tokens == found[2].tokens


def test_a_text_ends_before_a_stop_string_that_spans_tokens(model):
    prompts = prompts_of((6, 11, 4))
    full = generate(model, prompts, temperature=1.0, max_new_tokens=70)
    stop = full[0][40:43]  # one token per character: three tokens, past the first run of `extend`
    found = generate(model, prompts, temperature=1.0, max_new_tokens=70, stop=stop, return_details=True)
    cut = full[0].index(stop)
    assert found[0].text == full[0][:cut]
    assert found[0].finish == "stop"
    assert len(found[0].tokens) == len(found[0].logprobs)
    assert model.tokenizer.decode(found[0].tokens, skip_special_tokens=True).endswith(stop)
    for text, generation in zip(full[1:], found[1:], strict=True):
        assert generation.text == text.split(stop)[0]


def test_the_first_of_several_stop_strings_counts(model):
    prompt = prompts_of((6,))
    full = generate(model, prompt, temperature=1.0, max_new_tokens=30)[0]
    cuts = [full.index(full[20]), full.index(full[9])]
    assert generate(model, prompt, temperature=1.0, max_new_tokens=30, stop=[full[20], full[9]]) == [full[: min(cuts)]]
    # Two strings that end with one token: the one that begins first.
    at = next(i for i in range(5, 30) if full[i] not in full[:i])
    assert generate(model, prompt, temperature=1.0, max_new_tokens=30, stop=[full[at], full[at - 1 : at + 1]]) == [
        full[: at - 1]
    ]


def test_the_end_of_sequence_token_ends_a_text_and_is_returned(model):
    prompts = prompts_of((6, 11))
    full = generate(model, prompts, temperature=1.0, max_new_tokens=50, return_details=True)
    end = full[0].tokens[35]
    at = full[0].tokens.index(end)
    ending = tiny_model(eos_token_ids=(2, end))
    found = generate(ending, prompts, temperature=1.0, max_new_tokens=50, return_details=True)
    assert found[0].tokens == full[0].tokens[: at + 1]
    assert found[0].finish == "stop"
    assert len(found[0].logprobs) == at + 1


def test_a_special_token_can_be_a_stop_string(model):
    prompts = prompts_of((6,))
    found = generate(
        model, prompts, temperature=3.0, max_new_tokens=100, num_samples=8, stop="</s>", return_details=True
    )
    ends = [sample for sample in found[0] if sample.finish == "stop"]
    assert ends
    assert all(sample.tokens.index(2) == len(sample.tokens) - 1 for sample in ends)


def test_all_samples_share_one_prefill_of_their_prompt(model):
    counts = {}
    prompts = prompts_of((16, 16, 16))
    generate(model, prompts, num_samples=5, temperature=1.0, max_new_tokens=4, stats=counts)
    assert counts["prefill_tokens"] == counts["prompt_tokens"] == 48
    assert counts["new_tokens"] == counts["decode_tokens"] == 3 * 5 * 4


def test_decoding_stops_when_all_rows_have_ended(model):
    prompts = prompts_of((6,))
    first = generate(model, prompts, max_new_tokens=1, return_details=True)[0].tokens[0]
    counts = {}
    generate(tiny_model(eos_token_ids=(first,)), prompts, max_new_tokens=200, stats=counts)
    assert counts["decode_tokens"] == 1
    options = {"temperature": 1.0, "max_new_tokens": 30}
    later = generate(model, prompts, return_details=True, **options)[0].tokens
    at = next(i for i in range(5, 30) if later[i] not in later[:i])  # inside a chunk of steps
    generate(tiny_model(eos_token_ids=(later[at],)), prompts, stats=(counts := {}), **options)
    assert counts["decode_tokens"] == at + 1


def test_a_prompt_without_padding_keeps_its_last_slot(model):
    for length in (batching.LENGTH_GRANULE, batching.LENGTH_GRANULE - 1):
        prompt = prompts_of((length,))[0]
        (written,) = generate(model, [prompt], max_new_tokens=6, return_details=True)
        assert written.tokens == greedy_tokens(model, prompt, written.tokens)


def test_each_step_has_noise_of_its_own(model):
    (written,) = generate(model, prompts_of((6,)), temperature=1e6, max_new_tokens=16, return_details=True)
    assert len(set(written.tokens)) > 8  # nearly uniform, so that the noise alone decides


def test_samples_of_one_prompt_come_in_one_list(model):
    prompts = prompts_of((6, 7))
    assert [len(texts) for texts in generate(model, prompts, num_samples=1, max_new_tokens=2)] == [1, 1]
    assert all(isinstance(text, str) for text in generate(model, prompts, max_new_tokens=2))
    assert generate(model, [], max_new_tokens=2) == []
    assert generate(model, [[], []], adapters=random_adapters(model.config, 2)) == [[], []]


def test_texts_are_prompts_as_well_as_token_ids(model):
    text = "What is it?"
    ids = model.tokenizer(text)["input_ids"]
    assert generate(model, [text]) == generate(model, [ids]) == generate(model, [np.asarray(ids)])


def test_a_broken_adapter_ends_as_invalid_and_harms_no_neighbour(model):
    adapters = random_adapters(model.config, 3)
    prompts = prompts_of((6, 9))
    healthy = generate(model, prompts, adapters=adapters, temperature=1.0, max_new_tokens=40, return_details=True)
    broken = dataclasses.replace(
        adapters, lora=adapters.lora.replace(a=jax.tree.map(lambda leaf: leaf.at[:, 1].set(jnp.nan), adapters.lora.a))
    )
    found = generate(model, prompts, adapters=broken, temperature=1.0, max_new_tokens=40, return_details=True)
    for k in (0, 2):
        for before, after in zip(healthy[k], found[k], strict=True):
            assert before.tokens == after.tokens
            np.testing.assert_array_equal(before.logprobs, after.logprobs)
    assert [(sample.finish, sample.tokens, sample.text) for sample in found[1]] == [("invalid", (), "")] * 2


def test_rows_of_very_different_length_run_in_different_chunks():
    lengths = [700, 20, 30, 500, 10, 60, 300]
    chunks = batching.plan_chunks([0] * 7, lengths, lambda length: length, 1 << 30)
    assert [sorted(lengths[i] for i in chunk.rows[0]) for chunk in chunks] == [[500, 700], [300], [10, 20, 30, 60]]
    owners = [0] * 9 + [1] * 8 + [2]
    chunks = batching.plan_chunks(owners, [10] * 18, lambda length: length, 1 << 30)
    assert [chunk.adapters for chunk in chunks] == [(0, 1), (2,)]


def test_similar_rows_make_several_chunks_of_one_shape():
    def parts(rows):
        return min(2, rows)

    lengths = [10 + i % 5 for i in range(40)]
    chunks = batching.plan_chunks([0] * 40, lengths, lambda length: length, 1 << 30, waiting=True, parts=parts)
    assert [(chunk.shape, len(chunk.indices), chunk.waiting) for chunk in chunks] == [((1, 20), 20, ())] * 2
    assert sorted(chunks[0].indices + chunks[1].indices) == list(range(40))
    most = [max(lengths[index] for index in chunk.indices) for chunk in chunks]
    assert most == [14, 14]
    few = batching.plan_chunks([0] * 40, lengths, lambda length: 100, 800, waiting=True, parts=parts)
    assert [(chunk.shape, len(chunk.rows[0]), len(chunk.waiting)) for chunk in few] == [((1, 8), 8, 12)] * 2
    owners = [k for k in range(10) for _ in range(4)]
    chunks = batching.plan_chunks(owners, lengths, lambda length: length, 1 << 30, stack=10, parts=parts)
    assert [chunk.adapters for chunk in chunks] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    assert [len(chunk.adapters) for chunk in batching.plan_chunks([0], [9], lambda length: 1, 10, parts=parts)] == [1]


def test_chunks_keep_to_the_memory_budget():
    chunks = batching.plan_chunks([k for k in range(10) for _ in range(4)], [10] * 40, lambda length: 100, 1700)
    assert sorted(i for chunk in chunks for _, _, i in chunk.places()) == list(range(40))
    assert all(chunk.shape[0] * chunk.shape[1] * 100 <= 1700 for chunk in chunks)
    chunks = batching.plan_chunks([0] * 40, [10] * 40, lambda length: 100, 1700)
    assert all(len(chunk.adapters) == 1 and len(chunk.rows[0]) <= 17 for chunk in chunks)
    assert len(chunks) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[5], []]}, "prompt 1 has no tokens"),
        ({"prompts": [""]}, "prompt 0 has no tokens"),
        ({"prompts": "text"}, "pass a list"),
        ({"prompts": [[5], None]}, r"prompts\[1\] is None"),
        ({"prompts": [[5], [97]]}, "prompt 1 has a token id outside 0 .. 96"),
        ({"prompts": [[5] * 3, [5] * 250]}, "prompt 1 has 250 tokens, and with max_new_tokens=8 needs 258 positions"),
        ({"temperature": -1}, "temperature of prompt 0 is -1"),
        ({"temperature": [0.5, float("nan")]}, "temperature of prompt 1 is nan"),
        ({"temperature": [0.5]}, "temperature has 1 values, but there are 2 prompts"),
        ({"top_p": 0.0}, "top_p of prompt 0 is 0.0"),
        ({"top_p": 1.5}, "top_p of prompt 0 is 1.5"),
        ({"top_k": -1}, "top_k of prompt 0 is -1"),
        ({"top_k": 2.5}, "top_k of prompt 0 is 2.5"),
        ({"stop": ["."] + [""]}, "empty string"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"prompts": [[[5], [6]]]}, "needs adapters"),
        ({"ids": ["a"]}, "ids has 1 values"),
    ],
)
def test_bad_input_is_named_before_anything_runs(model, options, message):
    options = {"prompts": [[5, 6], [7]], "max_new_tokens": 8} | options
    with pytest.raises(ValueError, match=message):
        generate(model, options.pop("prompts"), **options)


def test_the_number_of_lists_must_be_the_number_of_adapters(model):
    adapters = random_adapters(model.config, 3)
    with pytest.raises(ValueError, match="2 lists for 3 adapters"):
        generate(model, [[[5]], [[6]]], adapters=adapters)
    with pytest.raises(ValueError, match="prompt 0 of adapter 1 has 300 tokens"):
        generate(model, [[], [[5] * 300], []], adapters=adapters)
    with pytest.raises(ValueError, match="another base"):
        generate(model, [[5]], adapters=random_adapters(dataclasses.replace(model.config, hidden_size=16), 1))
