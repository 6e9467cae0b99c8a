"""Stands in for `sbatch`, `srun` and `scontrol`, depending on the name it is called by; tasks run on this machine.

As on a cluster, sbatch runs a copy of the script, reads its #SBATCH lines, overrides them with its options, and
describes the job in SLURM_ variables; srun adds those of each task and ends with the largest exit status. scontrol
appends its arguments to the file $SCONTROL_CALLS.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile


def options(words):
    """Splits --name=value options from the words after them."""
    given = {}
    while words and words[0].startswith("--"):
        name, _, value = words.pop(0)[2:].partition("=")
        given[name] = value
    return given, words


def sbatch(words):
    """Runs a job."""
    given, (script, *arguments) = options(words)
    text = pathlib.Path(script).read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE)) | given
    nodes, per_node = int(asked["nodes"]), int(asked["ntasks-per-node"])
    job = {
        "SLURM_JOB_ID": "4242",
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
        "SLURM_SUBMIT_DIR": os.getcwd(),
    }
    with tempfile.TemporaryDirectory() as spool:
        copy = pathlib.Path(spool) / "slurm_script"
        copy.write_text(text)
        return subprocess.run(["bash", copy, *arguments], env=os.environ | job, cwd="/").returncode


def srun(words):
    """Runs the tasks of a step."""
    given, command = options(words)
    assert set(given) <= {"gpu-bind", "kill-on-bad-exit"}, given
    nodes, per_node = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    tasks = []
    for task in range(nodes * per_node):
        step = {
            "SLURM_STEP_NODELIST": f"node[001-{nodes:03}]" if nodes > 1 else "node001",
            "SLURM_STEP_NUM_NODES": str(nodes),
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task % per_node),
        }
        tasks.append(subprocess.Popen(command, env=os.environ | step))
    return max(task.wait() for task in tasks)


def scontrol(words):
    """Records its arguments."""
    with open(os.environ["SCONTROL_CALLS"], "a") as file:
        print(*words, file=file)
    return 0


if __name__ == "__main__":
    play = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[pathlib.Path(sys.argv[0]).name]
    sys.exit(play(sys.argv[1:]))
