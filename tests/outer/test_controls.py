"""Shuffled rewards: the same rewards, at other edits of the same task, others in each round."""

import dataclasses

from selfadapt.models.policy import Policy, State
from selfadapt.outer import Report
from selfadapt.outer.controls import ShuffledRewards, shuffled
from selfadapt.types import Edit, Outcome

OUTCOMES = [
    Outcome(Edit(task, i, "", "text"), offset + i / 10) for task, offset in (("a", 0.0), ("b", 5.0)) for i in range(8)
]


class Recorder:
    """An outer update that keeps the rewards it gets."""

    def __init__(self):
        self.rewards = []

    def init(self, policy):
        return f"state of {policy.model}"

    def update(self, pytree, state, baselines, outcomes):
        assert [outcome.edit for outcome in outcomes] == [outcome.edit for outcome in OUTCOMES]
        self.rewards.append([outcome.reward for outcome in outcomes])
        return pytree, state, Report(metrics={"baselines": len(baselines)})


def test_each_round_permutes_rewards_in_another_way_among_the_edits_of_a_task():
    inner, policy = Recorder(), Policy("model")
    control = ShuffledRewards(inner, seed=3)
    assert control.init(policy) == "state of model"
    state = State(policy, policy)
    for round in (0, 1, 0):
        pytree, same, report = control.update("pytree", dataclasses.replace(state, round=round), {"a": 0.0}, OUTCOMES)
        assert (pytree, same.policy, report.metrics) == ("pytree", policy, {"baselines": 1})
    first, second, again = inner.rewards
    true = [outcome.reward for outcome in OUTCOMES]
    assert first == again and first != second and true not in (first, second)
    for rewards in (first, second):
        assert sorted(rewards[:8]) == true[:8] and sorted(rewards[8:]) == true[8:]


def test_what_a_reward_was_measured_by_is_permuted_with_it():
    outcomes = [
        Outcome(Edit("a", i, "", f"text {i}"), float(i), runs=(float(i),) * 2, eliminated=i < 4) for i in range(8)
    ]
    for index, outcome in enumerate(shuffled(outcomes, seed=1)):
        assert outcome.edit is outcomes[index].edit
        assert (outcome.runs, outcome.eliminated) == ((outcome.reward,) * 2, outcome.reward < 4)
