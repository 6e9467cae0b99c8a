"""launch/sky.yaml: its fields, and how its nodes start.

SkyPilot's own schema comes with some sixty packages, whose versions exclude those of this project, so FIELDS below
was written for these tests from the documented fields of a task; it knows only those that the file may use.
"""

import shutil

import jsonschema
import pytest
import yaml

from tests.launch.harness import LAUNCH, ROOT, executable, recorder, records, run

TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 1}, {"type": "boolean"}
VARIABLES = {"type": "object", "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}, "additionalProperties": TEXT}


def exactly(**properties):
    """The schema of an object with no other fields than these."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


FIELDS = exactly(
    name=TEXT,
    num_nodes=COUNT,
    workdir=TEXT,
    resources=exactly(
        infra=TEXT, accelerators=TEXT, cpus=TEXT, memory=TEXT, disk_size=COUNT, use_spot=FLAG, image_id=TEXT
    ),
    file_mounts={
        "type": "object",
        "propertyNames": {"pattern": "^[/~]"},
        "additionalProperties": exactly(
            name=TEXT,
            source=TEXT,
            store={"enum": ["s3", "gcs", "azure", "r2", "ibm", "oci"]},
            mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
        ),
    },
    envs=VARIABLES,
    secrets=VARIABLES,
    setup=TEXT,
    run=TEXT,
)
TASK = yaml.safe_load((LAUNCH / "sky.yaml").read_text())


@pytest.fixture
def repository(tmp_path):
    """The repository as SkyPilot copies it to a node, without what setup makes."""
    for part in ("launch", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "records").mkdir()
    return tmp_path


def start(repository, rank, nodes, **environment):
    """Runs the task as node `rank` of so many."""
    sky = {
        "SKYPILOT_NUM_NODES": nodes,
        "SKYPILOT_NODE_RANK": rank,
        "SKYPILOT_NODE_IPS": "\n".join(f"10.0.0.{n}" for n in range(1, nodes + 1)),
    }
    variables = TASK["envs"] | environment | sky
    return run("bash", "-c", TASK["run"], cwd=repository, RECORD=repository / "records", **variables)


def test_the_task_has_only_documented_fields():
    jsonschema.Draft202012Validator(FIELDS).validate(TASK)
    with pytest.raises(jsonschema.ValidationError, match="accelerator'"):
        jsonschema.Draft202012Validator(FIELDS).validate(TASK | {"resources": {"accelerator": "H100"}})


def test_the_nodes_find_the_first_of_them_and_get_the_overrides_as_they_are(repository):
    recorder(repository / ".venv" / "bin" / "selfadapt")
    overrides = ["--config.seed=3", '--config.data.path=/shared/it\'s, "here".json']
    for rank in range(2):
        done = start(repository, rank, 2, OVERRIDES="\n".join(overrides))
        assert done.returncode == 0, done.stderr
    nodes = records(repository / "records")
    assert {node["coordinator_address"] for node in nodes} == {"10.0.0.1:8476"}
    assert [(node["process_id"], node["num_processes"]) for node in nodes] == [(0, 2), (1, 2)]
    arguments = ["train", f"--config={TASK['envs']['CONFIG']}", f"--workdir={TASK['envs']['WORKDIR']}"]
    assert all(node["argv"] == arguments + overrides for node in nodes)


def test_one_node_is_a_run_of_one_process(repository):
    executable(repository / ".venv" / "bin" / "selfadapt", "#!/bin/sh\necho ${SELFADAPT_COORDINATOR-alone} $#\n")
    assert start(repository, 0, 1).stdout == "alone 3\n"


def test_the_workdir_is_in_the_bucket():
    (mount,) = TASK["file_mounts"]
    assert TASK["envs"]["WORKDIR"].startswith(f"{mount}/")
    assert TASK["file_mounts"][mount]["mode"] == "MOUNT"
