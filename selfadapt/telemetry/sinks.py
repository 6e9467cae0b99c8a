"""TensorBoard and Weights & Biases as further destinations of a run's events, beside `metrics.jsonl`.

A sink receives the numbers of each event as pairs of path and value, such as ("phase/sample/seconds", 4.2), with
the round as the step. A sink that fails is dropped with a warning, and the run continues.
"""

from __future__ import annotations

import datetime
import importlib.util
import pathlib
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from selfadapt import files
from selfadapt.errors import UserError
from selfadapt.parallel import distributed

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # extra -> module
_POLICY = re.compile(r"untrained|round\d+")
_FINISH_SECONDS = 60.0  # longest wait for an upload at the end of a run


class Sink(Protocol):
    """A destination of numbers."""

    def write(self, numbers: Mapping[str, float], round: int, time: float) -> None:
        """Writes the numbers of one event, with its round and its time (seconds since 1970)."""

    def close(self, failed: bool) -> None:
        """Ends the run in the sink; `failed` if an error ended it."""


class TensorBoard:
    """Event files in the workdir's `tensorboard` directory; the step is the round."""

    def __init__(self, workdir: pathlib.Path):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, numbers: Mapping[str, float], round: int, time: float) -> None:  # noqa: D102
        for path, value in numbers.items():
            self._writer.add_scalar(path, value, global_step=round, walltime=time)
        self._writer.flush()

    def close(self, failed: bool) -> None:  # noqa: D102
        del failed
        self._writer.close()


class WeightsAndBiases:
    """A run in a Weights & Biases project; a resumed workdir continues its run.

    If the server cannot be reached, the run is stored offline in the workdir's `wandb` directory, for `wandb sync`.

    Raises:
      UserError: there is no login.
    """

    def __init__(self, workdir: pathlib.Path, project: str, config: Any):
        import wandb

        name = workdir / "wandb" / "run_id.txt"
        if not name.exists():
            files.make_directory(name.parent)
            files.write_text(name, uuid.uuid4().hex[:12])
        options = dict(
            project=project,
            dir=str(workdir),
            id=name.read_text(encoding="utf-8").strip(),
            resume="allow",
            name=f"{config.name} {workdir.resolve().name}",
            config=config.to_dict(),
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_FINISH_SECONDS),
        )
        try:
            self._run = wandb.init(**options)
        except wandb.errors.UsageError as error:
            raise UserError(
                f"config.telemetry.wandb: {error} Or set WANDB_MODE=offline and upload the run later with `wandb sync`"
            ) from error
        except wandb.errors.CommError as error:
            warnings.warn(f"Weights & Biases cannot be reached ({error}); the run is stored offline", stacklevel=2)
            self._run = wandb.init(**options, mode="offline")
        self._run.define_metric("*", step_metric="round")

    def write(self, numbers: Mapping[str, float], round: int, time: float) -> None:  # noqa: D102
        del time
        self._run.log({**numbers, "round": round})

    def close(self, failed: bool) -> None:  # noqa: D102
        self._run.finish(exit_code=int(failed))


def check(options: Any) -> None:
    """Checks `config.telemetry.tensorboard` and `.wandb`.

    Raises:
      UserError: a sink is enabled and its package is not installed.
    """
    for extra, module in _MODULES.items():
        if options[extra] and importlib.util.find_spec(module) is None:
            raise UserError(
                f"config.telemetry.{extra} needs the package {module}, which is not installed. "
                f"Install it with: pip install 'selfadapt[{extra}]'"
            )


class Sinks:
    """All sinks of a run. One that fails is dropped with a warning."""

    def __init__(self, options: Any = None, workdir: pathlib.Path | None = None, config: Any = None):
        """Opens the sinks that `config.telemetry` (`options`) enables; none for `None` and on processes other than 0.

        Raises:
          UserError: Weights & Biases is enabled and there is no login.
        """
        self._sinks: dict[str, Sink] = {}
        if options is None or workdir is None or not distributed.is_main():
            return
        if options.tensorboard:
            self._open("TensorBoard", lambda: TensorBoard(workdir))
        if options.wandb:
            self._open("Weights & Biases", lambda: WeightsAndBiases(workdir, options.wandb, config))

    def write(self, event: Mapping[str, Any]) -> None:
        """Writes the numbers of an event to all sinks."""
        if not self._sinks:
            return
        found = dict(numbers(event))
        time = datetime.datetime.fromisoformat(event["time"]).timestamp()
        for name in list(self._sinks):
            self._guard(name, lambda sink: sink.write(found, event["round"] or 0, time))

    def close(self, failed: bool = False) -> None:
        """Closes all sinks; closing twice is harmless."""
        for name in list(self._sinks):
            self._guard(name, lambda sink: sink.close(failed))
        self._sinks.clear()

    def _open(self, name: str, make: Callable[[], Sink]) -> None:
        try:
            self._sinks[name] = make()
        except UserError:
            raise
        except Exception as error:
            self._drop(name, error)

    def _guard(self, name: str, use: Callable[[Sink], None]) -> None:
        try:
            use(self._sinks[name])
        except Exception as error:
            self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._sinks.pop(name, None)
        warnings.warn(f"{name} failed and receives no more of this run: {error}", stacklevel=4)


def numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the path and the value of each number in an event.

    The rows of all rounds' policies are named "policy", so that they form one curve.

    Example:
      >>> list(numbers({"event": "evaluated", "round": 1, "phase": "eval", "name": "round1", "mean": 0.5}))
      [('evaluated/policy/mean', 0.5)]
      >>> list(numbers({"event": "round", "round": 1, "phase": None, "policy_loss": [2.5, 0.5]}))
      [('round/policy_loss/0', 2.5), ('round/policy_loss/1', 0.5)]
    """
    head = [event["event"]]
    if event["event"] == "evaluated":
        head.append("policy" if _POLICY.fullmatch(event["name"]) else event["name"])
    elif event.get("phase"):
        head.append(event["phase"])
    rest = {key: value for key, value in event.items() if key not in ("time", "event", "round", "phase", "name")}
    yield from _leaves("/".join(head), rest)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(f"{path}/{key}", each)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, each in enumerate(value):
            yield from _leaves(f"{path}/{index}", each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
