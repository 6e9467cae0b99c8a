"""ReST-EM: select good edits, and train the policy to write them (SEAL, arXiv 2506.10943, section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfadapt.checkpoint.units import Ledger
from selfadapt.engine.adapt.train import adapt
from selfadapt.errors import InvalidValueError
from selfadapt.models.peft import merge
from selfadapt.models.policy import Policy, State
from selfadapt.types import Edit, Outcome, TokenSequence, Update

Select = Callable[[Sequence[Outcome], Mapping[str, float]], list[Outcome]]


@dataclasses.dataclass(frozen=True)
class RestEM:
    """One M-step: supervised finetuning of the policy, as LoRA, on the edits that the E-step selected.

    Attributes:
      select: the E-step: outcomes and the tasks' baselines in, the outcomes to learn from out; see
        `selfadapt.outer.select`.
      update: the finetuning's hyper-parameters; its sequences are filled in.
      merge_adapter: merge the trained adapter into the policy's weights (as SEAL does), or keep it as an
        adapter, which then goes on training in the next round while the student stays as it was.
      shuffle_rewards: a control: rewards are permuted among the edits of each task before the selection,
        so that nothing can be learnt from them.
      seed: seeds that permutation.
      ledger: what of the finetuning was done before an interruption, of each round at a place of its own.
    """

    select: Select
    update: Update
    merge_adapter: bool = True
    shuffle_rewards: bool = False
    seed: int = 0
    ledger: Ledger = Ledger()

    def __call__(
        self, state: State, baselines: Mapping[str, float], outcomes: Sequence[Outcome]
    ) -> tuple[State, dict[str, Any]]:
        """Returns the next state, and what was done.

        That is `selected` (how many edits), `chosen` (their task ids and samples) and `policy_loss`, the
        finetuning's loss at its first and at its last step, in nats a token.
        """
        ranked = shuffled(outcomes, self.seed + state.round) if self.shuffle_rewards else list(outcomes)
        chosen = self.select(ranked, baselines)
        facts: dict[str, Any] = {
            "selected": len(chosen),
            "chosen": {(outcome.edit.task_id, outcome.edit.sample) for outcome in chosen},
            "policy_loss": None,
        }
        if not chosen:
            return state, facts  # nothing was better: the policy stays as it is
        old = state.policy
        sequences = [sft_sequence(old.model, outcome.edit) for outcome in chosen]
        update = dataclasses.replace(self.update, sequences=sequences, seed=self.update.seed + state.round)
        train = functools.partial(adapt, old.model, [update], init=old.adapter)
        place = self.ledger.round(state.round + 1).within("improve")
        trained = place.adapters(old.model, lambda snapshots: train(snapshots=snapshots))
        if trained.status[0] != "ok":
            raise InvalidValueError(
                f"round {state.round + 1}: finetuning the policy failed ({trained.status[0]}); "
                "lower config.policy_update.learning_rate"
            )
        facts["policy_loss"] = [float(trained.losses[0][0]), float(trained.losses[0][-1])]
        if self.merge_adapter:
            policy = Policy(merge(old.model, trained), old.version + 1)
            student = policy if state.student.model is old.model else state.student
        else:
            policy, student = Policy(old.model, old.version + 1, trained), state.student
        return dataclasses.replace(state, policy=policy, student=student), facts


def sft_sequence(model: Any, edit: Edit) -> TokenSequence:
    """Returns the sequence that teaches a policy an edit: its prompt, then the very tokens it sampled as targets."""
    prompt = tuple(model.tokenizer(edit.prompt)["input_ids"])
    return TokenSequence(prompt + edit.tokens, mask=(False,) * len(prompt) + (True,) * len(edit.tokens))


def shuffled(outcomes: Sequence[Outcome], seed: int) -> list[Outcome]:
    """Returns the outcomes with rewards permuted among the edits of each task."""
    groups: dict[str, list[int]] = {}
    for index, outcome in enumerate(outcomes):
        groups.setdefault(outcome.edit.task_id, []).append(index)
    result = list(outcomes)
    for task, indices in groups.items():
        rewards = [outcomes[index].reward for index in indices]
        random.Random(f"shuffle {seed} {task}").shuffle(rewards)
        for index, reward in zip(indices, rewards, strict=True):
            result[index] = dataclasses.replace(outcomes[index], reward=reward)
    return result
