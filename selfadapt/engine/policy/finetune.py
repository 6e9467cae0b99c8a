"""Full finetuning: all weights of a model, trained on the sequences of an `Update`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine.adapt import schedule, work
from selfadapt.engine.adapt.optimizers import optimizer_of
from selfadapt.engine.adapt.train import Snapshots, rising_loss
from selfadapt.engine.policy.programs import Statistics, Trained, initial_optimizer
from selfadapt.engine.policy.rows import Rows, Written
from selfadapt.engine.policy.train import DivergedError, Step, Trainer
from selfadapt.engine.policy.trainable import Trainable
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import Model
from selfadapt.models.policy import Policy
from selfadapt.parallel import sharding
from selfadapt.types import Update

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """The result of a full finetuning.

    Attributes:
      model: the trained model, in the dtype of the first one; the first one itself where training failed.
      losses: the mean loss of each optimizer step in nats, `[steps]`.
      status: "ok", or why it failed.
    """

    model: Model
    losses: np.ndarray
    status: str


def finetune(model: Model, update: Update, *, snapshots: Snapshots | None = None) -> Finetuned:
    """Trains all weights of a model on an update, as `adapt` trains an adapter.

    The order of the sequences, the optimizer steps, their learning rates and their losses are those of `adapt`; the
    rank, alpha and targets of the update are not used. Weights, gradients and the optimizer's state are float32 and
    sharded like the model's parameters; activations are recomputed in the backward pass where memory is short.

    Args:
      model: the model; it is not changed.
      update: the sequences and hyper-parameters.
      snapshots: saves the training in progress; an interrupted one resumes with identical results.

    Raises:
      InvalidValueError: the update has a penalty or a sequence hides tokens from attention, which only the training of
        adapters can apply, or there is text and no tokenizer.
      OutOfMemoryError: not even one sequence fits.
    """
    for field in ("orthogonality", "divergence"):
        if getattr(update, field):
            raise InvalidValueError(
                f"Update.{field} is {getattr(update, field)}, a penalty that only the training of adapters has; set it "
                "to 0, or train an adapter"
            )
    sequences = schedule.encode(update, work.tokenize(model, [update]))
    if any(sequence.attention is not None for sequence in sequences):
        raise InvalidValueError(
            "a sequence of the update has `attention`, which the training of all weights cannot apply; leave it out, "
            "or train an adapter"
        )
    if problem := work.problem(update, sequences, model.config):
        return Finetuned(model, np.zeros(0, np.float32), problem)
    policy = Policy(model)
    trainable = Trainable.of(policy, update, "all")
    trained = Trained(trainable.weights(policy, update))
    optimizer = optimizer_of(update)
    with sharding.using(model.mesh):
        state = initial_optimizer(trained, trainable=trainable, optimizer=optimizer)
    ids = [sequence.ids.tolist() for sequence in sequences]
    written = [Written((first,), tuple(rest)) for first, *rest in ids]
    trainer = Trainer(model, trainable, written, update.batch_size * update.gradient_accumulation)
    data = {"target": [sequence.mask[1:].astype(np.float32) for sequence in sequences]}
    plan = steps_of(update, sequences)
    try:
        trained, _, numbers = trainer.train(
            trained, state, data, plan, loss=cross_entropy, optimizer=optimizer, snapshots=snapshots
        )
    except DivergedError as error:
        return Finetuned(model, np.zeros(0, np.float32), f"diverged: {error}")
    losses = np.asarray([each["loss"] for each in numbers], np.float32)
    if len(losses) and (reason := rising_loss(losses, update.epochs, model.config)):
        return Finetuned(model, losses, reason)
    finished = trainable.policy(policy, trained.policy).model
    return Finetuned(finished.with_params(finished.params), losses, "ok")  # float32 copies are for further training


def steps_of(update: Update, sequences: Sequence[schedule.Encoded]) -> list[Step]:
    """Returns the optimizer steps of an update."""
    batches = schedule.optimizer_steps(update, len(sequences))
    plan = []
    for number, batch in enumerate(batches):
        targets = sum(int(sequences[index].mask.sum()) for index in batch)
        rate = schedule.learning_rate(update, number, len(batches))
        weights = dict.fromkeys(batch, 1 / targets)
        plan.append(Step([(index,) for index in batch], weights, rate, update.weight_decay, update.max_grad_norm))
    return plan


def cross_entropy(statistics: Statistics, rows: Rows) -> tuple[Array, dict[str, Any]]:
    """Returns the negative log-probability of the targets, weighted; it has no further numbers.

    `rows.data["target"]` is 1 at targets and 0 elsewhere.
    """
    return -jnp.sum(rows.data["weight"] * rows.data["target"] * statistics.logprobs), {}
