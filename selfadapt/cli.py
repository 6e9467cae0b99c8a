"""The `selfadapt` command: train, plan, analyze, report, pretrain.

Whatever needs JAX is imported inside the command that needs it, so that `selfadapt --help` and a mistyped
argument answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from selfadapt.errors import Preempted, UserError
from selfadapt.parallel import distributed

USER_ERROR, INTERRUPTED = 2, 130
_REASONS = {  # what the other processes of a run say about this one
    USER_ERROR: "has stopped at an error; what it printed says which",
    INTERRUPTED: "was stopped by Ctrl-C",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
      argv: the arguments after the program's name; those of this process by default.

    Returns:
      0 on success, 2 after an error that the user can put right (one line on stderr), 75 after SIGTERM once
      the work under way is saved, 130 after Ctrl-C.
      Any other error is a fault of the program and leaves as an exception with its traceback. As one of several
      processes this one then ends at once, and the others with it; 76 is the status after the death of another.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(argv)
    except BaseException:
        if distributed.process_count() > 1:
            print(f"{distributed.label()}: error: a fault of the program", file=sys.stderr)
            traceback.print_exc()
        distributed.close(1, "has stopped at a fault of the program; what it printed says more")
        raise
    distributed.close(status, _REASONS.get(status, ""))
    return status


def _run(argv: list[str]) -> int:
    """Runs one command; returns the status, or raises what is a fault of the program."""
    # Only its tokenizers are used, so its advice to install a framework for models would mislead.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    workdir = None
    try:
        rest, overrides = _split_overrides(argv)
        arguments = _parse(rest, overrides)
        workdir = getattr(arguments, "workdir", None)
        arguments.overrides = overrides
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{distributed.label()}: stopped by Ctrl-C. {_kept(workdir)}", file=sys.stderr)
        return INTERRUPTED
    except Preempted:
        if distributed.is_main():
            print(f"selfadapt: stopped by SIGTERM, all work saved. {_kept(workdir)}", file=sys.stderr)
        return distributed.PREEMPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        distributed.end_if_lost(error)
        if not isinstance(error, UserError | OSError):
            raise
        if "--traceback" in argv:
            traceback.print_exc()
        print(f"{distributed.label()}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return 0


def _train(arguments: argparse.Namespace) -> None:
    if arguments.profile:
        arguments.overrides["telemetry.profile"] = arguments.profile
    config = _load_config(arguments)
    from selfadapt import experiment
    from selfadapt.telemetry import compilation

    distributed.initialize(arguments.distributed)
    compilation.use_cache()
    distributed.catch_sigterm()
    experiment.train(config, arguments.workdir)


def _plan(arguments: argparse.Namespace) -> None:
    from selfadapt.plan import topology

    topology.quiet(arguments.topology)  # before anything imports JAX
    config = _load_config(arguments)
    from selfadapt.plan import report, table
    from selfadapt.plan.workload import Assumed

    def progress(line: str) -> None:
        print(f"compiling {line}", file=sys.stderr)

    assumed = None if arguments.tokens is None else Assumed.parse(arguments.tokens)
    only = report.ALL if arguments.only is None else arguments.only.split(",")
    plan = report.plan(config, arguments.topology, arguments.model, assumed, progress, only)
    print(report.to_json(plan) if arguments.json else table.format_plan(plan))


def _pretrain(arguments: argparse.Namespace) -> None:
    config = _load_config(arguments)
    from selfadapt.domains.tiny import model
    from selfadapt.telemetry import compilation

    compilation.use_cache()
    model.pretrain(config, arguments.workdir)


def _analyze(arguments: argparse.Namespace) -> None:
    from selfadapt.seal import analyze

    print(analyze.analyze_command(arguments.files))


def _report(arguments: argparse.Namespace) -> None:
    from selfadapt import report

    print(report.write_report(arguments.workdir))


def _load_config(arguments: argparse.Namespace):
    from selfadapt.config import load_config

    return load_config(arguments.config, arguments.overrides)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See `{self.prog} --help`")


def _parser() -> _Parser:
    parser = _Parser(
        prog="selfadapt",
        description="Meta-learning for language models that adapt themselves: a policy writes its own training data,\n"
        "each piece is applied to a copy of the model and scored, and the policy learns to write better ones.",
        epilog="Start with:\n  selfadapt train --config=configs/quickstart.py --workdir=runs/quickstart",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(name: str, run, summary: str, description: str, epilog: str | None = None) -> _Parser:
        made = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
        return made

    fields = (
        "Any field of the config can be set on the command line:\n"
        "  --config.NAME=VALUE        for example --config.rounds=3 or --config.data.path=squad_val.json\n"
        "A value has the type that the field has in the file; lists are written a,b,c."
    )
    train = command(
        "train",
        _train,
        "run an experiment: rounds of sample, apply, score, improve",
        "Runs the experiment of a config file and writes summary.json, metrics.jsonl, edits.jsonl, the trained\n"
        "policy and report.html into the workdir.",
        fields,
    )
    pretrain = command(
        "pretrain",
        _pretrain,
        "train the small embedded model from scratch",
        "Pretrains the embedded model of a config file and writes it as a Hugging Face directory.",
        fields,
    )
    plan = command(
        "plan",
        _plan,
        "say what a run takes on a TPU slice or here, before it is paid for",
        "Compiles the programs of a config for a topology, without its devices and without weights, and prints\n"
        "what each takes on a device: memory by kind and whether it fits, work, communication, and the time at\n"
        "the chip's published rates. docs/scaling.md explains the tables.",
        fields,
    )
    for made in (train, pretrain, plan):
        made.add_argument(
            "--config", required=True, metavar="FILE[:ARG]", help="config file; ARG is handed to its get_config(ARG)"
        )
    for made in (train, pretrain):
        made.add_argument("--workdir", required=True, metavar="DIR", help="directory for everything the run writes")
    train.add_argument(
        "--distributed",
        action="store_true",
        help="be one of several processes that JAX finds by itself (TPU pods, GKE, SLURM); see docs/launch.md",
    )
    plan.add_argument(
        "--topology", required=True, metavar="NAME", help="v5e:4x4, v5p:4x4x4, v6e:8x8, ...; local is this machine"
    )
    plan.add_argument(
        "--model", metavar="PATH", help="a model's directory or config.json; needs no weights (default: config.model)"
    )
    plan.add_argument(
        "--tokens", metavar="A=N,...", help="sizes of texts where no data can be read, such as passage=200,edit=240"
    )
    plan.add_argument(
        "--only", metavar="PART,...", help="compile only these: sample, adapt, answer, improve, log_likelihood"
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    train.add_argument(
        "--profile", metavar="START:STOP", help="trace these seconds of the run into WORKDIR/profile (slows them down)"
    )
    analyze = command(
        "analyze",
        _analyze,
        "recompute the tables of SEAL's published result files",
        "Reads SEAL's result files (JSON) and prints their statistics, recomputed from the single verdicts, with\n"
        "intervals and paired tests.",
    )
    analyze.add_argument("files", nargs="+", metavar="FILE", help="a result file of SEAL's knowledge incorporation")
    report = command(
        "report",
        _report,
        "write report.html of a finished run again",
        "Reads a workdir and writes report.html into it: one file that needs nothing else.",
    )
    report.add_argument("--workdir", required=True, metavar="DIR", help="the workdir of a run of `selfadapt train`")
    return parser


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.a.b=value` and `--config.a.b value` out of the arguments."""
    rest, overrides = [], {}
    left = iter(argv)
    for argument in left:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(left, None)
            if value is None or value.startswith("--"):
                raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE")
        overrides[name] = value
    return rest, overrides


def _parse(argv: list[str], overrides: dict[str, str]) -> argparse.Namespace:
    parser = _parser()
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    commands = subparsers.choices
    known = [option for name in argv[:1] if name in commands for option in commands[name]._option_string_actions]
    for argument in argv:
        option = argument.partition("=")[0]
        if known and option.startswith("-") and option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            raise UserError(f"{argv[0]} has no argument {option}. {hint} See `selfadapt {argv[0]} --help`")
    if argv and argv[0] not in commands and not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0], commands, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no command {argv[0]}.{hint} There are: {', '.join(commands)}")
    arguments = parser.parse_args(argv)
    if overrides and not hasattr(arguments, "config"):
        raise UserError(f"{argv[0]} takes no config, so --config.{next(iter(overrides))} means nothing to it")
    return arguments


def _kept(workdir: str | None) -> str:
    """Says what a workdir holds."""
    files = sorted(pathlib.Path(workdir).iterdir()) if workdir and os.path.isdir(workdir) else []
    names = [f"{file.name}/" if file.is_dir() else file.name for file in files if not file.name.startswith(".")]
    if not names:
        return "Nothing was written."
    goes_on = ". The same command goes on from there" if "checkpoints/" in names else ""
    return f"What was finished is kept in {workdir}: {', '.join(names)}{goes_on}"
