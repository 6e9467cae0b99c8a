"""Stands in for the `selfadapt` command: the real one up to `jax.distributed.initialize`, whose arguments it writes.

Arguments that a launcher leaves to JAX are filled in by JAX's detection of the cluster, which has no public interface
and so is imported from `jax._src`; then the process ends. Variables: RECORD is a directory for the files, RECORD_STATUS
the exit status, and RECORD_TPU, if set, makes JAX take this machine for a TPU host.
"""

import json
import os
import pathlib
import sys

import jax
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster

from selfadapt import cli

NAMES = ("coordinator_address", "num_processes", "process_id", "local_device_ids")


def record(*positional, cluster_detection_method=None, **named):
    """Replaces `jax.distributed.initialize`."""
    arguments = dict.fromkeys(NAMES) | dict(zip(NAMES, positional, strict=False))
    arguments |= {name: value for name, value in named.items() if name in NAMES}
    if cluster_detection_method != "deactivate" and None in arguments.values():
        found = ClusterEnv.auto_detect_unset_distributed_params(*arguments.values(), cluster_detection_method, 10)
        arguments = dict(zip(NAMES, found, strict=True))
    file = pathlib.Path(os.environ["RECORD"]) / f"{os.getpid()}.json"
    file.write_text(json.dumps(arguments | {"argv": sys.argv[1:]}))
    os._exit(int(os.environ.get("RECORD_STATUS", "0")))


if __name__ == "__main__":
    if "RECORD_TPU" in os.environ:
        cloud_tpu_cluster.running_in_cloud_tpu_vm = True
    jax.distributed.initialize = record
    cli.main()
    print("selfadapt did not reach jax.distributed.initialize", file=sys.stderr)
    sys.exit(2)  # a status that no launcher restarts
