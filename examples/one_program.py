"""SEAL's outer loop as one XLA program: ten rounds of RLOO on the tiny world, without the host in between.

    python examples/one_program.py --rounds=10

In each round the embedded model writes edits of new passages, an adapter is trained on each edit, the reward is the
log-likelihood of the right answers, and a LoRA adapter of the policy follows the policy gradient. All rounds are a
`lax.scan` of `functional.outer_round`. Passages, questions and random keys go in as arrays, and the rewards and the
policy's adapter come out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from selfadapt import Model, Update, functional, load_model
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain
from selfadapt.engine import runtime
from selfadapt.models.policy import Policy
from selfadapt.parallel import sharding

TRAINING = Update((), rank=16, alpha=32, targets="all-linear", learning_rate=1e-3)  # of the policy
LINES, LINE_TOKENS = 8, 32


def knowledge(model: Model) -> Any:
    """Returns the knowledge domain with the embedded model's settings."""
    return make_domain(resolve(experiment()), model)


def train(
    policy: Policy, *, rounds: int, contexts: int, edits: int, tokens: int, steps: int
) -> tuple[Policy, np.ndarray]:
    """Returns the policy after some rounds, and the mean reward of each in nats per answer."""
    model, domain = policy.model, knowledge(policy.model)
    tasks = [
        task for number in range(rounds) for task in domain.tasks("train", contexts, number)
    ]  # new ones each round
    names = [f"edit {number // contexts} {task.id}" for number, task in enumerate(tasks)]  # as the loop names them
    given = (functional.knowledge_contexts(domain, tasks), functional.sample_keys(names, 0, edits))
    given = jax.tree.map(lambda leaf: leaf.reshape(rounds, contexts, *leaf.shape[1:]), given)
    state, outer = functional.writer(policy, TRAINING, steps=steps)
    vocabulary = functional.vocabulary(model)
    inner = functional.inner_update(model.config, domain.update, LINES + 1)
    options = dict(outer=outer, new_tokens=tokens, line_tokens=LINE_TOKENS)

    @runtime.jit
    def program(params: Any, state: functional.Writer, given: Any) -> Any:
        def one(state: functional.Writer, given: Any) -> Any:
            contexts, keys = given
            state, _, _, metrics = functional.outer_round(params, state, contexts, vocabulary, keys, inner, **options)
            return state, metrics["reward"]

        return jax.lax.scan(one, state, given)

    with sharding.using(model.mesh):
        state, rewards = program(model.params, state, given)
    return outer.trainable.policy(policy, state.trained.policy), np.asarray(rewards)


def main(argv: Sequence[str] | None = None) -> np.ndarray:
    """Runs the command and returns the mean reward of each round."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"rounds": 10, "contexts": 32, "edits": 4, "tokens": 128, "steps": 8}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args(argv))
    started = time.perf_counter()
    _, rewards = train(Policy(load_model("tiny", mesh=sharding.make_mesh())), **options)
    for number, reward in enumerate(rewards, start=1):
        print(f"round {number}: {reward:+.3f} nats per answer")
    print(f"{time.perf_counter() - started:.0f} s, compilation included")
    return rewards


if __name__ == "__main__":
    main()
