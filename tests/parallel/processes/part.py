"""One process of a test: `selfadapt train` with one of the functions below in place of the experiment."""

import os
import pathlib
import sys
import time
import types

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfadapt import cli
from selfadapt.errors import Preempted, UserError
from selfadapt.graders import EndpointJudge, GradeItem
from selfadapt.parallel import distributed

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "quickstart.py"


def total():
    """Sums an array that is sharded over the devices of all processes."""
    sharding = NamedSharding(Mesh(jax.devices(), ("all",)), PartitionSpec("all"))
    ones = jax.make_array_from_callback((jax.device_count(),), sharding, lambda _: jnp.ones(1))
    return jax.jit(jnp.sum, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))(ones)


def share():
    """Exchanges values in every way there is, and prints what arrived."""
    index = distributed.process_index()
    assert jax.local_device_count() == 2
    assert float(total()) == jax.device_count() == 2 * distributed.process_count()
    for value in ({"from": index, "text": "é" * 3_000_000}, index, None, "", ["x" * 1024, {}]):
        expected = {**value, "from": 0} if isinstance(value, dict) else 0 if isinstance(value, int) else value
        assert distributed.broadcast(value) == expected
    print("main:", distributed.is_main(), distributed.label())
    print("from process 0:", distributed.on_main(lambda: index))
    distributed.barrier("same")
    try:
        distributed.barrier(f"name {index}")
    except AssertionError as error:
        print("barrier:", str(error).partition(".")[0])


def judge():
    """Grades with an endpoint that only process 0 can reach."""
    endpoint = EndpointJudge("judge", api_key_env="KEY_OF_PROCESS_0" if distributed.is_main() else "NO_KEY")
    if distributed.is_main():
        endpoint._send = lambda body: "yes" if "42" in body else "no"
    print("verdicts:", endpoint.grade([GradeItem("What is it?", ("It is 42.",), answer) for answer in ("42", "")]))


def late():
    """Process 1 comes to a collective later than the heartbeat timeout."""
    if distributed.process_index() == 1:
        time.sleep(2 + int(os.environ["SELFADAPT_HEARTBEAT_SECONDS"]))
    total().block_until_ready()
    print("late but not dead")


def healthy():
    """What processes do that nothing happens to."""
    share()
    judge()
    late()


def collective():
    """Waits in collectives until something happens."""
    total()
    print("ready", flush=True)
    while True:
        total().block_until_ready()
        time.sleep(0.01)


def asleep():
    """Waits outside of JAX until something happens."""
    total()
    print("ready", flush=True)
    time.sleep(3600)


def user_error():
    """Process 1 finds an error that the user can fix; process 0 waits for it."""
    if distributed.process_index() == 1:
        raise UserError("the file on this host is broken")
    total().block_until_ready()
    time.sleep(3600)


def refused():
    """Process 0 finds an error that the user can fix, on behalf of all."""

    def check():
        raise UserError("the workdir belongs to another experiment")

    distributed.on_main(check)


def fault():
    """Process 1 has a fault; process 0 waits for it."""
    if distributed.process_index() == 1:
        raise KeyError("a fault of the program")
    distributed.barrier("never")


def terminated():
    """Runs until SIGTERM has come to some process; the processes are not equally fast."""
    for step in range(100_000):
        if step == 1:
            print("ready", flush=True)
        if distributed.preempted(step):
            print(f"stopped at {step}.")
            raise Preempted
        if step % 20 == 0:
            total().block_until_ready()
        time.sleep(0.002 * (1 + distributed.process_index()))


if __name__ == "__main__":
    work = globals()[sys.argv[1]]
    distributed.START_SECONDS = int(sys.argv[2])
    sys.modules["selfadapt.experiment"] = types.SimpleNamespace(train=lambda config, workdir: work())
    sys.exit(cli.main(["train", f"--config={CONFIG}", "--workdir=unused"]))
