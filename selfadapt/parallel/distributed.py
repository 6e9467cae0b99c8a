"""Several processes as one run: starting them, sharing values between them, and ending them together.

Every process runs the same Python code on the same values; JAX arrays are sharded over the devices of all of them.
This module covers what the hosts do: which process writes files, how the others get what only process 0 knows, and
how all stop at the same step after SIGTERM. A dead or hung process is detected by JAX's runtime, which then aborts the
others (docs/launch.md). With a single process every function returns at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from selfadapt.errors import UserError

COORDINATOR, COUNT, INDEX = "SELFADAPT_COORDINATOR", "SELFADAPT_NUM_PROCESSES", "SELFADAPT_PROCESS_ID"
DISTRIBUTED, HEARTBEAT = "SELFADAPT_DISTRIBUTED", "SELFADAPT_HEARTBEAT_SECONDS"
HEARTBEAT_SECONDS = 30
START_SECONDS = 300  # how long processes wait for each other at the start
PREEMPTED = 75  # exit status: SIGTERM came and the run is saved (EX_TEMPFAIL of sysexits.h)

_sigterm = False  # of a single process; several use JAX's preemption service


def initialize(requested: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """Makes this process one of several, if that is requested. Call it before anything else uses JAX.

    There are two ways to request it: `SELFADAPT_COORDINATOR=host:port` (the host of process 0 and any free port there)
    with `SELFADAPT_NUM_PROCESSES` and `SELFADAPT_PROCESS_ID`; or `SELFADAPT_DISTRIBUTED=1`, where JAX detects the
    cluster (TPU pods, GKE, SLURM). Otherwise this does nothing. Neither does a second call.

    JAX aborts processes that wait in vain for the others for five minutes. Later it aborts all processes when one
    has sent no heartbeat for `SELFADAPT_HEARTBEAT_SECONDS` (30).

    Args:
      requested: the same as `SELFADAPT_DISTRIBUTED=1`.
      environment: where to read the variables; `os.environ` by default.

    Raises:
      UserError: a variable is missing or malformed, JAX detects no cluster, or the coordinator cannot start.
    """
    environment = os.environ if environment is None else environment
    cluster = _explicit_cluster(environment)
    if not cluster and not requested and environment.get(DISTRIBUTED, "") in ("", "0"):
        return
    heartbeat = _heartbeat_seconds(environment)
    import jax

    if jax.distributed.is_initialized():
        return
    where = f"at {cluster['coordinator_address']}" if cluster else "in the cluster that JAX detects"
    print(f"selfadapt: waiting up to {START_SECONDS} s for all processes of this run {where}", file=sys.stderr)
    try:
        jax.distributed.initialize(
            **cluster,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(_initialization_error(error, cluster)) from error
    jax.process_index()  # all processes exchange their devices here, where the message above still applies


def process_index() -> int:
    """Returns the index of this process; 0 for a single process."""
    return sys.modules["jax"].process_index() if _initialized() else 0


def process_count() -> int:
    """Returns the number of processes in the run."""
    return sys.modules["jax"].process_count() if _initialized() else 1


def is_main() -> bool:
    """Whether this is process 0, which writes the files and reports to the user."""
    return process_index() == 0


def label() -> str:
    """Returns the prefix of this process's messages: `selfadapt`, or `selfadapt[1]` with several processes."""
    return "selfadapt" if process_count() == 1 else f"selfadapt[{process_index()}]"


def barrier(name: str) -> None:
    """Waits until all processes have called this.

    All processes must call `barrier`, `broadcast`, `on_main` and `preempted` in the same order.

    Args:
      name: identifies the barrier; the same on all processes.

    Raises:
      AssertionError: the processes are at barriers with different names.
    """
    if process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def broadcast(value: Any) -> Any:
    """Returns process 0's value on every process; waits for all of them like `barrier`.

    Args:
      value: a JSON value; only process 0's is used.
    """
    if process_count() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode() if is_main() else b"", np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    # Rounded up to a power of two, so that texts of all lengths share a few compiled programs.
    padded = np.zeros(1 << max(10, (length - 1).bit_length()), np.uint8)
    padded[: text.size] = text
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:length].tobytes())


def on_main(function: Callable[[], Any]) -> Any:
    """Calls a function on process 0 and returns its result on every process; waits for all of them like `barrier`.

    Args:
      function: returns a JSON value.

    Raises:
      UserError: the function raised one, or an `OSError`, on process 0. All processes raise it, so that all end with
        the status that launchers do not restart.
    """
    if process_count() == 1:
        return function()
    result = failure = None
    if is_main():
        try:
            result = function()
        except (UserError, OSError) as error:
            failure = error
    result, message = broadcast([result, failure and str(failure)])
    if failure:
        raise failure
    if message is not None:
        raise UserError(f"process 0: {message}")
    return result


def catch_sigterm() -> None:
    """Makes a SIGTERM from now on set `preempted` instead of ending this process; call it on the main thread.

    With several processes nothing needs to be done: JAX's preemption service catches SIGTERM from `initialize` on.
    """
    global _sigterm
    _sigterm = False

    def note(*_):
        global _sigterm
        _sigterm = True

    if process_count() == 1:
        signal.signal(signal.SIGTERM, note)


def preempted(step: int) -> bool:
    """Whether SIGTERM has come to any process and all have reached the step at which they stop together.

    Clusters send SIGTERM to some processes earlier than to others. JAX's preemption service chooses a step that no
    process has reached yet, so all save the same state. A call takes microseconds and waits for nobody.

    Args:
      step: counts the calls; all processes must pass the same numbers, each one more than the last.
    """
    if process_count() == 1:
        return _sigterm
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def finish(status: int) -> None:
    """Ends this process's part in the run; does nothing with a single process.

    Args:
      status: the exit status of this process. After 0 and 75, which all processes reach, it waits for the others and
        returns. Any other status ends the process at once, and JAX aborts the others when they miss its heartbeats:
        an ordinary exit would wait for them at JAX's shutdown barrier, be aborted too and lose its status.
    """
    if process_count() == 1:
        return
    if status not in (0, PREEMPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    import jax

    barrier("finish")  # without a time limit: process 0 may still be writing
    _wait_for_devices()
    jax.distributed.shutdown()


def _wait_for_devices() -> None:
    """Waits until every device of every process has ended its collectives.

    `multihost_utils` waits for the result of one device of a process. Another one may still be in the collective when a
    process ends, and on CPUs a device waits for the connection to its peer without end, as does Python at its exit.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(jax.devices(), ("all",))
    whole, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("all",)))
    ones = jax.make_array_from_callback((mesh.size,), divided, lambda _: np.ones(1, np.float32))
    jax.block_until_ready(jax.jit(jax.numpy.sum, out_shardings=whole)(ones))


def _initialized() -> bool:
    # Asked of modules that are loaded: `selfadapt --help` must not import JAX.
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _explicit_cluster(environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments of `jax.distributed.initialize` that the environment spells out, if it does."""
    names = (COORDINATOR, COUNT, INDEX)
    given = [name for name in names if environment.get(name)]
    if not given:
        return {}
    for name in names:
        if name not in given:
            raise UserError(f"{' and '.join(given)} set, but not {name}; a run of several processes needs all three")
    host, _, port = environment[COORDINATOR].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{COORDINATOR} is {environment[COORDINATOR]!r}; it must be HOST:PORT, as in 10.0.0.1:8476")
    for name in (COUNT, INDEX):
        if not environment[name].isdigit():
            raise UserError(f"{name} is {environment[name]!r}; it must be a whole number")
    count, index = int(environment[COUNT]), int(environment[INDEX])
    if index >= count:
        raise UserError(f"{INDEX} is {index}, but the processes of {COUNT}={count} are numbered from 0 to {count - 1}")
    return dict(
        coordinator_address=environment[COORDINATOR],
        num_processes=count,
        process_id=index,
        cluster_detection_method="deactivate",
    )


def _heartbeat_seconds(environment: Mapping[str, str]) -> int:
    text = environment.get(HEARTBEAT) or str(HEARTBEAT_SECONDS)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{HEARTBEAT} is {text!r}; it must be a whole number of seconds, at least 1")
    return int(text)


def _initialization_error(error: Exception, cluster: Mapping[str, Any]) -> str:
    if "must be called before" in str(error):
        return "selfadapt.parallel.distributed.initialize must be called before JAX is used in this process"
    if isinstance(error, ValueError) and not cluster:
        return (
            f"JAX detects no cluster here ({error}); set {COORDINATOR}, {COUNT} and {INDEX}, "
            f"or leave out --distributed and {DISTRIBUTED} for a run of one process"
        )
    place = f" at {cluster['coordinator_address']}" if cluster else ""
    return f"this process cannot join the run{place}: {error}"
