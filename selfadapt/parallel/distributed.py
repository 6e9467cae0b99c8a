"""Several processes as one run: how they find each other, agree, and end together.

Every process runs the same Python on the same values; JAX's arrays lie across all of them. What this module adds
is for the host: who writes files, what process 0 knows and the others have to be told, and the end of all when one
ends. A process that is alone needs none of it: it is the main one, and nothing waits.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from selfadapt.errors import UserError
from selfadapt.parallel.watchdog import Relay, Watchdog, at_most

COORDINATOR, COUNT, INDEX = "SELFADAPT_COORDINATOR", "SELFADAPT_NUM_PROCESSES", "SELFADAPT_PROCESS_ID"
ASKED, HEARTBEAT = "SELFADAPT_DISTRIBUTED", "SELFADAPT_HEARTBEAT_SECONDS"
HEARTBEAT_SECONDS = 30.0
START_SECONDS = 300.0  # how long processes wait for each other at the start
PREEMPTED = 75

_LOST = re.compile(r"gloo|nccl|connection|socket|peer|unavailable|coordination|heartbeat", re.IGNORECASE)
_ABSENT = "not all processes of this run have come within {:.0f} s; start all of them, with the same coordinator"
_PIECE = 2**20  # characters of one entry in the key-value store, whose messages must not exceed 4 MiB

_numbers = itertools.count(1)
_sigterm = False
_watchdog: Watchdog | None = None


def initialize(asked: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """Makes this process one of several, if that was asked for; must come before anything else uses JAX.

    There are two ways to ask: `SELFADAPT_COORDINATOR=host:port` (process 0's host, and any free port there) with
    `SELFADAPT_NUM_PROCESSES` and `SELFADAPT_PROCESS_ID`; or `SELFADAPT_DISTRIBUTED=1`, where JAX finds all this by
    itself (TPU pods, GKE, SLURM). Otherwise nothing happens. A second call does nothing.

    Processes that wait for others in vain end with status 76 after five minutes. Later the death of one process ends
    the others with 76 within `SELFADAPT_HEARTBEAT_SECONDS` (30).

    Args:
      asked: the same as `SELFADAPT_DISTRIBUTED=1`.
      environment: where the variables are; `os.environ` by default.

    Raises:
      UserError: a variable is missing or malformed, or the processes did not find each other.
    """
    environment = os.environ if environment is None else environment
    where = _explicit(environment)
    if not where and not asked and environment.get(ASKED, "") in ("", "0"):
        return
    seconds = _heartbeat(environment)
    import jax

    if jax.distributed.is_initialized():
        return
    with _relayed() as relays, at_most(START_SECONDS, _ABSENT.format(START_SECONDS)):
        try:
            jax.distributed.initialize(
                **where,
                initialization_timeout=round(START_SECONDS) + 60,  # after which it aborts
                heartbeat_timeout_seconds=round(10 * seconds) + 60,  # ours comes first
                shutdown_timeout_seconds=round(seconds) + 1,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(_not_found(error, where)) from error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX has taken it; see `catch_sigterm`
    if process_count() > 1:
        global _watchdog
        _watchdog = Watchdog(_client(), process_index(), process_count(), seconds)
        atexit.register(lambda: close(1 if hasattr(sys, "last_value") else 0))  # a script has not called `close`
        for relay in relays:
            relay.lost = _watchdog.lost


def process_index() -> int:
    """Returns which process this is; 0 when alone."""
    return _state().process_id if "jax" in sys.modules else 0


def process_count() -> int:
    """Returns how many processes the run has; 1 when alone."""
    return _state().num_processes if "jax" in sys.modules else 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user: process 0, or the only one."""
    return process_index() == 0


def label() -> str:
    """Returns what this process calls itself in messages: `selfadapt`, or `selfadapt[1]` as one of several."""
    return "selfadapt" if process_count() == 1 else f"selfadapt[{process_index()}]"


def barrier(name: str) -> None:
    """Waits until all processes have come here.

    All processes must come to the same meetings (`barrier`, `broadcast`, `preempted`) in the same order.

    Args:
      name: the meeting's name, for the error of a process that is somewhere else.
    """
    _meet(f"barrier {name}")


def broadcast(value: Any) -> Any:
    """Returns process 0's value on every process; a meeting, see `barrier`.

    Args:
      value: a JSON value; what processes other than 0 hand in is ignored.
    """
    if process_count() == 1:
        return value
    return json.loads(_meet("broadcast", json.dumps(value) if is_main() else "").value)


def catch_sigterm() -> None:
    """From now on SIGTERM does not end this process, but makes `preempted` true; for the main thread."""

    def note(*_):
        global _sigterm
        _sigterm = True

    signal.signal(signal.SIGTERM, note)


def preempted(step: int) -> bool:
    """Whether SIGTERM has come to any process by now; a meeting, see `barrier`.

    Clusters send SIGTERM to some processes earlier than to others. All processes get the same answer at the same
    step, so all of them save the same step and leave together, with status 75. A meeting costs about as much as a
    message to process 0 and back: once in a phase, or every few seconds, not once a token.

    Args:
      step: any number that is the same on all processes; it makes errors clearer.
    """
    if process_count() == 1:
        return _sigterm
    return _meet(f"preempted {step}", flag=_sigterm).flagged


def end_if_lost(error: BaseException) -> None:
    """Ends the process if an error comes from the loss of another process; else it returns."""
    if _watchdog is None:
        return
    import jax

    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
            _watchdog.lost_some(" ".join(str(error).split())[:200])
        error = error.__cause__ or error.__context__


def close(status: int, reason: str = "") -> None:
    """Ends this process's part in the run; does nothing when alone.

    Args:
      status: what the process is about to exit with. After 0 and 75, to which all processes come, it waits for the
        others and returns. After anything else it does not return: the process exits, and the others end too.
      reason: what the others say of this process then, a clause such as "was stopped by Ctrl-C".
    """
    global _watchdog
    if _watchdog is None:
        return
    if status not in (0, PREEMPTED):
        _watchdog.leave(status, reason or f"has ended with status {status}; its output says why")
    barrier("end")
    _watchdog.end()
    _watchdog = None


class _Meeting:
    """What a process takes home from a meeting: process 0's text, and whether anyone had raised a flag."""

    def __init__(self, value: str, flagged: bool):
        self.value, self.flagged = value, flagged


def _meet(name: str, value: str = "", flag: bool = False) -> _Meeting:
    """Waits for all processes; whoever comes last opens the door, and sweeps up after the meeting before."""
    client = _client()
    if client is None:
        return _Meeting(value, flag)
    number = next(_numbers)
    here = f"selfadapt/meeting/{number}"
    if is_main():
        pieces = [value[start : start + _PIECE] for start in range(0, len(value), _PIECE)]
        for index, piece in enumerate(pieces):
            client.key_value_set(f"{here}/piece/{index}", piece)
        client.key_value_set(f"{here}/about", json.dumps({"name": name, "pieces": len(pieces)}))
    if flag:
        client.key_value_set(f"{here}/flag", "raised", allow_overwrite=True)
    if client.key_value_increment(f"{here}/came", 1) == process_count():
        client.key_value_delete(f"selfadapt/meeting/{number - 1}")
        flagged = any(key.endswith("/flag") for key, _ in client.key_value_dir_get(here))
        client.key_value_set(f"{here}/door", "flagged" if flagged else "open")
    flagged = _wait(f"{here}/door") == "flagged"
    about = json.loads(_wait(f"{here}/about"))
    if about["name"] != name:
        raise RuntimeError(f"process 0 is at {about['name']!r} and this process at {name!r}: they have diverged")
    return _Meeting("".join(_wait(f"{here}/piece/{index}") for index in range(about["pieces"])), flagged)


def _wait(key: str) -> str:
    """Waits for a key, however long that takes: the watchdog knows when it is in vain."""
    import jax

    while True:
        try:
            return _client().blocking_key_value_get(key, 1_000)  # Ctrl-C is heard between two calls
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _explicit(environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments that the environment spells out, if it does."""
    names = (COORDINATOR, COUNT, INDEX)
    given = [each for each in names if environment.get(each)]
    if not given:
        return {}
    for each in names:
        if each not in given:
            raise UserError(f"{' and '.join(given)} set, but not {each}; a run of several processes needs all three")
    host, _, port = environment[COORDINATOR].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{COORDINATOR} is {environment[COORDINATOR]!r}; it must be HOST:PORT, as in 10.0.0.1:8476")
    for each in (COUNT, INDEX):
        if not environment[each].isdigit():
            raise UserError(f"{each} is {environment[each]!r}; it must be a whole number")
    count, index = int(environment[COUNT]), int(environment[INDEX])
    if index >= count:
        raise UserError(f"{INDEX} is {index}, but the processes of {COUNT}={count} are numbered from 0 to {count - 1}")
    return dict(
        coordinator_address=environment[COORDINATOR],
        num_processes=count,
        process_id=index,
        cluster_detection_method="deactivate",
    )


def _heartbeat(environment: Mapping[str, str]) -> float:
    text = environment.get(HEARTBEAT) or str(HEARTBEAT_SECONDS)
    with contextlib.suppress(ValueError):
        if 1 <= (seconds := float(text)) < float("inf"):
            return seconds
    raise UserError(f"{HEARTBEAT} is {text!r}; it must be a number of seconds, at least 1")


def _not_found(error: Exception, where: Mapping[str, Any]) -> str:
    if "must be called before" in str(error):
        return (
            "selfadapt.parallel.distributed.initialize comes too late: JAX has been used in this process; call it first"
        )
    if isinstance(error, ValueError) and not where:
        return (
            f"JAX knows no cluster here ({error}); set {COORDINATOR}, {COUNT} and {INDEX}, "
            f"or leave out --distributed and {ASKED} for a run of one process"
        )
    place = f" at {where['coordinator_address']}" if where else ""
    return f"the processes of this run did not find each other{place}: {error}"


@contextlib.contextmanager
def _relayed() -> Iterator[list[Relay]]:
    """Lets the connection to the coordinator that JAX makes inside go through a relay (see `watchdog`)."""
    from jax._src.lib import _jax  # there is no public way

    relays: list[Relay] = []
    real = _jax.get_distributed_runtime_client

    @functools.wraps(real)
    def connect(address, index, *args, **kwargs):
        if index:  # process 0 is the coordinator
            relays.append(Relay(address))
            address = relays[-1].address
        return real(address, index, *args, **kwargs)

    _jax.get_distributed_runtime_client = connect
    try:
        yield relays
    finally:
        _jax.get_distributed_runtime_client = real


def _state() -> Any:
    from jax._src import distributed  # the only way to the key-value store

    return distributed.global_state


def _client() -> Any:
    return _state().client if "jax" in sys.modules else None
