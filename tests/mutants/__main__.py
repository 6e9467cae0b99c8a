"""Mutation testing: applies one fault at a time to a copy of the tree, and shows which test fails.

    python -m tests.mutants              every fault of tests/mutants/faults.py, after a run without any
    python -m tests.mutants --only NAME  one of them (may be given several times)
    python -m tests.mutants --list       their names, files and tests
    python -m tests.mutants -j 2         two at a time, each in a separate copy

The exit status is 1 if no test fails for some fault, or if its line is no longer in its file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.mutants.faults import FAULTS, Fault

ROOT = pathlib.Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
SECONDS = 900  # after which a selection of tests is stopped, and its fault counts as undetected


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one fault.

    Attributes:
      fault: the fault.
      failed: the test that failed, "" if none did.
      problem: why the fault counts as undetected, "" if it was detected.
      seconds: how long its tests ran.
    """

    fault: Fault
    failed: str
    problem: str
    seconds: float


def environment() -> dict[str, str]:
    """Returns the environment of the tests: data and compiled programs are those of the real tree."""
    data = ROOT.parent / "shared" / "data"
    compiled = ROOT / ".pytest_cache" / "jax"
    defaults = {"SELFADAPT_TEST_DATA": str(data), "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    return defaults | os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(tree: pathlib.Path, tests: Sequence[str], devices: int = 1) -> tuple[int, str]:
    """Runs tests in a tree until one fails; returns pytest's exit status and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "-p", "no:cacheprovider", *tests]
    variables = environment() | ({"JAX_NUM_CPU_DEVICES": str(devices)} if devices > 1 else {})
    try:
        done = subprocess.run(
            command, cwd=tree, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return -1, f"the tests took more than {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def attempt(tree: pathlib.Path, fault: Fault) -> Result:
    """Applies a fault to a tree, runs its tests, and undoes it."""
    file, started = tree / fault.file, time.monotonic()
    sound = file.read_text(encoding="utf-8")
    try:
        file.write_text(fault.apply(sound), encoding="utf-8")
    except ValueError as error:
        return Result(fault, "", str(error), 0.0)
    try:
        status, output = run_tests(tree, fault.tests, fault.devices)
    finally:
        file.write_text(sound, encoding="utf-8")
    failed = re.search(r"^FAILED (\S+)|^ERROR (\S+::\S+)", output, re.MULTILINE)
    problem = ""
    if status == 0:
        problem = "no test fails"
    elif status != 1 or not failed:  # tests that are not found or cannot be imported detect nothing
        problem = f"pytest ended with status {status}: {' '.join(output.split())[-300:]}"
    return Result(fault, (failed[1] or failed[2]) if failed else "", problem, time.monotonic() - started)


def without_fault(tree: pathlib.Path, faults: Sequence[Fault]) -> str:
    """Runs all chosen tests in a sound tree; returns pytest's output where one fails, else ""."""
    for devices in sorted({fault.devices for fault in faults}):
        tests = dict.fromkeys(test for fault in faults if fault.devices == devices for test in fault.tests)
        status, output = run_tests(tree, list(tests), devices)
        if status != 0:
            return output
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="this fault alone; repeatable")
    parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the run without a fault")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="faults to try at a time")
    arguments = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    if arguments.list:
        for fault in chosen:
            print(f"{fault.name}\n  {fault.file}\n  - {fault.old}\n  + {fault.new}\n  {' '.join(fault.tests)}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trees: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for number in range(arguments.jobs):
            trees.put(shutil.copytree(ROOT, pathlib.Path(directory) / str(number) / "tree", ignore=LEFT_OUT))

        def attempted(fault: Fault) -> Result:
            tree = trees.get()
            try:
                return attempt(tree, fault)
            finally:
                trees.put(tree)

        if not arguments.no_baseline:
            tree = trees.get()
            if output := without_fault(tree, chosen):
                print(f"{output}\ntests fail without any fault; nothing can be said about the faults")
                return 1
            trees.put(tree)
        undetected = []
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for result in pool.map(attempted, chosen):
                verdict = f"UNDETECTED: {result.problem}" if result.problem else f"detected by {result.failed}"
                print(f"{result.fault.name}: {verdict} ({result.seconds:.0f} s)", flush=True)
                undetected += [result.fault.name] if result.problem else []
    print(f"{len(chosen) - len(undetected)} of {len(chosen)} faults are detected")
    return 1 if undetected else 0


if __name__ == "__main__":
    sys.exit(main())
