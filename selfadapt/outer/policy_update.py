"""What outer updates by gradient have in common: measuring the edits, optimizer steps, and the state between rounds.

An update of this kind turns the outcomes of a round into a `Lesson`: which edits are trained on together and what its
loss needs to know about each token. `dpo` is such an update, and so are the policy gradients.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax
import jax
import numpy as np

from selfadapt.checkpoint import units
from selfadapt.engine.adapt import schedule
from selfadapt.engine.adapt.optimizers import optimizer_of
from selfadapt.engine.policy import DivergedError, Loss, Measured, Step, Trainable, Trained, Trainer, Written
from selfadapt.engine.policy.programs import initial_optimizer
from selfadapt.engine.policy.trainable import KINDS
from selfadapt.errors import InvalidValueError
from selfadapt.models.peft import merge
from selfadapt.models.policy import Policy, State
from selfadapt.outer.base import Report
from selfadapt.outer.losses import k3
from selfadapt.outer.select import check_versions
from selfadapt.parallel import sharding
from selfadapt.types import Outcome, TokenSequence, Update

# Numbers of losses that are sums over what another one counts; the rest are means over an optimizer step.
_COUNTS = {"tokens": ("clip_share", "kl_update"), "pairs": ("accuracy", "margin")}


@flax.struct.dataclass
class Learner:
    """What an update keeps between rounds.

    Attributes:
      optimizer: the optimizer's state, such as Adam's moments.
      reference: the trained weights of the starting policy.
      value: the value head, `None` without one.
      extra: what else the update keeps, such as a running baseline.
      steps: optimizer steps so far.
    """

    optimizer: Any
    reference: Any
    value: Any
    extra: Any
    steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Experience:
    """The outcomes of a round, and what the policies make of their edits; lists have an entry for each outcome.

    Attributes:
      outcomes: the outcomes.
      baselines: the reward of each task without an edit.
      before: statistics of each edit under the policy before its training.
      reference: the log-probabilities of each edit's tokens under the starting policy, `[tokens]`.
      extra: what the update kept from the last round (`Learner.extra`).
    """

    outcomes: Sequence[Outcome]
    baselines: Mapping[str, float]
    before: Sequence[Measured]
    reference: Sequence[np.ndarray]
    extra: Any

    @property
    def rewards(self) -> np.ndarray:
        """The rewards, `[outcomes]`."""
        return np.asarray([outcome.reward for outcome in self.outcomes], float)

    def by_task(self) -> list[list[int]]:
        """Returns the indices of the outcomes of each task."""
        tasks: dict[str, list[int]] = collections.defaultdict(list)
        for index, outcome in enumerate(self.outcomes):
            tasks[outcome.edit.task_id].append(index)
        return list(tasks.values())


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a policy learns from a round.

    Attributes:
      groups: indices of outcomes; those of a group (`PolicyUpdate.group_size`) are trained on together.
      teaches: for each group, whether it can change the policy; the others are counted in means and not computed.
      data: for each name and outcome a number, or one for each token (`selfadapt.engine.policy.Rows.data`).
      extra: what the update keeps for the next round.
      metrics: scalars for the report.
    """

    groups: Sequence[tuple[int, ...]]
    teaches: Sequence[bool]
    data: Mapping[str, Sequence[Any]]
    extra: Any = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PolicyUpdate:
    """An outer update that trains the policy by the gradient of a loss on a round's edits.

    The trained adapter stays an adapter (`Policy.adapter`), so that the optimizer continues with it in the next round
    and the starting policy is there without it. The student stays as it is, or follows the policy.

    Attributes:
      name: the update's group in `config.outer`, for errors.
      training: rank, alpha and targets of the adapter, and the hyper-parameters of training; `batch_size` is the edits
        (pairs of them for `dpo`) of an optimizer step. Warm-up and schedule are those of one round.
      train: "lora", or "all" weights of the policy.
      update_student: whether the student, if it is the policy at first, is the trained policy in later rounds (its
        adapter is merged), as in SEAL.
    """

    name: str
    training: Update
    train: str = "lora"
    update_student: bool = False

    group_size: ClassVar[int] = 1  # outcomes of each group of a lesson

    def __post_init__(self):
        self._check("train", self.train in KINDS, f"one of {', '.join(KINDS)}")

    def _check(self, field: str, fine: bool, wanted: str) -> None:
        if not fine:
            raise InvalidValueError(
                f"config.outer.{self.name}.{field} is {getattr(self, field)!r}; it must be {wanted}"
            )

    # What an update defines.

    @property
    def loss(self) -> Loss:
        """The loss of a micro-batch."""
        raise NotImplementedError

    def lesson(self, experience: Experience) -> Lesson:
        """Returns what to learn from a round."""
        raise NotImplementedError

    def weights(self, chosen: Sequence[tuple[int, ...]], sizes: Mapping[int, int]) -> dict[int, float]:
        """Returns what the loss of each edit's tokens is multiplied with.

        Args:
          chosen: the groups of an optimizer step.
          sizes: the tokens of each of their edits.
        """
        raise NotImplementedError

    def extra(self) -> Any:
        """Returns what the update keeps between rounds, at first: a pytree of NumPy arrays."""
        return ()

    def value_head(self, hidden: int) -> dict[str, np.ndarray] | None:
        """Returns the value head at first, given the size of hidden states; `None` for none."""
        del hidden
        return None

    # The protocol.

    @property
    def merge(self) -> bool:
        """Whether a second copy of the weights is made (`selfadapt.outer.Trains`)."""
        return self.train == "all" or self.update_student

    @property
    def keep_master(self) -> bool:
        """Whether float32 copies of merged weights are kept (`selfadapt.outer.Trains`): each merge is of the start."""
        return False

    def init(self, policy: Policy) -> Learner:
        """Returns the state before the first round.

        Raises:
          InvalidValueError: a target is no projection of the policy's architecture.
        """
        mesh, trainable = policy.model.mesh, Trainable.of(policy, self.training, self.train)
        head = _put(mesh, self.value_head(policy.model.config.hidden_size))
        trained = Trained(trainable.weights(policy, self.training), head)
        with sharding.using(mesh):
            optimizer = initial_optimizer(trained, trainable=trainable, optimizer=optimizer_of(self.training))
        return Learner(
            optimizer=optimizer,
            # Of all weights, those that it computes with, which are no further copy of them.
            reference=policy.model.params if self.train == "all" else trained.policy,
            value=head,
            extra=_put(mesh, self.extra()),
            steps=_put(mesh, np.zeros((), np.int32)),
        )

    def update(
        self, pytree: Learner, state: State, baselines: Mapping[str, float], outcomes: Sequence[Outcome]
    ) -> tuple[Learner, State, Report]:
        """Returns the state with the trained policy; see `OuterUpdate.update`.

        Where no edit can change the policy it stays as it is. docs/outer_updates.md explains the report's metrics.

        Raises:
          InvalidValueError: the outcomes mix policy versions, lack log-probabilities or have rewards that are not
            finite, or training diverged.
        """
        old, mesh = state.policy, state.policy.model.mesh
        _check_outcomes(outcomes, self.name)
        trainable = Trainable.of(old, self.training, self.train)
        trained = Trained(trainable.weights(old, self.training), pytree.value)
        written = [_written(old, outcome) for outcome in outcomes]
        most = self.training.batch_size * self.training.gradient_accumulation * self.group_size
        trainer = Trainer(old.model, trainable, written, most)
        before, steps = trainer.measure(trained), int(pytree.steps)
        start = trainer.measure(dataclasses.replace(trained, policy=pytree.reference)) if steps else before
        reference = [each.logprobs for each in start]
        extra = sharding.to_host(pytree.extra)
        lesson = self.lesson(Experience(outcomes, baselines, before, reference, extra))

        plan = self._plan(lesson, written, state.round)
        trained, optimizer, numbers = self._train(trainer, trained, pytree.optimizer, lesson, plan, state.round)
        metrics = _measures(outcomes, before, reference) | dict(lesson.metrics) | _means(numbers)
        pytree = dataclasses.replace(
            pytree,
            optimizer=optimizer,
            value=trained.value,
            extra=_put(mesh, lesson.extra),
            steps=_put(mesh, np.int32(steps + len(plan))),
        )
        if not plan:
            return pytree, state, Report(metrics=metrics)
        policy = trainable.policy(old, trained.policy)
        taught = itertools.chain(*(group for group, own in zip(lesson.groups, lesson.teaches, strict=True) if own))
        learned = frozenset((outcomes[index].edit.task_id, outcomes[index].edit.sample) for index in taught)
        state = dataclasses.replace(state, policy=policy, student=self._student(state, policy))
        return pytree, state, Report(learned, metrics)

    def largest_update(self, contexts: int, edits: int, sequences: Sequence[TokenSequence]) -> Update:
        """Returns the finetuning on all edits, which stands for this update's training; see `Trains.largest_update`."""
        chosen = itertools.islice(itertools.cycle(sequences), self.most(contexts, edits))
        return self.training.replace(sequences=list(chosen), batch_size=self.training.batch_size * self.group_size)

    def most(self, contexts: int, edits: int) -> int:
        """Returns the largest number of edits that a round of `contexts` tasks with `edits` edits each trains on."""
        return contexts * edits

    def _plan(self, lesson: Lesson, written: Sequence[Written], round: int) -> list[Step]:
        """Returns a round's optimizer steps; those that no group can change anything with are left out."""
        training = self.training.replace(seed=self.training.seed + round)
        batches = schedule.optimizer_steps(training, len(lesson.groups))
        plan = []
        for number, batch in enumerate(batches):
            taught = [lesson.groups[place] for place in batch if lesson.teaches[place]]
            if taught:
                chosen = [lesson.groups[place] for place in batch]
                sizes = {index: len(written[index].tokens) for group in chosen for index in group}
                rate = schedule.learning_rate(training, number, len(batches))
                options = training.weight_decay, training.max_grad_norm
                plan.append(Step(taught, self.weights(chosen, sizes), rate, *options))
        return plan

    def _train(
        self, trainer: Trainer, trained: Trained, optimizer: Any, lesson: Lesson, plan: Sequence[Step], round: int
    ) -> tuple[Trained, Any, list[dict[str, float]]]:
        """Takes the steps; an interrupted round resumes from the last one that was saved."""
        snapshots = units.current().snapshots("policy") if plan else None
        options: dict[str, Any] = dict(loss=self.loss, optimizer=optimizer_of(self.training), snapshots=snapshots)
        try:
            return trainer.train(trained, optimizer, lesson.data, plan, **options)
        except DivergedError as error:
            raise InvalidValueError(
                f"round {round + 1}: training the policy diverged ({error}); lower "
                f"config.outer.{self.name}.learning_rate"
            ) from None

    def _student(self, state: State, policy: Policy) -> Policy:
        """Returns the student beside a new policy."""
        # A student that followed the policy has its version; one of another model keeps version 0.
        same = state.student is state.policy or state.student.version == state.policy.version > 0
        if not (self.update_student and same):
            return state.student
        if policy.adapter is None:
            return policy
        return Policy(merge(policy.model, policy.adapter), policy.version)


def settings(config: Any, name: str) -> dict[str, Any]:
    """Returns the arguments of `PolicyUpdate` from `config.outer.<name>`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer[name]
    names = {field.name for field in dataclasses.fields(Update)}
    training = Update((), **{key: value for key, value in fields.items() if key in names})
    return dict(name=name, training=training, train=fields.train, update_student=fields.update_student)


def _check_outcomes(outcomes: Sequence[Outcome], name: str) -> None:
    """Refuses outcomes that no gradient can be computed from."""
    if not outcomes:
        raise InvalidValueError(f"config.outer.name is {name!r}, and there are no outcomes to learn from")
    check_versions(outcomes, f"config.outer.name={name!r}")
    for outcome in outcomes:
        edit = outcome.edit
        if len(edit.logprobs) != len(edit.tokens):
            raise InvalidValueError(
                f"edit {edit.sample} of task {edit.task_id!r} has {len(edit.tokens)} tokens and {len(edit.logprobs)} "
                f"log-probabilities; config.outer.name={name!r} needs one for each, recorded when it was sampled"
            )
        if not math.isfinite(outcome.reward):
            raise InvalidValueError(
                f"edit {edit.sample} of task {edit.task_id!r} has the reward {outcome.reward}; it must be finite"
            )


def _written(policy: Policy, outcome: Outcome) -> Written:
    return Written(tuple(policy.model.tokenizer(outcome.edit.prompt)["input_ids"]), outcome.edit.tokens)


def _put(mesh: Any, tree: Any) -> Any:
    """Returns arrays that are replicated over a mesh."""
    return jax.tree.map(lambda leaf: sharding.put(mesh, leaf, (None,) * np.ndim(leaf)), tree)


def _measures(
    outcomes: Sequence[Outcome], before: Sequence[Measured], reference: Sequence[np.ndarray]
) -> dict[str, float]:
    """Returns the metrics of a round before the policy's training."""
    sampled = np.concatenate([np.asarray(outcome.edit.logprobs, np.float32) for outcome in outcomes])
    logprobs, start = np.concatenate([each.logprobs for each in before]), np.concatenate(reference)
    count = max(1, len(sampled))
    return {
        "reward": float(np.mean([outcome.reward for outcome in outcomes])),
        "edit_tokens": len(sampled) / len(outcomes),
        "invalid": sum(outcome.status != "ok" for outcome in outcomes) / len(outcomes),
        "entropy": float(sum(each.entropy.sum() for each in before)) / count,
        "kl_start": float(k3(start - logprobs).sum()) / count,
        "kl_sample_train": float(k3(logprobs - sampled).sum()) / count,
    }


def _means(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the metrics of a round's optimizer steps."""
    metrics: dict[str, float] = {"optimizer_steps": len(numbers)}
    if not numbers:
        return metrics
    totals = {name: math.fsum(each[name] for each in numbers) for name in numbers[0]}
    for count, names in _COUNTS.items():
        number = totals.pop(count, 0.0)
        metrics |= {name: totals.pop(name) / max(1.0, number) for name in names if name in totals}
    metrics["gradient_norm"] = totals.pop("policy_norm") / len(numbers)
    return metrics | {name: total / len(numbers) for name, total in totals.items()}
