"""ReST-EM: select good edits, and finetune the policy on them (SEAL, arXiv 2506.10943, section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from selfadapt.checkpoint import units
from selfadapt.engine.adapt import adapt
from selfadapt.errors import InvalidValueError
from selfadapt.models.lora import resolve_targets
from selfadapt.models.peft import merge
from selfadapt.models.policy import Policy, State
from selfadapt.outer.base import Report
from selfadapt.outer.select import Selection
from selfadapt.types import Edit, Outcome, TokenSequence, Update


@dataclasses.dataclass(frozen=True)
class RestEM:
    """Supervised finetuning of the policy, by LoRA, on the edits that a selection chooses.

    Attributes:
      select: the E-step: which outcomes to learn from (`selfadapt.outer.select`).
      training: the M-step's hyper-parameters; its sequences are filled in.
      merge: merge the trained adapter into the policy's weights (as SEAL does), or keep it as an adapter,
        which the next round trains further while the student stays as it was.
      keep_master: keep float32 copies of merged weights where the model has another dtype, so that the small
        updates of many rounds add up; they take 4 bytes for each weight of the trained projections.
    """

    select: Selection
    training: Update
    merge: bool = True
    keep_master: bool = True

    train: ClassVar[str] = "lora"

    def init(self, policy: Policy) -> tuple[()]:
        """Returns no state: each round starts a new optimizer.

        Raises:
          InvalidValueError: a target is no projection of the policy's architecture.
        """
        resolve_targets(self.training.targets, policy.model.config)
        return ()

    def update(
        self, pytree: tuple[()], state: State, baselines: Mapping[str, float], outcomes: Sequence[Outcome]
    ) -> tuple[tuple[()], State, Report]:
        """Returns the state with the finetuned policy; see `OuterUpdate.update`.

        The report's metrics are `loss_first` and `loss_last`, of the first and the last optimizer step, in
        nats per token; there are none where no edit was selected and the policy stays as it is.

        Raises:
          InvalidValueError: the outcomes mix policy versions, or the finetuning diverged.
        """
        chosen = self.select(outcomes, baselines)
        if not chosen:
            return pytree, state, Report()
        old = state.policy
        sequences = [sft_sequence(old.model, outcome.edit) for outcome in chosen]
        training = self.training.replace(sequences=sequences, seed=self.training.seed + state.round)
        train = functools.partial(adapt, old.model, [training], init=old.adapter)
        trained = units.current().adapters(old.model, lambda snapshots: train(snapshots=snapshots))
        if trained.status[0] != "ok":
            raise InvalidValueError(
                f"round {state.round + 1}: finetuning the policy failed ({trained.status[0]}); "
                "lower config.outer.rest_em.learning_rate"
            )
        if self.merge:
            policy = Policy(merge(old.model, trained, keep_master=self.keep_master), old.version + 1)
            student = policy if state.student is old else state.student
        else:
            policy, student = Policy(old.model, old.version + 1, trained), state.student
        report = Report(
            learned=frozenset((outcome.edit.task_id, outcome.edit.sample) for outcome in chosen),
            metrics={"loss_first": float(trained.losses[0][0]), "loss_last": float(trained.losses[0][-1])},
        )
        return pytree, dataclasses.replace(state, policy=policy, student=student), report

    def largest_update(self, contexts: int, edits: int, sequences: Sequence[TokenSequence]) -> Update:
        """Returns the finetuning on as many edits as the selection can choose; see `Trains.largest_update`."""
        count = self.select.most(contexts, edits)
        return self.training.replace(sequences=list(itertools.islice(itertools.cycle(sequences), count)))


def sft_sequence(model: Any, edit: Edit) -> TokenSequence:
    """Returns the sequence that teaches an edit: its prompt, then the tokens that were sampled, as targets."""
    prompt = tuple(model.tokenizer(edit.prompt)["input_ids"])
    return TokenSequence(prompt + edit.tokens, mask=(False,) * len(prompt) + (True,) * len(edit.tokens))


def make(config: Any) -> RestEM:
    """Makes ReST-EM from `config.outer.rest_em`.

    Raises:
      InvalidValueError: a field cannot be used.
    """
    fields = config.outer.rest_em
    select = Selection(fields.select, k=fields.k, margin=fields.margin, fraction=fields.fraction, z=fields.z)
    if fields.z and config.inner_runs < 2:
        raise InvalidValueError(
            f"config.outer.rest_em.z is {fields.z}, and config.inner_runs {config.inner_runs}; a lower confidence "
            "bound needs at least 2 inner runs"
        )
    names = {field.name for field in dataclasses.fields(Update)}
    return RestEM(
        select=select,
        training=Update((), **{name: value for name, value in fields.items() if name in names}),
        merge=fields.merge,
        keep_master=fields.keep_master,
    )
