"""The loss of policy gradients, and advantages, on numbers that can be checked by hand."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.engine.policy import Rows, Statistics
from selfadapt.outer.dpo import PreferenceLoss
from selfadapt.outer.grpo import group_advantages
from selfadapt.outer.losses import PolicyLoss, token_weights
from selfadapt.outer.ppo import ValueLoss, generalized_advantages
from selfadapt.outer.rloo import leave_one_out


def evaluate(loss, logprobs, data, mask=None, values=None, entropy=None):
    """Returns the loss, its numbers, and its gradients with respect to log-probabilities and values."""
    logprobs = jnp.asarray(logprobs, jnp.float32)
    mask = jnp.ones(logprobs.shape, bool) if mask is None else jnp.asarray(mask, bool)
    rows = Rows(jnp.zeros(logprobs.shape, jnp.int32), mask, {k: jnp.asarray(v, jnp.float32) for k, v in data.items()})
    entropy = jnp.zeros(logprobs.shape) if entropy is None else jnp.asarray(entropy, jnp.float32)

    def total(logprobs, values):
        return loss(Statistics(logprobs, entropy, values), rows)

    values = jnp.zeros(logprobs.shape) if values is None else jnp.asarray(values, jnp.float32)
    (value, numbers), slopes = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(logprobs, values)
    return float(value), {name: float(each) for name, each in numbers.items()}, *map(np.asarray, slopes)


def test_reinforce_pushes_each_token_by_its_advantage_and_weight():
    data = {"advantage": [[2.0, -1.0]], "old": [[0.0, 0.0]], "weight": [[0.5, 0.25]]}
    value, _, slope, _ = evaluate(PolicyLoss(), [[-1.0, -3.0]], data)
    assert value == pytest.approx(-(0.5 * 2 * -1.0 + 0.25 * -1 * -3.0))
    np.testing.assert_allclose(slope, [[-1.0, 0.25]])


def test_a_ratio_beyond_the_clip_has_no_gradient_where_it_would_go_further():
    # Ratios 1.5, 1.5, 0.5, 0.5 and 1.1; clipped to [0.8, 1.3].
    ratios, advantages = np.asarray([1.5, 1.5, 0.5, 0.5, 1.1]), np.asarray([1.0, -1.0, 1.0, -1.0, 2.0])
    data = {"advantage": [advantages], "old": [[-2.0] * 5], "weight": [[1.0] * 5]}
    value, numbers, slope, _ = evaluate(PolicyLoss((0.2, 0.3)), [np.log(ratios) - 2], data)
    assert value == pytest.approx(-(1.3 - 1.5 + 0.5 - 0.8 + 2.2), rel=1e-5)
    np.testing.assert_allclose(slope, [[0.0, 1.5, -0.5, 0.0, -2.2]], atol=1e-6)
    assert (numbers["tokens"], numbers["clip_share"]) == (5, 2)
    assert numbers["kl_update"] == pytest.approx(np.sum(ratios - 1 - np.log(ratios)), rel=1e-5)


def test_the_divergence_and_the_entropy_have_their_coefficients():
    data = {"advantage": [[0.0]], "old": [[-1.0]], "reference": [[-1.5]], "weight": [[2.0]]}
    value, _, slope, _ = evaluate(PolicyLoss((0.2, 0.2), kl=0.1, entropy=0.01), [[-1.0]], data, entropy=[[3.0]])
    assert value == pytest.approx(2 * (0.1 * (np.exp(-0.5) + 0.5 - 1) - 0.01 * 3), rel=1e-5)
    assert slope[0, 0] == pytest.approx(2 * 0.1 * (1 - np.exp(-0.5)), rel=1e-5)


def test_tokens_that_were_not_written_count_nowhere():
    data = {"advantage": [[1.0, 0.0]], "old": [[-1.0, 0.0]], "weight": [[1.0, 0.0]]}
    _, numbers, slope, _ = evaluate(PolicyLoss((0.2, 0.2)), [[-0.5, -50.0]], data, mask=[[1, 0]])
    assert numbers["tokens"] == numbers["clip_share"] == 1 and slope[0, 1] == 0
    assert numbers["kl_update"] == pytest.approx(np.exp(0.5) - 1.5, rel=1e-5)


def test_the_loss_of_a_step_is_a_mean_over_edits_over_tokens_or_divided_by_a_constant():
    sizes = {3: 1, 7: 3}
    for normalize, expected in {"edit": (1 / 2, 1 / 6), "tokens": (1 / 4, 1 / 4), "constant": (1 / 20, 1 / 20)}.items():
        assert token_weights(normalize, sizes, 10) == pytest.approx(dict(zip(sizes, expected, strict=True)))


def test_groups_are_normalised_as_in_trl():
    rewards = np.asarray([0.2, 0.4, 0.9, 0.4, 0.0])
    deviation = statistics.stdev(rewards.tolist())  # of a sample, as torch.std
    np.testing.assert_allclose(group_advantages(rewards, True), (rewards - 0.38) / (deviation + 1e-4))
    np.testing.assert_allclose(group_advantages(rewards, False), rewards - 0.38)
    for equal in ([0.1, 0.1, 0.1], [0.7]):
        assert not group_advantages(np.asarray(equal), True).any() and not leave_one_out(np.asarray(equal)).any()


def test_leaving_one_out_compares_with_the_mean_of_the_others():
    np.testing.assert_allclose(leave_one_out(np.asarray([1.0, 0.0, 0.5, 0.5])), [2 / 3, -2 / 3, 0.0, 0.0])


def test_generalized_advantages_equal_the_sum_of_discounted_errors():
    values, discount, trace = np.asarray([0.3, -0.1, 0.6, 0.2]), 0.9, 0.8
    errors = np.asarray([0, 0, 0, 2.0]) + discount * np.append(values[1:], 0) - values
    expected = [sum((discount * trace) ** (k - t) * errors[k] for k in range(t, 4)) for t in range(4)]
    advantages, returns = generalized_advantages(2.0, values, discount, trace)
    np.testing.assert_allclose(advantages, expected)
    np.testing.assert_allclose(returns, expected + values)
    complete, returns = generalized_advantages(2.0, values, 1.0, 1.0)
    np.testing.assert_allclose(complete, 2.0 - values)
    np.testing.assert_allclose(returns, 2.0)


def test_the_value_head_learns_returns_and_a_prediction_that_moved_too_far_stops():
    data = {"advantage": [[0.0] * 3], "old": [[0.0] * 3], "weight": [[0.5] * 3]}
    data |= {"values": [[0.0, 0.0, 0.0]], "returns": [[1.0, 1.0, -1.0]]}
    value, numbers, slope, errors = evaluate(
        ValueLoss(PolicyLoss((0.2, 0.2)), 0.2), [[0.0] * 3], data, values=[[0.1, 0.5, 0.5]]
    )
    # The second is beyond 0.2 on its way to the return; the third went the wrong way and is pulled back.
    expected = 0.5 * (0.9**2 + 0.8**2 + 1.5**2) / 2
    assert value == pytest.approx(expected, rel=1e-5) and numbers["value_loss"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(errors, [[-0.45, 0.0, 0.75]], atol=1e-6)
    assert not slope.any()


def test_preferences_follow_the_formula_of_dpo_for_each_pair():
    logprobs = [[-1.0, -2.0], [-3.0, -0.5], [-1.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    reference = [[-1.5, -2.0], [-2.0, -0.5], [-1.0, 0.0], [-1.5, -1.5], [0.0, 0.0], [0.0, 0.0]]
    weight = [[0.5, 0.5]] * 2 + [[0.5, 0.0]] + [[0.5, 0.5]] + [[0.0, 0.0]] * 2  # two pairs, and one of padding
    value, numbers, slope, _ = evaluate(PreferenceLoss(2.0), logprobs, {"reference": reference, "weight": weight})
    margins = 2.0 * np.asarray([0.5 - -1.0, 0.0 - 1.0])
    assert value == pytest.approx(0.5 * np.log1p(np.exp(-margins)).sum(), rel=1e-5)
    assert numbers == pytest.approx({"pairs": 2, "accuracy": 1, "margin": margins.sum()})
    pull = 0.5 * 2.0 / (1 + np.exp(margins))
    np.testing.assert_allclose(slope[:4, 0], [-pull[0], pull[0], -pull[1], pull[1]], rtol=1e-5)
    assert not slope[4:].any()
