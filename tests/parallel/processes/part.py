"""What one process of a test does: joins the run, and then what its argument names, like a command of selfadapt."""

import argparse
import os
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfadapt import cli
from selfadapt.errors import UserError
from selfadapt.graders import EndpointJudge, GradeItem
from selfadapt.parallel import distributed


def total():
    """Sums an array that lies across all processes."""
    where = NamedSharding(Mesh(jax.devices(), ("all",)), PartitionSpec("all"))
    ones = jax.make_array_from_callback((jax.device_count(),), where, lambda _: jnp.ones(1))
    return jax.jit(jnp.sum, out_shardings=NamedSharding(where.mesh, PartitionSpec()))(ones)


def agree():
    """Meets the others in every way there is."""
    assert jax.local_device_count() == 2
    assert float(total()) == jax.device_count() == 2 * distributed.process_count()
    mine = {"from": distributed.process_index(), "text": "é" * 3_000_000}
    assert distributed.broadcast(mine) == mine | {"from": 0}
    for number in range(50):
        assert distributed.broadcast(number * (1 + distributed.process_index())) == number
        distributed.barrier(f"number {number}")
    assert distributed.is_main() == (distributed.process_index() == 0)
    print("agreed")


def judged():
    """Has answers judged by an endpoint that only process 0 can reach."""
    judge = EndpointJudge("judge", api_key_env="KEY_OF_PROCESS_0" if distributed.is_main() else "NO_KEY")
    if distributed.is_main():
        judge._send = lambda body: "yes" if "42" in body else "no"
    items = [GradeItem("What is it?", ("It is 42.",), answer) for answer in ("42", "")]
    print("verdicts", judge.grade(items))


def late():
    """Process 1 comes late, to the devices and to a collective; it is not dead."""
    if distributed.process_index() == 1:
        time.sleep(9)
    total()
    if distributed.process_index() == 1:
        time.sleep(9)
    total()


def collective():
    """Waits in collectives until something happens."""
    total()
    print("waiting", flush=True)
    while True:
        total().block_until_ready()
        time.sleep(0.01)


def stuck():
    """Process 0 waits in a collective to which the others do not come."""
    total()
    print("waiting", flush=True)
    if distributed.process_index() == 0:
        total().block_until_ready()
    time.sleep(3600)


def user_error():
    """Process 1 finds a mistake of the user; the others wait for it in a collective."""
    total()
    if distributed.process_index() == 1:
        raise UserError("the file that only this host has is broken")
    total().block_until_ready()
    time.sleep(3600)


def fault():
    """Process 1 has a fault; the others wait for it at a meeting."""
    total()
    if distributed.process_index() == 1:
        raise KeyError("a fault of the program")
    distributed.barrier("never")


def astray():
    """Process 1 comes to another meeting than the others."""
    distributed.barrier(f"here {distributed.process_index() == 1}")


def terminated():
    """Goes on until SIGTERM has come to some process, and says at which step all stopped."""
    distributed.catch_sigterm()
    for step in range(10_000):
        if step == 1:
            print("waiting", flush=True)
        if distributed.preempted(step):
            print(f"stopped at {step}.")
            return
        total()
        time.sleep(0.01 * distributed.process_index())


def absent():
    """Waits at the start for processes that do not come."""
    distributed.START_SECONDS = 3.0
    os.environ["SELFADAPT_NUM_PROCESSES"] = "3"  # two are started
    distributed.initialize()


if __name__ == "__main__":

    def parse(argv, overrides):
        del overrides
        what = globals()[argv[0]]
        return argparse.Namespace(run=lambda _: (what is absent or distributed.initialize(), what()))

    cli._parse = parse
    sys.exit(cli.main(sys.argv[1:]))
