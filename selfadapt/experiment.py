"""One experiment from its config to its report: what `selfadapt train` runs.

The outer loop is `selfadapt.loop`, the evaluation around it `selfadapt.evaluate`, the record of what was measured
`selfadapt.report.record`; here they are put together with checkpoints and telemetry.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from selfadapt import evaluate, files, loop
from selfadapt.checkpoint import rounds
from selfadapt.checkpoint.rounds import Checkpoints
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.config import check_command, check_workdir, save_config
from selfadapt.defaults import resolve
from selfadapt.domains import Domain, Narrowed, Prepared, Rated, Recorded, Searchable, make_domain
from selfadapt.engine import memory
from selfadapt.errors import InvalidValueError, UserError
from selfadapt.evaluate import Evaluation, Reference
from selfadapt.loop import Settings
from selfadapt.models.model import load_model
from selfadapt.models.peft import save_peft
from selfadapt.models.policy import Policy, State
from selfadapt.outer import OuterUpdate, halving, make_outer
from selfadapt.outer.controls import ShuffledRewards
from selfadapt.parallel import distributed
from selfadapt.parallel.sharding import make_mesh
from selfadapt.report.record import Record, Recorder
from selfadapt.report.summary import format_ladder, summarize, versions
from selfadapt.telemetry import phases
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.progress import Advance, Progress
from selfadapt.telemetry.sinks import Sinks
from selfadapt.types import UNTRAINED, Task, policy_row

REWARDS = ("inner", "proxy", "both")
LINES = ("metrics.jsonl", "edits.jsonl")
# What phases count, for the progress display; others count adapters.
_UNITS = {"sample": "task", "improve": "update", "rate": "edit", "grow trees": "round"}
_UNITS |= {"write questions": "passage", "answer questions": "question"}


def train(
    config: Any, workdir: str | os.PathLike, *, domain: Domain | None = None, outer: OuterUpdate | None = None
) -> dict[str, Any]:
    """Runs an experiment, or resumes the one that a workdir holds.

    Args:
      config: the experiment; `selfadapt/defaults.py` explains its fields.
      workdir: where everything is written: `config.json`, `metrics.jsonl`, `edits.jsonl`, `summary.json`,
        `report.html`, the domain's files (`selfadapt.domains.Recorded`), `policy` (the trained policy, a Hugging Face
        directory; a PEFT directory if its adapter is not merged), `student` likewise if it was trained apart from the
        policy, and `checkpoints`.
      domain: a domain to use in place of the one that `config.domain` names.
      outer: an outer update to use in place of the one that `config.outer` names.

    Returns:
      The contents of `summary.json`.

    Raises:
      UserError: the config, the data or the workdir cannot be used; nothing has been computed by then.
      Preempted: SIGTERM arrived (if `distributed.catch_sigterm` was called, as the command does); completed work
        is saved, and another call resumes.
    """
    from selfadapt import report

    check_command(config, "train")
    config = resolve(config)
    distributed.on_main(lambda: check_workdir(workdir, config))
    workdir = pathlib.Path(workdir)
    settings = make_settings(config)
    outer = make_outer(config) if outer is None else outer
    if config.shuffle_rewards:
        outer = ShuffledRewards(outer, config.seed)
    phases.check(config.telemetry)
    free_memory = memory.given(config.free_memory_gib)
    directory = rounds.place(config, workdir)
    start = initial_state(config)
    start = dataclasses.replace(start, outer=outer.init(start.policy))
    if domain is None:
        domain = make_domain(config, start.policy.model, start.student.model)
    heldout = domain.tasks("heldout", config.evaluation.contexts)
    for number in range(config.rounds):
        domain.tasks("train", config.contexts, number)  # raises now if there is too little data
    if config.reward != "inner" and not isinstance(domain, Rated):
        raise InvalidValueError(
            f"config.reward is {config.reward!r}, and the domain {config.domain.name!r} cannot rate edits; set "
            "it to 'inner'"
        )
    searched = _search_tasks(config, domain)
    given = evaluate.references(domain, heldout, config.evaluation.edits_from, config.evaluation.edits)
    distributed.on_main(lambda: _claim(workdir, directory, config))
    progress = Progress()
    lines = [workdir / name for name in LINES if config.checkpoint.directory]
    with free_memory, Checkpoints(directory, config.checkpoint.keep, start, lines) as checkpoints:
        state, saved = checkpoints.restore()
        record = Record(**saved or {})
        for name in LINES if distributed.is_main() else ():
            _cut(workdir / name, record.files.get(name, 0))  # later lines are written again, from the units
        with (
            MetricsWriter(workdir, Sinks(config.telemetry, workdir, config)) as writer,
            phases.Telemetry(config, workdir, writer) as meters,
            DurableUnits(
                directory, config.checkpoint.every_seconds, functools.partial(_damaged, writer, progress)
            ) as stored,
        ):
            for path, reason in checkpoints.damaged:
                _damaged(writer, progress, path, reason)
            run = _Run(config, settings, domain, outer, Recorder(record, writer, domain), progress, meters, stored)
            if isinstance(domain, Prepared):
                run.domain = domain = run.prepare(domain, start, workdir)
                heldout = domain.tasks("heldout", config.evaluation.contexts)
            evaluation = Evaluation(
                domain,
                heldout,
                dataclasses.replace(settings, edits=config.evaluation.edits, seed_offset=config.evaluation.seed_offset),
                start,
                stored,
                run.phase,
                config.evaluation.low_temperature,
                searched,
                given,
            )
            writer.event("started", round=state.round, model=config.model, versions=versions())
            resumed = f", resumed after round {state.round}" if record.scores else ""
            progress.log(
                f"{config.name}: {config.model}, {config.rounds} rounds of {config.contexts} contexts x {config.edits} "
                f"edits, evaluated on {len(heldout)} held-out tasks{resumed}"
            )

            def finished(state: State) -> None:
                """Ends a round: evaluates its policy and writes the checkpoint."""
                row = evaluation.policy(state)
                run.rows(evaluation, [row])
                if isinstance(domain, Recorded):
                    record.outputs = domain.files(heldout, row.outcomes)
                meters.end_round(state.round)
                if distributed.is_main():  # whose record is the one that is stored
                    record.files = {name: files.synced_size(workdir / name) for name in LINES}
                seconds = _seconds(record, progress)
                checkpoints.save(state, dataclasses.asdict(record) | {"seconds": seconds})

            if state.round == 0 and not record.scores:
                run.rows(evaluation, evaluation.references())
                finished(state)
            while state.round < config.rounds:
                state = run.round(state)
                finished(state)
                stored.forget(state.round - 1)  # the previous round's checkpoint is complete now
            if config.evaluation.controls:
                run.rows(evaluation, evaluation.controls(state))
            with progress.phase("save"), meters.phase("save", round=state.round):
                summary = _summary(config, record, _seconds(record, progress), given, domain)
                _save(state.policy, workdir / "policy", config.model)
                if state.student is not state.policy and state.student is not start.student:
                    _save(state.student, workdir / "student", config.student or config.model)
                if distributed.is_main():
                    files.write_json(workdir / "summary.json", summary)
                    for name, value in record.outputs.items():
                        files.write_text(workdir / name, json.dumps(files.plain(value)) + "\n")
                writer.event("finished", seconds=summary["seconds"])
    if distributed.is_main():
        page = report.write_report(workdir)
        print(format_ladder(summary))
        print(f"\nThe report is {page}")
    return summary


def make_settings(config: Any) -> Settings:
    """Returns how edits are sampled and scored; checks the numbers of a resolved config.

    Raises:
      InvalidValueError: a number is out of range.
    """
    for field in ("rounds", "contexts", "edits", "inner_runs", "at_once"):
        least = 0 if field == "rounds" else 1
        if config[field] < least:
            raise InvalidValueError(f"config.{field} is {config[field]}; it must be at least {least}")
    if not (config.sampling.temperature >= 0 and 0 < config.sampling.top_p <= 1):
        raise InvalidValueError("config.sampling: temperature must be 0 or more, and top_p above 0 and at most 1")
    if not config.evaluation.low_temperature >= 0:
        raise InvalidValueError(
            f"config.evaluation.low_temperature is {config.evaluation.low_temperature}; it must be 0 or more"
        )
    for field, least in (("contexts", 1), ("edits", 1), ("search", 0)):
        if config.evaluation[field] < least:
            raise InvalidValueError(
                f"config.evaluation.{field} is {config.evaluation[field]}; it must be at least {least}"
            )
    for field, value, allowed in (
        ("config.reward", config.reward, REWARDS),
        ("config.rubric.learn_from", config.rubric.learn_from, REWARDS[:2]),
    ):
        if value not in allowed:
            raise InvalidValueError(f"{field} is {value!r}; it must be one of {', '.join(allowed)}")
    settings = Settings.of(config)
    halving.check(settings.halving, settings.edits)
    if settings.halving and settings.by_proxy:
        raise InvalidValueError(
            f"config.halving is {settings.halving}, which needs rewards of inner runs, and the policy learns from "
            "ratings; set it to (), or change config.reward or config.rubric.learn_from"
        )
    return settings


@dataclasses.dataclass
class _Run:
    """A run in progress: its parts, and how they are timed and recorded."""

    config: Any
    settings: Settings
    domain: Domain
    outer: OuterUpdate
    recorder: Recorder
    progress: Progress
    meters: phases.Telemetry
    stored: DurableUnits

    @contextlib.contextmanager
    def phase(self, name: str, total: int, label: str, round: int) -> Iterator[Advance]:
        """Shows and measures a phase."""
        unit = _UNITS.get(name, "adapter")
        with (
            self.progress.phase(name, total=total, unit=unit, label=f"{label}: {name}") as step,
            self.meters.phase(name, round=round, label=label),
        ):
            yield step.advance

    def prepare(self, domain: Prepared, start: State, workdir: pathlib.Path) -> Domain:
        """Returns the domain with the tasks that are made with the models, and writes its files about them."""

        def phase(name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
            return self.phase(name, total, "before the first round", 0)

        with self.stored.within("prepare").active():
            prepared = domain.prepare(start, phase)
        if distributed.is_main() and isinstance(prepared, Prepared):
            files.write_tree(workdir, prepared.artifacts())
        return prepared

    def rows(self, evaluation: Evaluation, rows: Any) -> None:
        """Records rows of the evaluation as they are computed."""
        for row in rows:
            if row.same_as:
                self.recorder.copy(row.name, row.same_as)
            else:
                self.recorder.row(row.name, row.kind, row.round, evaluation.tasks, row.pairs, row.outcomes, row.details)

    def round(self, state: State) -> State:
        """Runs one round and records it."""
        number = state.round + 1
        tasks = self.domain.tasks("train", self.config.contexts, state.round)

        def phase(name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
            return self.phase(name, total, f"round {number}", number)

        with self.stored.round(number).active():
            after, done = loop.run_round(state, self.domain, tasks, self.outer, self.settings, phase)
        self.recorder.round(number, policy_row(state.round), tasks, done, after.policy.version)
        return after


def initial_state(config: Any) -> State:
    """Returns the state before the first round: loads the policy and the student."""
    mesh = make_mesh(**config.mesh)
    policy = Policy(load_model(config.model, dtype=config.dtype, mesh=mesh))
    if not config.student or config.student == config.model:
        return State(policy, policy)
    return State(policy, Policy(load_model(config.student, dtype=config.dtype, mesh=mesh)))


def _search_tasks(config: Any, domain: Domain) -> list[Task]:
    """Returns the training tasks on which the best constant edit is searched."""
    count = config.evaluation.search
    if count and not isinstance(domain, Searchable):
        raise InvalidValueError(
            f"config.evaluation.search is {count}, and the domain {config.domain.name!r} has no edits to search; "
            "set it to 0"
        )
    return domain.tasks("train", count) if count else []


def _save(policy: Policy, path: pathlib.Path, base: str) -> None:
    if policy.adapter is None:
        policy.model.save(path)
    else:
        save_peft(policy.adapter, path, base=base)


def _summary(
    config: Any, record: Record, seconds: dict[str, float], given: Sequence[Reference], domain: Domain
) -> dict[str, Any]:
    policies = [policy_row(number) for number in range(config.rounds + 1)]
    last, transferred = policies[-1], evaluate.on_untrained(policies[-1])
    names = [row.name for row in given]
    notes = evaluate.NOTES | {transferred: evaluate.ON_UNTRAINED_NOTE}
    pairs = [(last, UNTRAINED), *((name, UNTRAINED) for name in policies[1:-1])]
    pairs += [(UNTRAINED, evaluate.PASSAGE), (last, evaluate.EQUAL_STEPS), (last, evaluate.EQUAL_TOKENS)]
    pairs += [(last, evaluate.LOW_TEMPERATURE), (transferred, UNTRAINED), (last, evaluate.OTHERS)]
    pairs += [(last, evaluate.RANDOM), (last, evaluate.CONSTANT), *((name, UNTRAINED) for name in names)]
    pairs += [*((last, name) for name in names if last != UNTRAINED), (evaluate.ORACLE, last)]
    left = domain.narrowed() if isinstance(domain, Narrowed) else ()
    narrow = [evaluate.narrowed(name, which) for which in left for name in dict.fromkeys((UNTRAINED, last))]
    pairs += [(last, name) for name in narrow]
    notes |= dict.fromkeys(narrow, evaluate.NARROWED_NOTE)
    ladder = (evaluate.NONE, evaluate.PASSAGE, evaluate.RANDOM, *policies, evaluate.CONSTANT, *names, evaluate.ORACLE)
    return summarize(config, record, seconds, ladder, notes, pairs)


def _seconds(record: Record, progress: Progress) -> dict[str, float]:
    """Returns seconds by phase, those of earlier processes of the run included."""
    return dict(collections.Counter(record.seconds) + collections.Counter(progress.seconds))


def _claim(workdir: pathlib.Path, directory: os.PathLike, config: Any) -> None:
    """Marks a workdir and its directory of checkpoints as those of an experiment."""
    save_config(workdir, config)
    rounds.claim(directory, config)


def _damaged(writer: MetricsWriter, progress: Progress, path: os.PathLike | str, reason: str) -> None:
    """Reports that a stored file cannot be used."""
    progress.log(f"selfadapt: {path} cannot be used: {reason}")
    writer.event("damaged", path=str(path), reason=reason)


def _cut(path: pathlib.Path, size: int) -> None:
    """Truncates a file of lines to its length at the checkpoint."""
    have = path.stat().st_size if path.exists() else 0
    if have < size:
        raise UserError(
            f"{path} has {have} bytes, and the checkpoint that this run resumes from was made when it had {size}; "
            "restore the file, or use a fresh workdir"
        )
    if have > size:
        os.truncate(path, size)
