"""An episode in one program beside the host's path: the same edits, adapters and rewards, and the seconds of each.

Both sample edits of passages of the tiny world with the same keys, train an adapter on each, and score the right
answers. The host's path is `generate`, the domain's rules, `adapt` and `log_likelihood`; the other is
`functional.episode`. The first call of each compiles; the best of some further calls is reported.

    python -m benchmarks.functional --contexts=16 --edits=4
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from selfadapt import adapt, functional, load_model, log_likelihood, loop
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain
from selfadapt.engine import runtime
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy

LINES, LINE_TOKENS = 8, 32
ROUNDING = 1e-2  # nats that rounding may make of the same tokens after training


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Returns what a function returns, the seconds of its first call, and of the best of some further ones."""
    seconds = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        result = jax.block_until_ready(run())
        seconds.append(time.perf_counter() - started)
    return result, seconds[0], min(seconds[1:])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"contexts": 16, "edits": 4, "tokens": 160, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    model, config = load_model("tiny"), experiment()
    config.edits, config.sampling.max_new_tokens = options.edits, options.tokens
    config = resolve(config)
    domain, settings, policy = make_domain(config, model), Settings.of(config), Policy(model)
    tasks = domain.tasks("train", options.contexts)
    owners = [task for task in tasks for _ in range(options.edits)]

    def host() -> tuple[np.ndarray, int]:
        edits = loop.sample(policy, domain, tasks, settings)
        adapters = adapt(model, [what for _, what in loop.applied(domain, tasks, edits)])
        asked = [domain.questions(task, "") for task in owners]
        answers = [[f" {question.answers[0]}" for question in task.questions] for task in owners]
        scores = log_likelihood(model, asked, answers, adapters=adapters)
        return np.stack(scores).mean(1), adapters.stats["padded_tokens"]

    contexts, vocabulary = functional.knowledge_contexts(domain, tasks), functional.vocabulary(model)
    keys = functional.sample_keys([f"edit 0 {task.id}" for task in tasks], settings.seed, options.edits)
    inner = functional.inner_update(model.config, domain.update, LINES + 1)
    program = runtime.jit(
        functools.partial(functional.episode, config=model.config, new_tokens=options.tokens, line_tokens=LINE_TOKENS)
    )

    def device() -> Any:
        return program(model.params, contexts=contexts, vocabulary=vocabulary, keys=keys, inner=inner)

    (rewards, padded), *host_seconds = timed(host, options.repeats)
    (_, found), *device_seconds = timed(device, options.repeats)
    ours, same = np.asarray(found.rewards).ravel(), ~np.asarray(found.cut).ravel()
    difference = np.abs(ours - rewards)[same]
    apart = difference > ROUNDING
    print(f"{options.contexts} contexts with {options.edits} edits of up to {options.tokens} tokens")
    print("| | seconds | first call |\n| --- | --- | --- |")
    for name, (first, best) in (("host's path", host_seconds), ("one program", device_seconds)):
        print(f"| {name} | {best:.2f} | {first:.1f} |")
    line = contexts.prefixes.tokens.shape[-1] + LINE_TOKENS
    width = max(line, contexts.passages.tokens.shape[-1])
    rows = -(-LINES // (width // line)) + 1  # lines share rows, and the passage has one
    trained = len(owners) * inner.steps.rate.shape[1] * rows * width
    print(f"tokens of training steps, padding included: {padded} and {trained}")
    print(f"edits cut to {LINES} lines of {LINE_TOKENS} tokens: {int((~same).sum())}")
    print(f"other rewards: {len(difference)}, mean {rewards[same].mean():.3f} nats")
    print(f"different by more than {ROUNDING}, as lines are encoded to other tokens than sampled: {int(apart.sum())}")
    print(f"largest difference of the rest: {difference[~apart].max(initial=0.0):.5f} nats")


if __name__ == "__main__":
    main()
