"""The decoder gives what `transformers` gives, on small random checkpoints of every family."""

import numpy as np
import pytest

from selfadapt.engine.generate.sampling import generate
from selfadapt.models.model import load_model
from tests.models.helpers import FAMILIES, tiny_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4  # of the largest logit
TIME = 80  # longer than the sliding windows (8) and than Llama's original context (32)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """A torch model and ours, from one checkpoint."""
    directory = tmp_path_factory.mktemp(request.param)
    theirs = tiny_checkpoint(request.param, directory, eos_token_id=None)  # no continuation ends early
    return theirs, load_model(directory)


def random_tokens(rows, time, seed=0):
    return np.random.default_rng(seed).integers(0, 97, (rows, time))


def torch_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def test_logits_equal_those_of_transformers(pair):
    theirs, ours = pair
    tokens = random_tokens(3, TIME)
    assert_close(ours.logits(tokens), torch_logits(theirs, tokens))


def test_rows_of_different_length_in_one_batch_are_as_each_alone(pair):
    theirs, ours = pair
    tokens = random_tokens(3, TIME, seed=1)
    lengths = (TIME, 41, 5)
    logits = np.asarray(ours.logits(np.where(np.arange(TIME) < np.array(lengths)[:, None], tokens, 0)))
    for row, length in enumerate(lengths):
        assert_close(logits[row, :length], torch_logits(theirs, tokens[row : row + 1, :length])[0])


def test_greedy_continuations_are_identical_for_64_tokens(pair):
    theirs, ours = pair
    prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in (16, 9, 3)]
    wanted = [
        theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    found = generate(ours, prompts, max_new_tokens=64, return_details=True)
    assert [list(generation.tokens) for generation in found] == wanted
    assert all(len(tokens) == 64 for tokens in wanted)


def test_saved_models_load_in_transformers_with_equal_logits(pair, tmp_path):
    theirs, ours = pair
    ours.save(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = random_tokens(1, TIME, seed=9)
    np.testing.assert_array_equal(torch_logits(again, tokens), torch_logits(theirs, tokens))


def test_a_config_made_in_memory_describes_the_same_model_to_transformers(pair, tmp_path):
    theirs, ours = pair
    ours.raw_config, kept = ours.config.to_json(), ours.raw_config
    try:
        ours.save(tmp_path)
    finally:
        ours.raw_config = kept
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = random_tokens(1, TIME, seed=10)
    assert_close(torch_logits(again, tokens), torch_logits(theirs, tokens))
    assert load_model(tmp_path).config == ours.config


def test_bfloat16_follows_torch_in_bfloat16(tmp_path):
    theirs = tiny_checkpoint("qwen3", tmp_path)
    tokens = random_tokens(1, 16, seed=11)
    exact = torch_logits(theirs, tokens)
    largest = np.abs(exact).max()
    ours = load_model(tmp_path, dtype="bfloat16").logits(tokens)
    assert ours.dtype == np.float32
    error = np.abs(np.asarray(ours) - exact).max() / largest
    torch_error = np.abs(torch_logits(theirs.to(torch.bfloat16), tokens) - exact).max() / largest
    assert error < 2 * torch_error
