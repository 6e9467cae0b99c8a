"""A bfloat16 base with float32 adapters gives what torch and PEFT give in bfloat16.

The error of a bfloat16 result is its distance from the float32 result of torch. Both libraries round to 8 bits after
every operation but in another order, so their errors are equal in size and not in detail: ours may be at most 1.5
times torch's. Where the float32 part alone is compared (merging), results agree to one unit in the last place.
"""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.engine.generate.sampling import generate
from selfadapt.engine.score import log_likelihood
from selfadapt.models import decoder
from selfadapt.models.lora import Lora
from selfadapt.models.model import load_model
from selfadapt.models.peft import load_peft, merge
from tests.models.helpers import tiny_checkpoint

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

COUNT = 3  # adapters
LARGER = 1.5  # our error may be this many times torch's
TOKENS = np.random.default_rng(0).integers(3, 97, (2, 24))
PROMPTS = [TOKENS[0, :12].tolist(), TOKENS[1, :7].tolist()]


@dataclasses.dataclass
class Setup:
    """One base in float32 and bfloat16 with the same float32 adapters, in torch and here."""

    exact: list  # PEFT models, float32
    theirs: list  # PEFT models on a bfloat16 base
    ours: object
    adapters: object


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bfloat16")
    # Five layers, so that they are scanned.
    base = tiny_checkpoint("qwen2", directory, num_hidden_layers=5).to(torch.bfloat16).float()
    exact, theirs = [], []
    for k in range(COUNT):
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules="all-linear")
        adapted = peft.get_peft_model(copy.deepcopy(base), config).eval()
        torch.manual_seed(k)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.15)
        adapted.save_pretrained(directory / str(k))
        exact.append(adapted)
        rounded = copy.deepcopy(base).to(torch.bfloat16)
        theirs.append(peft.PeftModel.from_pretrained(rounded, directory / str(k), is_trainable=True).eval())
        assert {weight.dtype for name, weight in theirs[-1].named_parameters() if "lora_" in name} == {torch.float32}
    ours = load_model(directory, dtype="bfloat16")
    return Setup(exact, theirs, ours, load_peft(ours, [directory / str(k) for k in range(COUNT)]))


def torch_logprobs(model, tokens):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor(np.atleast_2d(tokens))).logits.float(), -1).numpy()


def error(values, exact):
    return np.linalg.norm(np.asarray(values, np.float64) - exact)


def test_logits_are_as_near_to_float32_as_those_of_peft(setup):
    ours = setup.ours.logits(np.stack([TOKENS] * COUNT), setup.adapters)
    for k in range(COUNT):
        with torch.no_grad():
            exact, theirs = (m[k](torch.tensor(TOKENS)).logits.float().numpy() for m in (setup.exact, setup.theirs))
        assert 0 < error(ours[k], exact) < LARGER * error(theirs, exact)


def torch_gradient(model):
    model.zero_grad()
    logits = model(torch.tensor(TOKENS)).logits.float()
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(TOKENS[:, 1:]).flatten()).backward()
    return {name: weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_of_adapters_are_computed_in_float32_and_are_as_near_as_those_of_peft(setup):
    model, config = setup.ours, setup.ours.config

    @jax.jit
    def gradient(lora, params):
        def loss(a, b):
            hidden = decoder.forward(params, config, TOKENS[None], lora=Lora(a, b, lora.scale))
            logprobs = jax.nn.log_softmax(decoder.logits(params, config, hidden[:, :, :-1]), -1)
            return -jnp.take_along_axis(logprobs, TOKENS[None, :, 1:, None], -1).mean()

        return jax.grad(loss, (0, 1))(lora.a, lora.b)

    ours = dict(zip("AB", gradient(setup.adapters[0].lora, model.params), strict=True))
    exact, theirs = torch_gradient(setup.exact[0]), torch_gradient(setup.theirs[0])
    errors, torch_errors = [], []
    for name, wanted in exact.items():
        layer, target, side = int(name.split(".layers.")[1].split(".")[0]), name.split(".")[-4], name.split("_")[-1][0]
        found = np.asarray(ours[side][target][layer, 0]).T
        errors.append(error(found, wanted))
        torch_errors.append(error(theirs[name], wanted))
        # Products in bfloat16 would leave values of 8 bits.
        assert np.mean(found == found.astype(jnp.bfloat16).astype(np.float32)) < 0.1
    assert np.linalg.norm(errors) < LARGER * np.linalg.norm(torch_errors)


def test_merged_weights_equal_those_of_peft(setup):
    for k in (0, 1):
        merged = merge(setup.ours, setup.adapters[k])
        expected = copy.deepcopy(setup.theirs[k]).merge_and_unload().state_dict()
        for target, weights in merged.params["layers"].items():
            if target not in setup.adapters.lora.a:
                continue
            for layer in range(merged.config.num_layers):
                (name,) = [n for n in expected if f"layers.{layer}." in n and n.endswith(f"{target}.weight")]
                theirs, ours = expected[name].float().numpy().T, np.asarray(weights[layer], np.float32)
                # A sum in another order falls to the other side where the exact value is between two numbers.
                assert np.mean(ours == theirs) > 0.999
                np.testing.assert_allclose(ours, theirs, rtol=2**-7)


def test_log_likelihoods_are_as_near_to_float32_as_those_of_peft(setup):
    targets = [TOKENS[0, 12:].tolist(), TOKENS[1, 7:15].tolist()]
    ours = log_likelihood(setup.ours, PROMPTS, targets, adapters=setup.adapters)

    def by_torch(model, prompt, target):
        rows = torch_logprobs(model, [*prompt, *target])[0, len(prompt) - 1 : -1]
        return rows[np.arange(len(target)), target].sum()

    pairs = list(zip(PROMPTS, targets, strict=True))
    exact, theirs = (
        np.array([[by_torch(m, *pair) for pair in pairs] for m in models]) for models in (setup.exact, setup.theirs)
    )
    assert np.asarray(ours).dtype == np.float32
    assert 0 < error(ours, exact) < LARGER * error(theirs, exact)


def test_generated_tokens_are_the_most_probable_ones_of_peft_within_rounding(setup):
    found = generate(setup.ours, PROMPTS, adapters=setup.adapters, max_new_tokens=40, return_details=True)
    for theirs, exact, samples in zip(setup.theirs, setup.exact, found, strict=True):
        for prompt, sample in zip(PROMPTS, samples, strict=True):
            tokens, rows = list(sample.tokens), slice(len(prompt) - 1, -1)
            logprobs, wanted = (torch_logprobs(m, [*prompt, *tokens])[0, rows] for m in (theirs, exact))
            chosen = np.arange(len(tokens)), tokens
            largest = np.abs(logprobs - wanted).max()  # torch's own error
            assert (logprobs.max(-1) - logprobs[chosen]).max() < 2 * LARGER * largest
            assert error(sample.logprobs, wanted[chosen]) < LARGER * error(logprobs[chosen], wanted[chosen])


def test_adapters_together_give_what_each_gives_alone(setup):
    """With equal shapes: each adapter alone runs in a stack of as many, all of them itself."""
    together = generate(setup.ours, PROMPTS, adapters=setup.adapters, max_new_tokens=40, return_details=True)
    scores = log_likelihood(setup.ours, PROMPTS, [[5, 6, 7], [8]], adapters=setup.adapters)
    logits = np.asarray(setup.ours.logits(np.stack([TOKENS] * COUNT), setup.adapters))
    for k in range(COUNT):
        alone = type(setup.adapters).stack([setup.adapters[k]] * COUNT)
        for ours, theirs in zip(
            generate(setup.ours, PROMPTS, adapters=alone, max_new_tokens=40, return_details=True)[k],
            together[k],
            strict=True,
        ):
            assert ours.tokens == theirs.tokens
            np.testing.assert_array_equal(ours.logprobs, theirs.logprobs)
        np.testing.assert_array_equal(
            log_likelihood(setup.ours, PROMPTS, [[5, 6, 7], [8]], adapters=alone)[k], scores[k]
        )
        np.testing.assert_array_equal(setup.ours.logits(np.stack([TOKENS] * COUNT), alone)[k], logits[k])
