"""Episodes compared with the host's path: the knowledge domain's rows, `adapt`, `log_likelihood`, and the loop."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from selfadapt import Edit, adapt, functional, load_model, log_likelihood, loop
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain
from selfadapt.errors import InvalidValueError
from selfadapt.functional.encoding import padded
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy
from tests.worlds import first_layer

pytestmark = pytest.mark.usefixtures("one_stream")

LINES, WIDTH = 8, 32


def make(model, count, **inner):
    """Returns the settings, the domain and held-out passages of the embedded model's world."""
    config = experiment()
    config.inner.update(inner)
    config = resolve(config)
    domain = make_domain(config, model)
    return Settings.of(config), domain, domain.tasks("heldout", count)


def updates_of(domain, tasks, texts):
    """Returns each text as an edit, with the update that the domain makes of it."""
    return [(Edit(task.id, 0, "", text), domain.apply(task, text)) for task, text in zip(tasks, texts, strict=True)]


def host_scores(model, domain, tasks, pairs):
    """Returns the adapters of edits, and the log-likelihood of each answer, `[edits, questions]`."""
    adapters = adapt(model, [update for _, update in pairs])
    answers = [[f" {question.answers[0]}" for question in task.questions] for task in tasks]
    asked = [domain.questions(task, "") for task in tasks]
    return adapters, np.stack(log_likelihood(model, asked, answers, adapters=adapters))


@pytest.fixture(scope="module")
def shallow():
    return first_layer()


def test_rewards_of_edits_are_those_of_the_host(shallow):
    _, domain, tasks = make(shallow, 2, epochs=2, rank=4)
    lines = [domain.oracle(task).split("\n") for task in tasks]
    texts = [
        "\n\n" + "\n \n".join(lines[0]),  # empty lines
        "",
        "\n".join([*lines[1], *lines[1]]),  # more lines than are trained on
        lines[1][0] + "\n" + " ".join(lines[1][1:]),  # a line that is too long
    ]
    adapters, scores = host_scores(
        shallow, domain, [tasks[0], tasks[1]], updates_of(domain, tasks, [texts[0], texts[2]])
    )
    tokens = padded([shallow.tokenizer(text)["input_ids"] + [0] for text in texts], (2, 2))
    arrays = dict(tokens=tokens.tokens, lengths=tokens.lengths, contexts=functional.knowledge_contexts(domain, tasks))
    arrays["vocabulary"] = functional.vocabulary(shallow)
    arrays["inner"] = functional.inner_update(shallow.config, domain.update, LINES + 1)
    program = functools.partial(functional.edit_rewards, config=shallow.config, line_tokens=WIDTH)
    found = jax.jit(program)(shallow.params, **arrays)
    assert found.cut.tolist() == [[False, False], [True, True]] and found.valid.all()
    ours = np.asarray(found.logprobs)
    for k in range(2):
        np.testing.assert_allclose(found.losses[k, 0], adapters.losses[k], rtol=1e-4)
        # Adam magnifies differences in the order of sums, since it divides a gradient by its own size.
        np.testing.assert_allclose(ours[k, 0], scores[k], atol=5e-3)
    np.testing.assert_allclose(found.rewards, ours.mean(-1), rtol=1e-5)
    assert not np.allclose(ours[:, 0], ours[:, 1], atol=5e-2)
    with pytest.raises(InvalidValueError, match="reward is 'accuracy'"):
        program(shallow.params, **arrays, reward="accuracy")


@pytest.mark.slow
def test_an_episode_is_sample_apply_and_score_of_the_loop():
    model = load_model("tiny")
    settings, domain, tasks = make(model, 3)
    settings = dataclasses.replace(settings, edits=2, edit_tokens=48, seed=5)
    edits = loop.sample(Policy(model), domain, tasks, settings)
    contexts = functional.knowledge_contexts(domain, tasks)
    keys = functional.sample_keys([f"edit 0 {task.id}" for task in tasks], settings.seed, settings.edits)
    inner = functional.inner_update(model.config, domain.update, LINES + 1)
    program = jax.jit(
        functools.partial(
            functional.episode, config=model.config, new_tokens=48, line_tokens=WIDTH, reward="exact", temperature=1.0
        )
    )
    sampled, found = program(
        model.params, contexts=contexts, vocabulary=functional.vocabulary(model), keys=keys, inner=inner
    )
    owners = [task for task in tasks for _ in range(2)]
    pairs = updates_of(domain, owners, [edit.text for edit in edits])
    adapters, scores = host_scores(model, domain, owners, pairs)
    verdicts = np.asarray([each.verdicts for each in loop.score(Policy(model), domain, tasks, pairs, settings)])
    for k, edit in enumerate(edits):
        length = int(sampled.lengths[k // 2, k % 2])
        assert tuple(sampled.tokens[k // 2, k % 2, :length].tolist()) == edit.tokens
        np.testing.assert_allclose(sampled.logprobs[k // 2, k % 2, :length], edit.logprobs, atol=1e-4)
        np.testing.assert_allclose(found.losses[k // 2, k % 2], adapters.losses[k], rtol=5e-3)
    # Eight steps of Adam at a rate of 1e-2 on four layers: some tenths of a percent of what they change.
    np.testing.assert_allclose(np.asarray(found.logprobs).reshape(6, -1), scores, atol=5e-2)
    np.testing.assert_array_equal(np.asarray(found.exact).reshape(6, -1), verdicts)
    np.testing.assert_allclose(found.rewards.ravel(), verdicts.mean(-1), rtol=1e-6)
