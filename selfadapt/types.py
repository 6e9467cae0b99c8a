"""The types that all parts share: tasks, edits, what they are turned into, their outcomes; names of policies.

They are plain, immutable host values. Arrays on devices (parameters, LoRA adapters) are pytrees, defined in
`selfadapt.models`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence as AbstractSequence
from typing import TYPE_CHECKING, Any

from selfadapt.errors import InvalidValueError

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of the evaluation with every answer that counts as correct.

    Attributes:
      question: the question's text.
      answers: the gold answers; the first is the reference.
      id: stable identity within its task, or "".
    """

    question: str
    answers: tuple[str, ...]
    id: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """A context to adapt to, and how the adapted model is judged (SEAL section 3: the pair (C, tau)).

    Attributes:
      id: stable identity; random keys, logs and pairings are made from it.
      context: what an edit is written from (a passage, rendered grid pairs, an instruction).
      questions: the evaluation, never shown to the edit's author.
      title: the context's title, or "".
      data: anything else that the domain needs; nothing outside the domain reads it.
    """

    id: str
    context: str
    questions: tuple[Question, ...]
    title: str = ""
    data: Any = None


@dataclasses.dataclass(frozen=True)
class Edit:
    """What the policy wrote for one task.

    Attributes:
      task_id: the task it was written for.
      sample: its index among the samples of that task.
      prompt: the text the policy was given.
      text: what it wrote.
      tokens: the token ids it wrote, the end-of-sequence token included if it was sampled.
      policy_version: the version of the policy that wrote it.
      logprobs: the log-probability of each token under the policy (temperature 1, nothing filtered) when it was
        sampled, in nats; policy gradients need it.
    """

    task_id: str
    sample: int
    prompt: str
    text: str
    tokens: tuple[int, ...] = ()
    policy_version: int = 0
    logprobs: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class TokenSequence:
    """A training sequence given as token ids.

    Attributes:
      ids: token ids.
      mask: which ids count in the loss (as targets); `None` means all of them. The first id is
        never a target, since nothing predicts it.
      attention: which ids may be attended to as keys; `None` means all. SEAL's code trains on positions of padding
        that no other position sees (`config.domain.padding`).
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...] | None = None
    attention: tuple[bool, ...] | None = None


TrainingSequence = str | tuple[str, str] | TokenSequence

OPTIMIZERS = ("adamw", "sgd", "lion")
SCHEDULES = ("linear", "cosine", "constant")
LOSSES = ("all", "target")


@dataclasses.dataclass(frozen=True)
class Update:
    """The training of one adapter: its data and hyper-parameters.

    The defaults are SEAL's inner loop (arXiv 2506.10943, appendix B.3): LoRA on the query and value
    projections, AdamW, one sequence per step, linear decay to zero.

    Attributes:
      sequences: what to train on. Each is a string, a (prompt, target) pair, or a `TokenSequence`
        (also written as `(ids, mask)` with two sequences of numbers).
      rank: LoRA rank.
      alpha: LoRA alpha; the adapter's output is scaled by `alpha / rank`.
      targets: the projections that get an adapter, by PEFT's names ("q_proj,v_proj" or a sequence of names), or
        "all-linear".
      learning_rate: peak rate.
      epochs: passes over the sequences.
      batch_size: sequences per micro-batch.
      gradient_accumulation: micro-batches per optimizer step. A step's loss is the mean over all the
        target tokens of its micro-batches, so only the product with `batch_size` matters.
      schedule: "linear" (to zero), "cosine" (to zero) or "constant", after the warm-up.
      warmup_steps: optimizer steps of linear warm-up from zero.
      max_grad_norm: the global norm that the adapter's gradient is clipped to; `None` for no clipping.
      weight_decay: weight decay: decoupled from the gradient in AdamW and Lion, added to it in SGD.
      optimizer: "adamw" (betas 0.9 and 0.999), "sgd" (momentum 0.9) or "lion" (betas 0.9 and 0.99), each as in torch
        or optax; or any `optax.GradientTransformation` that turns a clipped gradient into the change of the
        parameters, such as `optax.adam(1e-3)`. Such an optimizer has its own learning rate and weight decay;
        `learning_rate` (with `schedule` and `warmup_steps`) and `weight_decay` apply to it only where it injects
        hyper-parameters of these names: `optax.inject_hyperparams(optax.adam)(learning_rate=0.0)`.
      loss: "all" (every token after the first) or "target" (only the targets of pairs).
      orthogonality: weight of a penalty on what the adapter shares with the frozen ones that it is trained on top of
        (`adapt(on=...)`): the squared entries of A' A_new, over all projections that both have (O-LoRA, arXiv
        2310.14152, section 3.2). It is added to the loss of each optimizer step, and not part of the losses reported.
      divergence: weight of a penalty on leaving the base on texts that anchor it: the divergence KL(base || adapted) of
        the next token in nats, its mean over the target tokens of `anchor_rows` anchors. The base is the model without
        any adapter, also where the update is trained on top of frozen ones. It is added to the loss of each optimizer
        step, and not part of the losses reported.
      anchors: those texts, in the forms of `sequences`.
      anchor_rows: anchors of an optimizer step; they are drawn by the seed, and none again before all have been.
      shuffle: whether each epoch has its own random order.
      seed: seeds the order of the data and the initial adapter.
    """

    sequences: AbstractSequence[TrainingSequence]
    _: dataclasses.KW_ONLY
    rank: int = 32
    alpha: float = 64
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")
    learning_rate: float = 1e-3
    epochs: int = 10
    batch_size: int = 1
    gradient_accumulation: int = 1
    schedule: str = "linear"
    warmup_steps: int = 0
    max_grad_norm: float | None = 1.0
    weight_decay: float = 0.0
    optimizer: str | optax.GradientTransformation = "adamw"
    loss: str = "all"
    orthogonality: float = 0.0
    divergence: float = 0.0
    anchors: AbstractSequence[TrainingSequence] = ()
    anchor_rows: int = 4
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "sequences", tuple(self.sequences))
        object.__setattr__(self, "anchors", tuple(self.anchors))
        if self.targets != "all-linear":
            names = self.targets.split(",") if isinstance(self.targets, str) else self.targets
            object.__setattr__(self, "targets", tuple(filter(None, names)))
        for field in ("rank", "batch_size", "gradient_accumulation", "anchor_rows"):
            if not (isinstance(value := getattr(self, field), int) and value >= 1):
                raise InvalidValueError(f"Update.{field} is {value!r}; it must be a whole number of at least 1")
        for field in ("epochs", "warmup_steps"):
            if not (isinstance(value := getattr(self, field), int) and value >= 0):
                raise InvalidValueError(f"Update.{field} is {value!r}; it must be a whole number of at least 0")
        if self.schedule not in SCHEDULES:
            raise InvalidValueError(f"Update.schedule is {self.schedule!r}; it must be one of {', '.join(SCHEDULES)}")
        given = self.optimizer
        if isinstance(given, str):
            known = given in OPTIMIZERS
        else:
            known = all(callable(getattr(given, method, None)) for method in ("init", "update"))
        if not known:
            raise InvalidValueError(
                f"Update.optimizer is {given!r}; it must be one of {', '.join(OPTIMIZERS)}, or an "
                "optax.GradientTransformation"
            )
        if self.loss not in LOSSES:
            raise InvalidValueError(f"Update.loss is {self.loss!r}; it must be one of {', '.join(LOSSES)}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise InvalidValueError(
                f"Update.max_grad_norm is {self.max_grad_norm!r}; it must be positive, or None for none"
            )
        for field in ("weight_decay", "orthogonality", "divergence"):
            if not (math.isfinite(value := getattr(self, field)) and value >= 0):
                raise InvalidValueError(f"Update.{field} is {value!r}; it must be a finite number of at least 0")
        if self.divergence and not self.anchors:
            raise InvalidValueError(
                f"Update.divergence is {self.divergence!r}, and there are no Update.anchors for it; give some texts"
            )
        if not self.targets:
            raise InvalidValueError("Update.targets is empty; name at least one projection, such as 'q_proj'")

    def replace(self, **changes: Any) -> Update:
        """Returns a copy with the named fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class ContextEdit:
    """An edit that changes the model's context and trains nothing (LSE, arXiv 2603.18620).

    Attributes:
      context: the text in the model's context when it is evaluated.
    """

    context: str


@dataclasses.dataclass(frozen=True)
class ContextUpdate(Update):
    """An edit that trains an adapter and changes the model's context as well; the fields of `Update` and its own.

    Attributes:
      context: the text in the model's context when it is evaluated; it is not trained on.
    """

    context: str = dataclasses.field(default="", kw_only=True)

    @classmethod
    def of(cls, update: Update, context: str) -> ContextUpdate:
        """Returns an update with a context."""
        return cls(**{field.name: getattr(update, field.name) for field in dataclasses.fields(Update)}, context=context)


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An edit that cannot be applied; it is scored as the student as it is.

    Attributes:
      reason: why, as the outcome's status.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one edit: the adapted model's answers, their verdicts, the reward.

    Attributes:
      edit: the edit.
      reward: what the outer loop maximises.
      answers: the adapted model's answers, one per question and inner run.
      verdicts: the grades in [0, 1] that the domain gave them, run by run; the reward is their mean, unless it
        is `proxy`.
      status: "ok", or why the edit could not be applied.
      policy_version: the version of the policy whose weights were adapted.
      ratings: the ratings of the edit's text by a rubric (`selfadapt.graders.rubric`), if it was rated.
      proxy: the reward in [0, 1] that they make, `None` if it was not rated. An edit that cannot be applied has 0.
      runs: the mean verdict of each inner run, in the order of their seeds; a single one if nothing was trained.
      eliminated: whether successive halving measured others of the task further and not this one; selections pass over
        it, since its mean over fewer runs is not comparable with theirs.
    """

    edit: Edit
    reward: float
    answers: tuple[str, ...] = ()
    verdicts: tuple[float, ...] = ()
    status: str = "ok"
    policy_version: int = 0
    ratings: tuple[int, ...] = ()
    proxy: float | None = None
    runs: tuple[float, ...] = ()
    eliminated: bool = False


UNTRAINED = "untrained"


def policy_row(round: int) -> str:
    """Returns what records call the policy after a round, counted from 1; of round 0, "untrained"."""
    return f"round{round}" if round else UNTRAINED


def is_policy_row(name: str) -> bool:
    """Returns whether a row of the evaluation is that of a policy; see `policy_row`.

    >>> is_policy_row("round12"), is_policy_row("untrained"), is_policy_row("passage")
    (True, True, False)
    """
    return name == UNTRAINED or (name.startswith("round") and name[5:].isdigit())
