"""What the tests of telemetry share: a configured `Telemetry` and its events."""

import contextlib
import pathlib

from selfadapt.defaults import experiment
from selfadapt.files import read_jsonl
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.phases import Telemetry


def options(**changes):
    config = experiment()
    for name, value in changes.items():
        config.telemetry[name] = value
    return config


@contextlib.contextmanager
def started(workdir, **changes):
    with MetricsWriter(workdir) as writer, Telemetry(options(**changes), workdir, writer) as meters:
        yield meters


def events(workdir, name):
    return [event for event in read_jsonl(pathlib.Path(workdir) / "metrics.jsonl") if event["event"] == name]
