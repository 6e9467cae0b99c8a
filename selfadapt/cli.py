"""The `selfadapt` command: train, evaluate, plan, analyze, report, pretrain, entigraph.

Each command imports what needs JAX when it runs, so that `selfadapt --help` and errors in arguments are immediate.
"""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from selfadapt import allocator
from selfadapt.errors import Preempted, UserError
from selfadapt.parallel import chips, distributed

if TYPE_CHECKING:
    from ml_collections import ConfigDict

FAULT, USER_ERROR, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
      argv: the arguments after the program's name; `sys.argv[1:]` by default.

    Returns:
      0 on success, 2 after an error that the user can fix (`UserError` or `OSError`; one line on stderr), 75 after
      SIGTERM, when the work is saved, 130 after Ctrl-C. With several processes, failures do not return: the process
      ends at once, and JAX ends the others.

    Raises:
      Exception: a fault of the program.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(argv)
    except Exception:
        if distributed.process_count() == 1:
            raise
        traceback.print_exc()
        print(
            f"{distributed.label()}: error: this process failed (above), and JAX will end the others. If another "
            "process failed first, its output has the cause",
            file=sys.stderr,
        )
        status = FAULT
    distributed.finish(status)
    return status


def _run(argv: list[str]) -> int:
    """Runs one command; returns its exit status, and raises faults of the program."""
    # Only tokenizers are used, so the advice to install a framework for models would mislead.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    chips.take_gpu_memory()
    allocator.keep_in_process()
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
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
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


def _evaluate(arguments: argparse.Namespace) -> None:
    config = _load_config(arguments)
    from selfadapt.protocols.run import evaluate
    from selfadapt.telemetry import compilation

    distributed.initialize(arguments.distributed)
    compilation.use_cache()
    distributed.catch_sigterm()
    evaluate(config, arguments.workdir)


def _plan(arguments: argparse.Namespace) -> None:
    from selfadapt.plan import topology

    topology.quiet(arguments.topology)  # before anything imports JAX
    config = _load_config(arguments)
    from selfadapt.plan import report, table
    from selfadapt.plan.workload import Assumed

    def progress(line: str) -> None:
        print(f"compiling {line}", file=sys.stderr)

    assumed = None if arguments.tokens is None else Assumed.parse(arguments.tokens)
    only = None if arguments.only is None else arguments.only.split(",")
    plan = report.plan(config, arguments.topology, arguments.model, assumed, progress, only)
    print(report.to_json(plan) if arguments.json else table.format_plan(plan))


def _pretrain(arguments: argparse.Namespace) -> None:
    config = _load_config(arguments)
    from selfadapt.domains.tiny import model
    from selfadapt.telemetry import compilation

    compilation.use_cache()
    model.pretrain(config, arguments.workdir)


def _analyze(arguments: argparse.Namespace) -> None:
    if (arguments.reproduction is None) == (not arguments.files):
        raise UserError("give either result files, `selfadapt analyze FILE...`, or --reproduction DIR")
    if arguments.reproduction is not None:
        from selfadapt.seal import reproduction

        print(reproduction.reproduction(arguments.reproduction))
        return
    from selfadapt.seal import analyze

    print(analyze.analyze_command(arguments.files))


def _report(arguments: argparse.Namespace) -> None:
    from selfadapt import report

    print(report.write_report(arguments.workdir))


def _entigraph(arguments: argparse.Namespace) -> None:
    config = _load_config(arguments)
    from selfadapt.domains.knowledge import entity_graph
    from selfadapt.telemetry import compilation

    compilation.use_cache()
    numbers = {"pairs": arguments.pairs, "triples": arguments.triples}
    counts = entity_graph.write_entity_graphs(config, arguments.out, **numbers)
    print(f"{arguments.out}: {entity_graph.summary(counts)}")


def _load_config(arguments: argparse.Namespace) -> ConfigDict:
    from selfadapt.config import load_config

    return load_config(arguments.config, arguments.overrides)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See `{self.prog} --help`")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Returns the parser of the command line, and its commands' parsers by name."""
    parser = _Parser(
        prog="selfadapt",
        description="Meta-learning for language models that adapt themselves: a policy writes training data (edits),\n"
        "each edit is applied to a copy of the model, the copy is scored, and the policy learns to write better edits.",
        epilog="Start with:\n  selfadapt train --config=quickstart --workdir=runs/quickstart",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, description: str, epilog: str | None = None
    ) -> _Parser:
        made = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="print the traceback of every error")
        return made

    fields = (
        "Any field of the config can be set on the command line:\n"
        "  --config.NAME=VALUE        for example --config.rounds=3 or --config.data.path=squad_val.json\n"
        "A value is parsed as the type of the field in the file; lists are written a,b,c."
    )
    train = command(
        "train",
        _train,
        "run an experiment: rounds of sample, apply, score, improve",
        "Runs the experiment of a config file and writes summary.json, metrics.jsonl, edits.jsonl, the trained\n"
        "policy and report.html into the workdir. The same command resumes a run that was stopped.",
        fields,
    )
    evaluate = command(
        "evaluate",
        _evaluate,
        "run an evaluation protocol: continual self-edits, continued pretraining",
        "Measures a model or a trained policy by the protocol of a config file (config.protocol.name), such as\n"
        "seal/continual or seal/continued_pretraining, and writes summary.json, metrics.jsonl, edits.jsonl and\n"
        "report.html into the workdir. The same command resumes a run that was stopped.",
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
        "estimate memory, time and communication of a run on a TPU slice, on GPUs or here",
        "Compiles the programs of a config for a topology, without its devices or the weights, and prints for each\n"
        "program the memory per device by kind and whether it fits, FLOPs, communication, and the time at the\n"
        "chip's published rates. docs/scaling.md explains the tables.",
        fields,
    )
    entigraph = command(
        "entigraph",
        _entigraph,
        "write texts about pairs and triples of the entities of passages",
        "Lets the model of a config write EntiGraph's synthetic data about the config's held-out passages, in the\n"
        "schema of SEAL's files; --config.evaluation.edits_from=NAME=FILE adapts to them (docs/knowledge.md).",
        fields,
    )
    entigraph.add_argument("--out", required=True, metavar="FILE", help="the JSON file to write; it must not exist")
    for group in ("pairs", "triples"):
        entigraph.add_argument(
            f"--{group}",
            type=int,
            default=5,
            metavar="N",
            help=f"the most texts about {group} per passage (default: 5)",
        )
    for made in (train, evaluate, pretrain, plan, entigraph):
        made.add_argument(
            "--config", required=True, metavar="FILE[:ARG]", help="config file; ARG is passed to its get_config(ARG)"
        )
    for made in (train, evaluate, pretrain):
        made.add_argument("--workdir", required=True, metavar="DIR", help="directory for everything the run writes")
    for made in (train, evaluate):
        made.add_argument(
            "--distributed",
            action="store_true",
            help="run as one of several processes that JAX detects (TPU pods, GKE, SLURM); see docs/launch.md",
        )
    plan.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="a TPU slice (v5e:4x4, v5p:4x4x4, ...), GPUs of a host (h100:2, h200:8, ...), or local for this machine",
    )
    plan.add_argument(
        "--model", metavar="PATH", help="a model's directory or config.json; needs no weights (default: config.model)"
    )
    plan.add_argument(
        "--tokens", metavar="A=N,...", help="tokens per text, if no data can be read, such as passage=200,edit=240"
    )
    plan.add_argument(
        "--only",
        metavar="PART,...",
        help="compile only these: sample, adapt, answer, and of a round improve, log_likelihood",
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    train.add_argument(
        "--profile", metavar="START:STOP", help="trace these seconds of the run into WORKDIR/profile (which slows them)"
    )
    analyze = command(
        "analyze",
        _analyze,
        "recompute the tables of SEAL's published result files",
        "Reads SEAL's result files (JSON) and prints their statistics, recomputed from the individual verdicts,\n"
        "with confidence intervals and paired tests. With --reproduction, prints the published tables beside what the\n"
        "files of a directory give, as in docs/reproduction.md.",
    )
    analyze.add_argument("files", nargs="*", metavar="FILE", help="a result file of SEAL's knowledge incorporation")
    analyze.add_argument(
        "--reproduction", metavar="DIR", help="SEAL's repository, or a folder with some of its result files"
    )
    report = command(
        "report",
        _report,
        "write report.html of a finished run again",
        "Reads a workdir and writes report.html, a self-contained page, into it.",
    )
    report.add_argument("--workdir", required=True, metavar="DIR", help="the workdir of a run")
    return parser, commands.choices


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--config.a.b=value` and `--config.a.b value` from the other arguments."""
    rest, overrides = [], {}
    left = iter(argv)
    for argument in left:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(left, "--")
            if value.startswith("--"):
                raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE")
        overrides[name] = value
    return rest, overrides


def _parse(argv: list[str], overrides: dict[str, str]) -> argparse.Namespace:
    parser, commands = _parser()
    known = _options(commands[argv[0]]) if argv and argv[0] in commands else []
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
        raise UserError(f"{argv[0]} takes no config, so --config.{next(iter(overrides))} cannot be set")
    return arguments


def _options(parser: _Parser) -> list[str]:
    """Returns the options that a command's help lists."""
    return list(dict.fromkeys(re.findall(r"(?<=[ ]{2}|, )--?\w[\w-]*", parser.format_help())))


def _kept(workdir: str | None) -> str:
    """Describes what a workdir holds after a run was stopped."""
    files = sorted(pathlib.Path(workdir).iterdir()) if workdir and os.path.isdir(workdir) else []
    names = [f"{file.name}/" if file.is_dir() else file.name for file in files if not file.name.startswith(".")]
    if not names:
        return "Nothing was written."
    resume = ". The same command resumes the run" if "checkpoints/" in names else ""
    return f"Finished work is kept in {workdir}: {', '.join(names)}{resume}"
