"""What `selfadapt evaluate` runs: a protocol, from its config to its report."""

from __future__ import annotations

import os
import pathlib
import shlex
import sys
from typing import Any

from selfadapt import files
from selfadapt.checkpoint import rounds
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.config import check_command, check_workdir, find_factory, save_config
from selfadapt.defaults import resolve
from selfadapt.domains import Domain
from selfadapt.engine import memory
from selfadapt.parallel import distributed
from selfadapt.protocols.base import Run
from selfadapt.report import write_report
from selfadapt.report.summary import versions
from selfadapt.telemetry import phases
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.progress import Progress
from selfadapt.telemetry.sinks import Sinks

NAMES = ("continual", "evolve", "pretraining")


def evaluate(config: Any, workdir: str | os.PathLike, *, domain: Domain | None = None) -> dict[str, Any]:
    """Runs an evaluation protocol, or resumes the run that a workdir holds.

    Args:
      config: the run; it starts from `selfadapt.protocols.defaults.protocol`.
      workdir: where everything is written: `config.json`, `metrics.jsonl`, `edits.jsonl`, `summary.json`,
        `report.html`, the protocol's files, and `checkpoints`, the completed units of work.
      domain: a domain to use in place of the one that `config.domain` names.

    Returns:
      The contents of `summary.json`.

    Raises:
      UserError: the config, the data, a model or the workdir cannot be used; nothing has been computed by then.
      Preempted: SIGTERM arrived; completed work is saved, and another call resumes.
    """
    check_command(config, "evaluate")
    config = resolve(config)
    distributed.on_main(lambda: check_workdir(workdir, config))
    workdir = pathlib.Path(workdir)
    phases.check(config.telemetry)
    free_memory = memory.given(config.free_memory_gib)
    directory = rounds.place(config, workdir)
    protocol = find_factory(config.protocol.name, "config.protocol.name", "selfadapt.protocols", NAMES)(config, domain)

    def claim() -> None:
        save_config(workdir, config)
        rounds.claim(directory, config)
        (workdir / "edits.jsonl").unlink(missing_ok=True)  # its lines are written again, from the units

    distributed.on_main(claim)
    progress = Progress()
    with (
        free_memory,
        MetricsWriter(workdir, Sinks(config.telemetry, workdir, config)) as writer,
        phases.Telemetry(config, workdir, writer) as meters,
    ):

        def damaged(path: os.PathLike, reason: str) -> None:
            progress.log(f"selfadapt: {path} cannot be used: {reason}")
            writer.event("damaged", path=str(path), reason=reason)

        with DurableUnits(directory, config.checkpoint.every_seconds, damaged) as stored:
            writer.event("started", model=config.model, versions=versions())
            measured = protocol.run(Run(stored, writer, progress, meters))
        seconds = {name: round(value, 3) for name, value in progress.seconds.items()}
        summary = {
            "name": config.name,
            "protocol": config.protocol.name,
            "seed": config.seed,
            "model": config.model,
            "command": shlex.join(["selfadapt", *sys.argv[1:]]),
            "versions": versions(),
            **measured.summary,
            "timings": seconds,
            "seconds": round(sum(seconds.values()), 3),
        }
        if distributed.is_main():
            files.write_tree(workdir, measured.files)
            files.write_json(workdir / "summary.json", summary)
        writer.event("finished", seconds=summary["seconds"])
    if distributed.is_main():
        print(f"\n{config.name}, seed {config.seed}\n\n{measured.text}")
        print(f"\nThe report is {write_report(workdir)}")
    return summary
