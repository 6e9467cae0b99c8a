"""One experiment from its config to its report: what `selfadapt train` runs.

The outer loop itself is in `selfadapt.loop`. Here are the run's files and the held-out evaluation that
surrounds the rounds, the *ladder*: the model as it is, adapted to the passage alone, to the edits of the
untrained policy, to those of each round's policy, and to an oracle's.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfadapt import files, loop
from selfadapt.checkpoint import rounds
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableLedger, Ledger
from selfadapt.config import check_workdir, save_config
from selfadapt.domains import Applied, Domain, make_domain
from selfadapt.engine.adapt.schedule import optimiser_steps
from selfadapt.errors import UserError
from selfadapt.loop import Settings
from selfadapt.models.lora import resolve_targets
from selfadapt.models.model import load_model
from selfadapt.models.peft import save_peft
from selfadapt.models.policy import Policy, State
from selfadapt.outer import select
from selfadapt.outer.rest_em import RestEM
from selfadapt.parallel import distributed
from selfadapt.parallel.sharding import make_mesh
from selfadapt.telemetry import phases
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.progress import Progress, duration
from selfadapt.telemetry.sinks import Sinks
from selfadapt.telemetry.statistics import mean_and_stderr, paired_difference
from selfadapt.types import Edit, Outcome, Task, Update

PACKAGES = ("selfadapt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
LINES = ("metrics.jsonl", "edits.jsonl")
EQUAL_STEPS = "passage, equal steps"
ON_UNTRAINED = "{} edits on untrained weights"


def train(config: Any, workdir: str | os.PathLike) -> dict[str, Any]:
    """Runs an experiment, or goes on where the run that a workdir holds was stopped.

    Args:
      config: the experiment; `configs/quickstart.py` names and explains its fields.
      workdir: where everything is written: `config.json`, `metrics.jsonl`, `edits.jsonl`, `summary.json`,
        `report.html`, `policy` (the trained policy, a Hugging Face directory; a PEFT directory where its
        adapter is not merged) and `checkpoints`.

    Returns:
      What `summary.json` holds.

    Raises:
      UserError: the config, the data or the workdir cannot be used; nothing has been computed by then.
      Preempted: SIGTERM has come (where `distributed.catch_sigterm` was called, as the command does); what was
        done is saved, and another call goes on from there.
    """
    from selfadapt import report

    if distributed.is_main():
        check_workdir(workdir, config)
    workdir = pathlib.Path(workdir)
    settings, improve = make_settings(config), make_improve(config)
    phases.check(config.telemetry)
    directory = rounds.place(config, workdir)
    model = load_model(config.model, dtype=config.dtype, mesh=make_mesh(**config.mesh))
    resolve_targets(config.policy_update.targets, model.config)
    domain = make_domain(config, model)
    heldout = domain.tasks("heldout", config.evaluation.contexts)
    for number in range(config.rounds):
        domain.tasks("train", config.contexts, number)  # too little data is found out now
    if distributed.is_main():
        save_config(workdir, config)
        rounds.claim(directory, config)
    start, progress = Policy(model), Progress()
    lines = [workdir / name for name in LINES if config.checkpoint.directory]
    with Checkpoints(directory, config.checkpoint.keep, lines) as checkpoints:
        state, journal = checkpoints.restore(State(policy=start, student=start))
        if journal is None:
            journal = {"scores": {}, "rounds": [], "invalid": {}, "seconds": {}, "files": {}}
        for name in LINES if distributed.is_main() else ():
            # What came after the checkpoint is written again, from the ledger.
            _cut(workdir / name, journal["files"].get(name, 0))
        with (
            MetricsWriter(workdir, Sinks(config.telemetry, workdir, config)) as writer,
            phases.Telemetry(config, workdir, writer) as meters,
            DurableLedger(
                directory, config.checkpoint.every_seconds, functools.partial(_damaged, writer, progress)
            ) as ledger,
        ):
            improve = dataclasses.replace(improve, ledger=ledger)
            run = _Run(config, settings, domain, heldout, writer, progress, meters, ledger, journal, start)
            run.start_from(state, checkpoints.damaged)
            if state.round == 0 and not journal["scores"]:
                run.references()
                run.ladder("untrained", state)
                meters.end_round(0)
                checkpoints.save(state, run.state_of_files(workdir))
            while state.round < config.rounds:
                state = run.round(state, improve)
                run.ladder(f"round{state.round}", state)
                meters.end_round(state.round)
                checkpoints.save(state, run.state_of_files(workdir))
                ledger.forget(state.round - 1)  # the round before is safe now; its checkpoint is whole
            with run.progress.phase("save"), meters.phase("save", round=state.round):
                run.controls(state)
                summary = run.summary()
                if state.policy.adapter is None:
                    state.policy.model.save(workdir / "policy")
                else:
                    save_peft(state.policy.adapter, workdir / "policy", base=config.model)
                if distributed.is_main():
                    files.write_json(workdir / "summary.json", summary)
                writer.event("finished", seconds=summary["seconds"])
    if distributed.is_main():
        path = report.write_report(workdir)
        print(format_ladder(summary))
        print(f"\nThe report is {path}")
    return summary


def make_settings(config: Any) -> Settings:
    """Returns how edits are sampled and scored; checks the numbers.

    Raises:
      UserError: a number is out of range.
    """
    for field in ("rounds", "contexts", "edits", "inner_runs", "at_once"):
        if config[field] < (0 if field == "rounds" else 1):
            raise UserError(f"config.{field} is {config[field]}; it must be at least {0 if field == 'rounds' else 1}")
    if not (config.sampling.temperature >= 0 and 0 < config.sampling.top_p <= 1):
        raise UserError("config.sampling: temperature must be 0 or more, and top_p above 0 and at most 1")
    for field in ("contexts", "edits"):
        if config.evaluation[field] < 1:
            raise UserError(f"config.evaluation.{field} is {config.evaluation[field]}; it must be at least 1")
    return Settings(
        seed=config.seed,
        edits=config.edits,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        edit_tokens=config.sampling.max_new_tokens,
        answer_tokens=config.answer.max_new_tokens,
        answer_stop=tuple(config.answer.stop),
        inner_runs=config.inner_runs,
        at_once=config.at_once,
    )


def make_improve(config: Any) -> RestEM:
    """Returns the outer update that the config asks for.

    Raises:
      UserError: the selection's name is unknown.
    """
    chosen = config.select
    methods = {
        "best": lambda outcomes, baselines: select.best_of(outcomes, chosen.k),
        "best_improving": lambda outcomes, baselines: select.best_improving(
            outcomes, baselines, chosen.k, chosen.margin
        ),
        "improvement": lambda outcomes, baselines: select.improvement(outcomes, baselines, chosen.margin),
        "top_fraction": lambda outcomes, baselines: select.top_fraction(outcomes, chosen.fraction),
    }
    if chosen.method not in methods:
        raise UserError(f"config.select.method is {chosen.method!r}; it must be one of {', '.join(methods)}")
    if not 0 < chosen.fraction <= 1 or chosen.k < 1:
        raise UserError("config.select: k must be at least 1, and fraction above 0 and at most 1")
    fields = {name: config.policy_update[name] for name in config.policy_update if name != "merge"}
    return RestEM(
        select=methods[chosen.method],
        update=Update((), **fields),
        merge_adapter=config.policy_update.merge,
        shuffle_rewards=config.shuffle_rewards,
        seed=config.seed,
    )


class _Run:
    """A run in progress: what it has measured so far (the journal), and where it writes."""

    def __init__(
        self, config, settings: Settings, domain: Domain, heldout, writer, progress, meters, ledger, journal, start
    ):
        self.config, self.settings, self.domain, self.heldout = config, settings, domain, heldout
        self.writer: MetricsWriter = writer
        self.progress: Progress = progress
        self.meters: phases.Telemetry = meters
        self.ledger: Ledger = ledger
        self.journal: dict[str, Any] = journal
        self.start: Policy = start
        self.evaluation = dataclasses.replace(settings, edits=config.evaluation.edits)
        self.last_edits: list[Edit] = []

    @contextlib.contextmanager
    def _phase(self, name: str, total: int, prefix: str, round: int):
        unit = {"sample": "passage", "improve": "update"}.get(name, "adapter")
        with (
            self.progress.phase(name, total=total, unit=unit, label=f"{prefix}: {name}") as step,
            self.meters.phase(name, round=round, label=prefix),
        ):
            yield step.advance

    def start_from(self, state: State, damaged: Sequence[tuple[str, str]]) -> None:
        """Says what is about to happen, and which checkpoints could not be used."""
        config = self.config
        for path, reason in damaged:
            _damaged(self.writer, self.progress, path, reason)
        self.writer.event("started", round=state.round, model=config.model, versions=versions())
        done = f", going on after round {state.round}" if self.journal["scores"] else ""
        self.progress.log(
            f"{config.name}: {config.model}, {config.rounds} rounds of {config.contexts} contexts x {config.edits} "
            f"edits, judged on {len(self.heldout)} held-out passages{done}"
        )

    def references(self) -> None:
        """Evaluates the rows of the ladder that no policy writes."""
        domain, tasks = self.domain, self.heldout
        rows = {
            "none": [domain.unchanged(task) for task in tasks],
            "passage": [domain.apply(task, None) for task in tasks],
            "oracle": [domain.apply(task, text) for task in tasks if (text := domain.oracle(task)) is not None],
        }
        for name, what in rows.items():
            if len(what) == len(tasks):
                pairs = [(Edit(task.id, 0, "", ""), each) for task, each in zip(tasks, what, strict=True)]
                self.evaluate(name, self.start, pairs, self.ledger.round(0).within(name))

    def ladder(self, name: str, state: State) -> None:
        """Evaluates a policy: its edits of the held-out tasks, applied to the student."""
        with self._phase("sample", len(self.heldout), name, state.round) as advance:
            self.last_edits = self._heldout_edits(state, advance)
        pairs = loop.applied(self.domain, self.heldout, self.last_edits)
        self.evaluate(name, state.student, pairs, self.ledger.round(state.round).within("heldout"), state.round)

    def _heldout_edits(self, state: State, advance: loop.Advance | None = None) -> list[Edit]:
        place = self.ledger.round(state.round).within("heldout").within("sample")
        return loop.sample(state.policy, self.domain, self.heldout, self.evaluation, advance, place)

    def controls(self, state: State) -> None:
        """Evaluates what the ladder is compared with: equal steps, and the last edits on the first weights."""
        ledger = self.ledger.within("controls")
        edits = self.last_edits or self._heldout_edits(state)
        pairs = loop.applied(self.domain, self.heldout, edits)
        alone = {task.id: self.domain.apply(task, None) for task in self.heldout}
        if all(isinstance(what, Update) for what in (*alone.values(), *(what for _, what in pairs))):
            equal = [(edit, _as_many_steps(alone[edit.task_id], what)) for edit, what in pairs]
            if all(what == alone[edit.task_id] for edit, what in equal):
                self.journal["scores"][EQUAL_STEPS] = self.journal["scores"]["passage"]  # they are equal already
            else:
                place = ledger.within("equal steps")
                self.evaluate(EQUAL_STEPS, self.start, equal, place, state.round, "control")
        if state.round and state.student is not self.start:
            name, place = ON_UNTRAINED.format(f"round{state.round}"), ledger.within("on untrained")
            self.evaluate(name, self.start, pairs, place, state.round, "control")

    def evaluate(
        self,
        name: str,
        student: Policy,
        pairs: Sequence[tuple[Edit, Applied]],
        ledger: Ledger,
        round: int = 0,
        phase: str = "eval",
    ) -> None:
        """Scores one row on the held-out tasks and records it; "control" marks rows beside the ladder."""
        with self._phase("evaluate", len(pairs), name, round) as advance:
            outcomes = loop.score(student, self.domain, self.heldout, pairs, self.settings, advance, ledger)
        self._record(outcomes, [what for _, what in pairs], self.heldout, round, phase, name)
        rewards = collections.defaultdict(list)
        for outcome in outcomes:
            rewards[outcome.edit.task_id].append(outcome.reward)
        self.journal["scores"][name] = [float(np.mean(rewards[task.id])) for task in self.heldout]
        mean, stderr = mean_and_stderr(self.journal["scores"][name])
        self.writer.event("evaluated", round=round, phase=phase, name=name, mean=mean, stderr=stderr)

    def round(self, state: State, improve: loop.Improve) -> State:
        """Runs one round and records it."""
        number = state.round + 1
        tasks = self.domain.tasks("train", self.config.contexts, state.round)
        name = f"round{state.round}" if state.round else "untrained"

        def phase(phase_name, total):
            return self._phase(phase_name, total, f"round {number}", number)

        ledger = self.ledger.round(number)
        after, what = loop.run_round(state, self.domain, tasks, improve, self.settings, phase, ledger)
        chosen = what.facts["chosen"]
        self._record(what.outcomes, [each for _, each in what.pairs], tasks, number, "train", name, chosen)
        best: dict[str, float] = {}
        for outcome in what.outcomes:
            best[outcome.edit.task_id] = max(best.get(outcome.edit.task_id, -math.inf), outcome.reward)
        facts = {
            "round": number,
            "reward_mean": float(np.mean([outcome.reward for outcome in what.outcomes])),
            "reward_best": float(np.mean(list(best.values()))),
            "baseline": float(np.mean(list(what.baselines.values()))),
            "selected": what.facts["selected"],
            "policy_loss": what.facts["policy_loss"],
            "policy_version": after.policy.version,
        }
        self.journal["rounds"].append(facts)
        self.writer.event("round", **facts)
        return after

    def _record(self, outcomes: Sequence[Outcome], updates, tasks, round, phase, policy, chosen=frozenset()) -> None:
        by_id: Mapping[str, Task] = {task.id: task for task in tasks}
        for outcome, what in zip(outcomes, updates, strict=True):
            edit, task = outcome.edit, by_id[outcome.edit.task_id]
            if outcome.status != "ok":
                self.journal["invalid"][outcome.status] = self.journal["invalid"].get(outcome.status, 0) + 1
            self.writer.edit(
                {
                    "task": task.id,
                    "title": task.title,
                    "context": task.context,
                    "round": round,
                    "phase": phase,
                    "policy": policy,
                    "sample": edit.sample,
                    "text": edit.text,
                    "sequences": [_text(s) for s in what.sequences] if isinstance(what, Update) else [what.context],
                    "reward": outcome.reward,
                    "selected": (task.id, edit.sample) in chosen,
                    "questions": [question.question for question in task.questions],
                    "golds": [list(question.answers) for question in task.questions],
                    "answers": list(outcome.answers),
                    "verdicts": list(outcome.verdicts),
                    "status": outcome.status,
                    "policy_version": outcome.policy_version,
                    "kinds": self.domain.describe(task, edit.text),
                }
            )

    def state_of_files(self, workdir: pathlib.Path) -> dict[str, Any]:
        """Returns the journal with what a later start needs: seconds so far, and how long the files are on disk."""
        if distributed.is_main():  # whose journal it is that is kept
            self.journal["files"] = {name: files.synced_size(workdir / name) for name in LINES}
        return self.journal | {"seconds": self._seconds()}

    def _seconds(self) -> dict[str, float]:
        before = collections.Counter(self.journal["seconds"])
        return dict(before + collections.Counter(self.progress.seconds))

    def summary(self) -> dict[str, Any]:
        """Returns what `summary.json` holds."""
        scores, rounds = self.journal["scores"], self.config.rounds
        policies = ["untrained", *(f"round{number}" for number in range(1, rounds + 1))]
        rows = [name for name in ("none", "passage", *policies, "oracle") if name in scores]
        last, transferred = policies[-1], ON_UNTRAINED.format(policies[-1])
        notes = {
            EQUAL_STEPS: "the passage alone, with as many optimiser steps as the last policy's edits get",
            transferred: "the trained policy writes, the untrained weights are adapted: what the edits alone are worth",
        }
        pairs = [(last, "untrained"), *((name, "untrained") for name in policies[1:-1]), ("untrained", "passage")]
        pairs += [(last, EQUAL_STEPS), (transferred, "untrained"), ("oracle", last)]

        def row(name):
            mean, stderr = mean_and_stderr(scores[name])
            return {"name": name, "mean": mean, "stderr": stderr, "n": len(scores[name])}

        def difference(a, b):
            middle, low, high = paired_difference(scores[a], scores[b])
            return {"a": a, "b": b, "difference": middle, "low": low, "high": high, "n": len(scores[a])}

        seconds = self._seconds()
        return {
            "name": self.config.name,
            "seed": self.config.seed,
            "model": self.config.model,
            "command": _command(),
            "versions": versions(),
            "ladder": [row(name) for name in rows],
            "extras": [row(name) | {"note": note} for name, note in notes.items() if name in scores],
            "paired": [difference(a, b) for a, b in pairs if a in scores and b in scores and a != b],
            "rounds": self.journal["rounds"],
            "timings": {name: round(value, 3) for name, value in seconds.items()},
            "seconds": round(sum(seconds.values()), 3),
            "invalid": self.journal["invalid"],
        }


def format_ladder(summary: Mapping[str, Any]) -> str:
    """Returns the ladder and its differences as a text table."""
    lines = [f"\n{summary['name']}, seed {summary['seed']}: {duration(summary['seconds'])}\n"]
    names = [row["name"] for row in (*summary["ladder"], *summary["extras"])]
    width = max(map(len, names))
    rows = [(row, "") for row in summary["ladder"]] + [(row, "  (control)") for row in summary["extras"]]
    for row, remark in rows:
        bar = "#" * round(40 * max(0.0, min(1.0, row["mean"])))
        lines.append(f"{row['name']:<{width}}  {row['mean']:.3f} +- {row['stderr']:.3f}  {bar}{remark}")
    lines.append("")
    for pair in summary["paired"]:
        lines.append(
            f"{pair['a']} - {pair['b']}: {pair['difference']:+.3f}  95% [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _command() -> str:
    return shlex.join(["selfadapt", *sys.argv[1:]])


def _as_many_steps(alone: Update, other: Update) -> Update:
    """Returns an update with the epochs that give it at least as many optimiser steps as another has."""
    wanted = len(optimiser_steps(other, len(other.sequences)))
    each = max(1, len(optimiser_steps(alone.replace(epochs=1), len(alone.sequences))))
    return alone.replace(epochs=-(-wanted // each))


def _text(sequence: Any) -> str:
    return sequence if isinstance(sequence, str) else f"{len(getattr(sequence, 'ids', sequence))} tokens"


def _damaged(writer: MetricsWriter, progress: Progress, path: os.PathLike | str, reason: str) -> None:
    """Says that something stored cannot be used."""
    progress.log(f"selfadapt: {path} cannot be used: {reason}")
    writer.event("damaged", path=str(path), reason=reason)


def _cut(path: pathlib.Path, size: int) -> None:
    have = path.stat().st_size if path.exists() else 0
    if have < size:
        raise UserError(
            f"{path} has {have} bytes, and the checkpoint that this run goes on from was made when it had {size}; "
            "put the file back, or use a fresh workdir"
        )
    if have > size:
        os.truncate(path, size)
