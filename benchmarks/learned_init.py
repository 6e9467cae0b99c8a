"""Are initial adapters that were learned better than the usual ones? MAML and Meta-SGD through the inner update.

An adapter learns the correct notes of a passage of the tiny world in a few steps of SGD, and is asked about the
passage. `functional.adapt` is differentiated: the outer loop learns the values that all adapters start from (MAML,
arXiv 1703.03400), or these and a learning rate for each parameter (Meta-SGD, arXiv 1707.09835), so that the answers to
training passages become likely. Rows, on held-out passages, with the 95% interval over seeds:

- no adaptation: the model, and the model with the learned initial adapter as it is;
- default: PEFT's random A and zero B, with the learning rate that is best on training passages;
- learned: the learned start, with the same learning rate, or with that of each parameter.

    python -m benchmarks.learned_init --seeds=3
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfadapt import Update, functional, load_model
from selfadapt.domains.tiny import edits, world
from selfadapt.engine.adapt import initial_adapters
from selfadapt.engine.adapt.optimizers import with_hyperparameters
from selfadapt.functional.encoding import padded
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Lora
from selfadapt.models.model import Model
from selfadapt.telemetry.statistics import mean_interval
from selfadapt.types import Task

RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
LINES = 6  # a note for each fact
WIDTH = 40  # tokens of a note, a question or an answer, padding included: one program serves all seeds
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(learning_rate=0.0))


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes of the experiment.

    Attributes:
      steps: optimizer steps of an inner update.
      updates: updates of the start.
      tasks: passages of each.
      heldout: passages to compare on.
      rank: of the adapters.
      learning_rate: of the outer optimizer.
    """

    steps: int
    updates: int
    tasks: int
    heldout: int
    rank: int
    learning_rate: float


@flax.struct.dataclass
class Passages:
    """The notes of passages, and their questions with answers, `[passages, LINES]`."""

    notes: functional.Texts
    questions: functional.Texts
    answers: functional.Texts


@flax.struct.dataclass
class Learned:
    """What the outer loop learns: the start, and the logarithm of what each parameter's change is multiplied with."""

    start: Lora
    log_scale: Lora


def passages(model: Model, tasks: Sequence[Task]) -> Passages:
    """Returns passages as arrays."""

    def texts(lists: Sequence[str]) -> functional.Texts:
        found = padded([model.tokenizer(text)["input_ids"] for text in lists], (len(tasks), LINES))
        return found.replace(tokens=np.pad(found.tokens, [(0, 0), (0, 0), (0, WIDTH - found.tokens.shape[-1])]))

    asked = [(task, question) for task in tasks for question in task.questions]
    return Passages(
        notes=texts([f"{task.title}\n{line}" for task in tasks for line in edits.gold_lines(task)]),
        questions=texts([world.answer_prompt(question.question, task.title) for task, question in asked]),
        answers=texts([f" {question.answers[0]}" for _, question in asked]),
    )


@functools.partial(jax.jit, static_argnames=("config", "steps"))
def likelihood(
    params: Any, learned: Learned, given: Passages, rate: Any, *, config: ModelConfig, steps: int
) -> jax.Array:
    """Returns the mean log-likelihood of an answer in nats after the inner update; with no steps, before it."""
    count = len(given.notes.tokens)
    lora = learned.start.repeated(count)
    if steps:
        table = functional.steps_of(Update((), epochs=steps, batch_size=LINES, schedule="constant"), LINES)
        every = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[LINES], (count, *leaf.shape[1:])), table)
        lora = functional.adapt(
            params,
            config,
            learned.start,
            given.notes.tokens,
            jnp.arange(WIDTH) < given.notes.lengths[..., None],
            every.replace(rate=jnp.full(every.rate.shape, rate)),
            change_scale=jax.tree.map(jnp.exp, learned.log_scale),
            optimizer="sgd",
        ).lora
    texts = (given.questions.tokens, given.questions.lengths, given.answers.tokens, given.answers.lengths)
    return functional.score(params, config, lora, *texts, jnp.zeros(config.vocab_size, bool)).logprobs.mean()


@functools.partial(jax.jit, static_argnames=("config", "steps"))
def update(
    params: Any,
    learned: Learned,
    state: Any,
    given: Passages,
    rate: Any,
    learns: Learned,
    outer_rate: Any,
    *,
    config: ModelConfig,
    steps: int,
) -> tuple[Learned, Any]:
    """Takes a step of the outer optimizer; `learns` has 1 for what is learned and 0 for what is not."""

    def loss(learned):
        return -likelihood(params, learned, given, rate, config=config, steps=steps)

    slope = jax.tree.map(jnp.multiply, jax.grad(loss)(learned), learns)
    state = with_hyperparameters(state, {"learning_rate": outer_rate})
    changes, state = OPTIMIZER.update(slope, state)
    return optax.apply_updates(learned, changes), state


def rows(model: Model, seed: int, settings: Settings) -> dict[str, float]:
    """Returns the log-likelihood of an answer to held-out passages for each row, and the rate of the default."""
    count, static = settings.updates * settings.tasks, {"config": model.config, "steps": settings.steps}
    tasks = world.tasks("train", count + settings.heldout, seed)
    batches = [tasks[first : first + settings.tasks] for first in range(0, count, settings.tasks)]
    choosing = passages(model, tasks[count:])
    heldout = passages(model, world.tasks("heldout", settings.heldout, seed))
    inner = Update((), rank=settings.rank, alpha=2 * settings.rank, targets="all-linear", seed=seed)
    start = initial_adapters(model.config, [inner]).lora
    default = Learned(start, jax.tree.map(jnp.zeros_like, start))

    def measured(learned: Learned, given: Passages, rate: float, **changes: int) -> float:
        return float(likelihood(model.params, learned, given, rate, **static | changes))

    rate = max(RATES, key=lambda rate: measured(default, choosing, rate))
    found = {"rate": rate, "no adaptation": measured(default, heldout, rate, steps=0)}
    found["default"] = measured(default, heldout, rate)
    for name, also in (("learned start", 0.0), ("learned start and rates", 1.0)):
        ones = jax.tree.map(jnp.ones_like, default)
        learns = ones.replace(log_scale=jax.tree.map(lambda leaf, factor=also: leaf * factor, ones.log_scale))
        learns = learns.replace(start=learns.start.replace(scale=jnp.zeros_like(start.scale)))
        learned, state = default, OPTIMIZER.init(default)
        for batch in batches:
            given = passages(model, batch)
            learned, state = update(model.params, learned, state, given, rate, learns, settings.learning_rate, **static)
        found[f"{name}, not adapted"] = measured(learned, heldout, rate, steps=0)
        found[name] = measured(learned, heldout, rate)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"steps": 2, "updates": 60, "tasks": 8, "heldout": 32, "rank": 8, "seeds": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    options = vars(parser.parse_args(argv))
    seeds, model, started = options.pop("seeds"), load_model("tiny"), time.perf_counter()
    found = [rows(model, seed, Settings(**options)) for seed in range(seeds)]
    print(f"rates of the default: {', '.join(str(each.pop('rate')) for each in found)}")
    print("| | nats per answer | less the default |\n| --- | --- | --- |")
    for name in found[0]:
        own = mean_interval([each[name] for each in found])
        gain = mean_interval([each[name] - each["default"] for each in found])
        cells = [f"{each['mean']:.3f} ({each['low']:.3f} to {each['high']:.3f})" for each in (own, gain)]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
