"""SEAL's outer loop, assembled by hand from the public parts: sample, adapt, score, and an outer update.

    python examples/by_hand.py --rounds=2

The embedded model reads passages about made-up things and writes edits. Each edit trains one adapter, whose reward is
the log-likelihood of the right answers, and ReST-EM trains the model on the edits that beat the passage alone.
`selfadapt.loop.run_round` does the same for any domain, and resumes where it was interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from selfadapt import Edit, Model, Outcome, Task, Update, adapt, generate, load_model, log_likelihood
from selfadapt.domains.tiny import world
from selfadapt.models.policy import Policy, State
from selfadapt.outer.rest_em import RestEM
from selfadapt.outer.select import Selection

INNER = Update((), rank=8, alpha=16, targets="all-linear", learning_rate=1e-2, epochs=8, batch_size=16, warmup_steps=2)
OUTER = RestEM(
    select=Selection("best_improving"),
    training=Update((), rank=16, alpha=32, targets="all-linear", learning_rate=2e-3, epochs=6, batch_size=10),
)


def sample(policy: Policy, tasks: Sequence[Task], edits: int, tokens: int) -> list[Edit]:
    """Returns `edits` edits of at most `tokens` tokens for each task."""
    prompts = [world.edit_prompt(task) for task in tasks]
    ids = [f"{policy.version} {task.id}" for task in tasks]  # what the random keys are made from
    options = dict(temperature=1.0, max_new_tokens=tokens, num_samples=edits, ids=ids, return_details=True)
    written = generate(policy.model, prompts, **options)
    return [
        Edit(task.id, index, prompt, text.text, text.tokens, policy.version, tuple(text.logprobs.tolist()))
        for task, prompt, texts in zip(tasks, prompts, written, strict=True)
        for index, text in enumerate(texts)
    ]


def score(student: Model, tasks: Sequence[Task], texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Trains an adapter per text, with its task's passage; returns rewards (nats per answer) and statuses."""
    sequences = [
        [f"{task.title}\n{line}" for line in [*filter(None, text.split("\n")), task.context]]
        for task, text in zip(tasks, texts, strict=True)
    ]
    adapters = adapt(student, [INNER.replace(sequences=lines) for lines in sequences])
    questions = [[world.answer_prompt(q.question, task.title) for q in task.questions] for task in tasks]
    answers = [[f" {q.answers[0]}" for q in task.questions] for task in tasks]
    scores = log_likelihood(student, questions, answers, adapters=adapters)
    return [float(each.mean()) for each in scores], adapters.status


def run_round(state: State, tasks: Sequence[Task], edits: int, tokens: int) -> tuple[State, float, int]:
    """Runs one round; returns the next state, the mean gain of an edit in nats, and how many edits it learned from."""
    rewards, _ = score(state.student.model, tasks, [""] * len(tasks))
    baselines = {task.id: reward for task, reward in zip(tasks, rewards, strict=True)}
    sampled = sample(state.policy, tasks, edits, tokens)
    by_id = {task.id: task for task in tasks}
    owners = [by_id[edit.task_id] for edit in sampled]
    rewards, status = score(state.student.model, owners, [edit.text for edit in sampled])
    version = state.student.version
    outcomes = [
        Outcome(edit, reward, status=reason, policy_version=version)
        for edit, reward, reason in zip(sampled, rewards, status, strict=True)
    ]
    pytree, state, report = OUTER.update(state.outer, state, baselines, outcomes)
    gain = sum(outcome.reward - baselines[outcome.edit.task_id] for outcome in outcomes) / len(outcomes)
    return dataclasses.replace(state, round=state.round + 1, outer=pytree), gain, len(report.learned)


def main(argv: Sequence[str] | None = None) -> State:
    """Runs the command and returns the last state."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"rounds": 2, "contexts": 32, "edits": 4, "tokens": 160}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    policy = Policy(load_model("tiny"))
    state = State(policy, student=policy, outer=OUTER.init(policy))
    for number in range(options.rounds):
        tasks = world.tasks("train", (number + 1) * options.contexts)[-options.contexts :]  # new ones each round
        state, gain, learned = run_round(state, tasks, options.edits, options.tokens)
        print(f"round {number + 1}: an edit gains {gain:+.3f} nats per answer; learned from {learned} edits")
    return state


if __name__ == "__main__":
    main()
