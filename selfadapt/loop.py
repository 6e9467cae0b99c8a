"""The outer loop: sample, apply, score, improve (SEAL, arXiv 2506.10943, Algorithm 1).

Nothing here depends on a domain or an outer update. A domain turns tasks into prompts, edits into updates and
answers into verdicts; an outer update turns outcomes into the next state. The policy writes the edits and the
student is adapted; they are one model unless an experiment names two.

Work inside a round is looked up in `selfadapt.checkpoint.units.current()`, so that an interrupted round resumes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt.checkpoint import units
from selfadapt.domains.base import Applied, Domain, Rated
from selfadapt.engine.adapt import adapt
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidEdit, InvalidTypeError
from selfadapt.graders import proxy_reward
from selfadapt.models.lora import Adapters
from selfadapt.models.policy import Policy, State
from selfadapt.outer import OuterUpdate, Report
from selfadapt.outer.halving import halve
from selfadapt.telemetry import meter
from selfadapt.telemetry.progress import Advance, Phase, silent
from selfadapt.types import ContextEdit, ContextUpdate, Edit, Outcome, Rejected, Task, Update

# Tasks whose edits one `generate` writes: those that memory does not hold wait for the places of others. A run that is
# interrupted writes the edits of these tasks again.
TASKS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """How edits are sampled and scored; `Settings.of` reads them from a config.

    Attributes:
      seed: the experiment's seed.
      edits: edits sampled per task.
      temperature: sampling temperature of edits.
      top_p: nucleus sampling of edits.
      edit_tokens: the most tokens of an edit.
      answer_tokens: the most tokens of an answer; answers are greedy.
      answer_stop: strings that end an answer.
      inner_runs: adapters trained per edit, with seeds that all edits share; verdicts are averaged over them
        (SEAL trains three).
      halving: further inner runs by stage, each for the better half of the edits left (`selfadapt.outer.halving`).
      at_once: edits applied and scored together; fewer take less memory.
      seed_offset: added to the inner seeds.
      reward: how the edits of a round are scored: "inner" (the questions that the adapted student answers), "proxy"
        (ratings of their texts, `selfadapt.domains.Rated`, and no inner update), or "both".
      learn_from: the reward that the outer update gets of "both": "inner" or "proxy".
      invalid_reward: in a round, the reward of an edit that cannot be applied is this more than its task's without an
        edit; `None` leaves it scored as the student as it is.
    """

    seed: int
    edits: int
    temperature: float
    top_p: float
    edit_tokens: int
    answer_tokens: int
    answer_stop: tuple[str, ...]
    inner_runs: int
    at_once: int
    seed_offset: int = 0
    halving: tuple[int, ...] = ()
    reward: str = "inner"
    learn_from: str = "inner"
    invalid_reward: float | None = None

    @classmethod
    def of(cls, config: Any) -> Settings:
        """Returns the settings of a resolved config (`selfadapt.defaults.resolve`)."""
        return cls(
            seed=config.seed,
            edits=config.edits,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            edit_tokens=config.sampling.max_new_tokens,
            answer_tokens=config.answer.max_new_tokens,
            answer_stop=tuple(config.answer.stop),
            inner_runs=config.inner_runs,
            at_once=config.at_once,
            halving=tuple(config.halving),
            reward=config.reward,
            learn_from=config.rubric.learn_from,
            invalid_reward=config.invalid_reward,
        )

    @property
    def by_proxy(self) -> bool:
        """Whether the outer update learns from the proxy."""
        return self.reward == "proxy" or (self.reward == "both" and self.learn_from == "proxy")


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
      baselines: each task's reward without an edit, by task id; 0 where the outer update learns from a proxy.
      pairs: each edit with what it was turned into.
      outcomes: the outcome of each edit.
      report: the outer update's report.
      inner_updates: the adapters that were trained to measure rewards, those of baselines included.
    """

    baselines: dict[str, float]
    pairs: list[tuple[Edit, Applied]]
    outcomes: list[Outcome]
    report: Report
    inner_updates: int = 0


def run_round(
    state: State,
    domain: Domain,
    tasks: Sequence[Task],
    outer: OuterUpdate,
    settings: Settings,
    phase: Phase = silent,
) -> tuple[State, Round]:
    """Runs one round of the outer loop.

    Args:
      state: the state after the previous round; `state.outer` is `outer.init(policy)` at first.
      domain: supplies prompts, updates and verdicts.
      tasks: the round's contexts.
      outer: the outer update.
      settings: how edits are sampled and scored.
      phase: wraps each phase, for a progress display; it is called with the phase's name and number of units.

    Returns:
      The next state, and what happened.
    """
    stored, trained = units.current(), 0
    if settings.by_proxy:  # whose lowest value is that of no edit
        baselines = {task.id: 0.0 for task in tasks}
    else:
        with phase("baseline", len(tasks)) as advance, stored.within("baseline").active():
            without = [(Edit(task.id, 0, "", ""), domain.baseline(task)) for task in tasks]
            # With the seeds of the edits that are measured longest, which these are compared with.
            longest = dataclasses.replace(settings, inner_runs=settings.inner_runs + sum(settings.halving))
            unedited = score(state.student, domain, tasks, without, longest, advance)
        trained += _trained(without, unedited)
        baselines = {outcome.edit.task_id: outcome.reward for outcome in unedited}
    with phase("sample", len(tasks)) as advance, stored.within("sample").active():
        edits = sample(state.policy, domain, tasks, settings, advance)
    if settings.reward == "proxy":
        pairs = applied(domain, tasks, edits)
        outcomes = [_unscored(edit, what, state.student) for edit, what in pairs]
    else:
        with phase("apply and score", len(edits)) as advance, stored.within("score").active():
            pairs = applied(domain, tasks, edits)
            outcomes = score(state.student, domain, tasks, pairs, settings, advance)
        outcomes = _halved(state.student, domain, tasks, pairs, outcomes, settings, phase)
        trained += _trained(pairs, outcomes)
    if settings.reward != "inner":
        with phase("rate", len(edits)) as advance, stored.within("rate").active():
            outcomes = rate(domain, tasks, pairs, outcomes, settings, advance)
    if (penalty := settings.invalid_reward) is not None:
        outcomes = [
            each if each.status == "ok" else dataclasses.replace(each, reward=baselines[each.edit.task_id] + penalty)
            for each in outcomes
        ]
    with phase("improve", 1) as advance, stored.within("improve").active():
        pytree, state, report = outer.update(state.outer, state, baselines, outcomes)
        advance(1)
    state = dataclasses.replace(state, round=state.round + 1, outer=pytree)
    return state, Round(baselines, pairs, outcomes, report, trained)


def sample(
    policy: Policy, domain: Domain, tasks: Sequence[Task], settings: Settings, advance: Advance | None = None
) -> list[Edit]:
    """Samples `settings.edits` edits for each task, in the order of the tasks.

    An edit's random key is derived from the seed, the policy's version, the task's id and the sample's index.
    """
    edits = []
    for number, chosen in enumerate(_chunks(tasks, TASKS_AT_ONCE)):
        write = functools.partial(_sampled, policy, domain, chosen, settings)
        edits += units.current().once(f"from-{number * TASKS_AT_ONCE}", write)
        if advance:
            advance(len(chosen))
    return edits


def _sampled(policy: Policy, domain: Domain, tasks: Sequence[Task], settings: Settings) -> list[Edit]:
    prompts = [domain.edit_prompt(task) for task in tasks]
    results = generate(
        policy.model,
        prompts if policy.adapter is None else [prompts],
        adapters=policy.adapter,
        max_new_tokens=settings.edit_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        num_samples=settings.edits,
        ids=[f"edit {policy.version} {task.id}" for task in tasks],
        return_details=True,
    )
    each = results if policy.adapter is None else results[0]
    meter.add("edits", sampled=len(tasks) * settings.edits)
    return [
        Edit(task.id, index, prompt, written.text, written.tokens, policy.version, tuple(written.logprobs.tolist()))
        for task, prompt, samples in zip(tasks, prompts, each, strict=True)
        for index, written in enumerate(samples)
    ]


def applied(domain: Domain, tasks: Sequence[Task], edits: Sequence[Edit]) -> list[tuple[Edit, Applied]]:
    """Pairs each edit with the update or context that the domain makes of it, or with the reason that it makes none."""
    by_id = {task.id: task for task in tasks}
    return [(edit, apply(domain, by_id[edit.task_id], edit.text)) for edit in edits]


def apply(domain: Domain, task: Task, text: str | None) -> Applied:
    """Returns what the domain makes of an edit (see `Domain.apply`), or `Rejected` with the reason."""
    try:
        return domain.apply(task, text)
    except InvalidEdit as error:
        return Rejected(str(error))


def score(
    student: Policy,
    domain: Domain,
    tasks: Sequence[Task],
    pairs: Sequence[tuple[Edit, Applied]],
    settings: Settings,
    advance: Advance | None = None,
) -> list[Outcome]:
    """Applies each edit to a separate copy of the student, asks the questions and grades the answers.

    An edit that cannot be applied is scored as the student without an adapter, and its outcome's status is the
    reason.

    Returns:
      One outcome per edit, in order; the reward is the mean verdict over questions and inner runs.
    """
    by_id = {task.id: task for task in tasks}
    outcomes = []
    for number, chosen in enumerate(_chunks(pairs, settings.at_once)):
        with units.current().within(str(number)).active() as part:
            outcomes += part.once("outcomes", functools.partial(_graded, student, domain, by_id, chosen, settings))
        if advance:
            advance(len(chosen))
    return outcomes


def _graded(
    student: Policy,
    domain: Domain,
    by_id: Mapping[str, Task],
    pairs: Sequence[tuple[Edit, Applied]],
    settings: Settings,
) -> list[Outcome]:
    status, answers = _answers(student, domain, by_id, pairs, settings)
    tasks = [by_id[edit.task_id] for edit, _ in pairs]
    repeated = [task for task, runs in zip(tasks, answers, strict=True) for _ in runs]
    grades = iter(domain.grade(repeated, [run for runs in answers for run in runs]))
    outcomes = []
    for (edit, _), reason, runs in zip(pairs, status, answers, strict=True):
        graded = [next(grades) for _ in runs]
        verdicts = [verdict for run in graded for verdict in run]
        outcomes.append(
            Outcome(
                edit=edit,
                reward=float(np.mean(verdicts)),
                answers=tuple(answer for run in runs for answer in run),
                verdicts=tuple(verdicts),
                status=reason,
                policy_version=student.version,
                runs=tuple(float(np.mean(run)) for run in graded),
            )
        )
    meter.add("edits", scored=len(outcomes))
    return outcomes


def _answers(
    student: Policy,
    domain: Domain,
    by_id: Mapping[str, Task],
    pairs: Sequence[tuple[Edit, Applied]],
    settings: Settings,
) -> tuple[list[str], list[list[list[str]]]]:
    """Returns for each edit its status, and for each inner run the answers to the task's questions."""
    options: dict[str, Any] = dict(max_new_tokens=settings.answer_tokens, stop=settings.answer_stop)
    status = [what.reason if isinstance(what, Rejected) else "ok" for _, what in pairs]
    answers: list[list[list[str]]] = [[] for _ in pairs]
    updates = [(i, what) for i, (_, what) in enumerate(pairs) if isinstance(what, Update)]
    contexts = [(i, _context(what)) for i, (_, what) in enumerate(pairs) if not isinstance(what, Update)]
    if updates:
        seeds = range(settings.seed_offset, settings.seed_offset + settings.inner_runs)
        jobs = [(i, what.replace(seed=what.seed + seed)) for i, what in updates for seed in seeds]
        start = None if student.adapter is None else Adapters.stack([student.adapter] * len(jobs))
        train = functools.partial(adapt, student.model, [what for _, what in jobs], init=start)
        adapters = units.current().adapters(student.model, lambda snapshots: train(snapshots=snapshots))
        prompts = [domain.questions(by_id[pairs[i][0].task_id], _context(what)) for i, what in jobs]
        for (i, _), reason, texts in zip(
            jobs, adapters.status, generate(student.model, prompts, adapters=adapters, **options), strict=True
        ):
            status[i] = status[i] if reason == "ok" else reason
            answers[i].append(texts)
    if contexts:
        prompts = [domain.questions(by_id[pairs[i][0].task_id], context) for i, context in contexts]
        # All rejected edits of a task ask the same.
        flat = list(dict.fromkeys(prompt for each in prompts for prompt in each))
        if student.adapter is None:
            texts = generate(student.model, flat, **options)
        else:
            (texts,) = generate(student.model, [flat], adapters=student.adapter, **options)
        answer = dict(zip(flat, texts, strict=True))
        for (i, _), each in zip(contexts, prompts, strict=True):
            answers[i].append([answer[prompt] for prompt in each])
    return status, answers


def _context(what: Applied) -> str:
    return what.context if isinstance(what, ContextEdit | ContextUpdate) else ""


def _halved(
    student: Policy,
    domain: Domain,
    tasks: Sequence[Task],
    pairs: Sequence[tuple[Edit, Applied]],
    outcomes: Sequence[Outcome],
    settings: Settings,
    phase: Phase,
) -> list[Outcome]:
    """Scores the better edits again with further seeds, as `settings.halving` sets."""
    stored = units.current()
    applied_as = {(edit.task_id, edit.sample): what for edit, what in pairs}

    def measure(stage: int, left: Sequence[Outcome]) -> list[Outcome]:
        first = settings.seed_offset + settings.inner_runs + sum(settings.halving[:stage])
        further = dataclasses.replace(settings, inner_runs=settings.halving[stage], seed_offset=first)
        again = [(each.edit, applied_as[each.edit.task_id, each.edit.sample]) for each in left]
        name = f"halving {stage + 1}"
        with phase(name, len(again)) as advance, stored.within(name).active():
            return score(student, domain, tasks, again, further, advance)

    return halve(outcomes, len(settings.halving), measure)


def _trained(pairs: Sequence[tuple[Edit, Applied]], outcomes: Sequence[Outcome]) -> int:
    """Returns the number of adapters that were trained for outcomes."""
    trains = (isinstance(what, Update) for _, what in pairs)
    return sum(len(outcome.runs) for outcome, own in zip(outcomes, trains, strict=True) if own)


def _unscored(edit: Edit, what: Applied, student: Policy) -> Outcome:
    reason = what.reason if isinstance(what, Rejected) else "ok"
    return Outcome(edit, 0.0, status=reason, policy_version=student.version)


def rate(
    domain: Domain,
    tasks: Sequence[Task],
    pairs: Sequence[tuple[Edit, Applied]],
    outcomes: Sequence[Outcome],
    settings: Settings,
    advance: Advance | None = None,
) -> list[Outcome]:
    """Adds to outcomes the ratings of their edits by the domain's rubric, and the proxy reward that they make.

    An edit that cannot be applied is not rated, and its proxy is 0, the lowest. It becomes the reward where the
    outer update learns from it.

    Raises:
      InvalidTypeError: the domain cannot rate edits.
    """
    if not isinstance(domain, Rated):
        raise InvalidTypeError(f"{type(domain).__name__} has no method `rate`, which a proxy of the reward needs")
    by_id = {task.id: task for task in tasks}
    rated = []
    for number, chosen in enumerate(_chunks(list(zip(pairs, outcomes, strict=True)), settings.at_once)):
        edits = [edit for (edit, what), _ in chosen if not isinstance(what, Rejected)]
        compute = functools.partial(domain.rate, [by_id[edit.task_id] for edit in edits], [edit.text for edit in edits])
        found = iter(units.current().once(str(number), compute) if edits else ())
        for (_, what), outcome in chosen:
            ratings = () if isinstance(what, Rejected) else tuple(next(found))
            proxy = proxy_reward(ratings)
            reward = proxy if settings.by_proxy else outcome.reward
            rated.append(dataclasses.replace(outcome, reward=reward, ratings=ratings, proxy=proxy))
        meter.add("edits", rated=len(edits))
        if advance:
            advance(len(chosen))
    return rated


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
