"""The JobSet manifests: their fields, and how their pods start.

What is checked against what: the Job inside is checked by kubernetes-validate with Kubernetes' published schema,
unknown fields refused. No package carries the schema of JobSet itself, so SCHEMA below was written for these tests
from the published fields of jobset.x-k8s.io/v1alpha2; it knows only those that the manifests may use.
"""

import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch.harness import LAUNCH, recorder, records, run

MANIFESTS = ["jobset-gpu.yaml", "jobset-tpu.yaml"]


def exactly(required=(), **properties):
    """The schema of an object with no other fields than these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, TEXTS, COUNT = {"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "integer"}
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
SCHEMA = exactly(
    required=("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=exactly(
        required=("name",),
        name={"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40},
        namespace=TEXT,
        labels={"type": "object", "additionalProperties": TEXT},
        annotations={"type": "object", "additionalProperties": TEXT},
    ),
    spec=exactly(
        required=("replicatedJobs",),
        network=exactly(
            enableDNSHostnames={"type": "boolean"}, subdomain=TEXT, publishNotReadyAddresses={"type": "boolean"}
        ),
        failurePolicy=exactly(
            maxRestarts=COUNT,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "type": "array",
                "items": exactly(
                    required=("name", "action"),
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={"enum": ACTIONS},
                    onJobFailureReasons={"type": "array", "items": {"enum": REASONS}, "uniqueItems": True},
                    targetReplicatedJobs=TEXTS,
                ),
            },
        ),
        successPolicy=exactly(required=("operator",), operator={"enum": ["All", "Any"]}, targetReplicatedJobs=TEXTS),
        suspend={"type": "boolean"},
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
        replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": exactly(required=("name", "template"), name=TEXT, replicas=COUNT, template={"type": "object"}),
        },
    ),
)


def load(name):
    manifest = yaml.safe_load((LAUNCH / name).read_text())
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return manifest, replicated["template"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifest_has_only_published_fields(name):
    manifest, template = load(name)
    jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}} | template
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_slip_in_a_field_is_found(name):
    manifest, template = load(name)
    manifest["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
    template["spec"]["template"]["spec"]["container"] = []
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}} | template
    with pytest.raises(kubernetes_validate.ValidationError, match="container"):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_user_error_ends_the_jobset_and_all_else_restarts_it(name):
    manifest, template = load(name)
    job = template["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    ends = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert rule == {"action": "FailJob", "onExitCodes": ends}
    (policy,) = manifest["spec"]["failurePolicy"]["rules"]
    assert (policy["action"], policy["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    # Any other end of a pod ends its Job, and a Job that ended otherwise matches no rule: the JobSet is restarted.
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def start_pods(name, tmp_path, **extra):
    """Starts two processes with the manifest's arguments and its variables as the cluster resolves them."""
    manifest, template = load(name)
    (container,) = template["spec"]["template"]["spec"]["containers"]
    selfadapt = recorder(tmp_path / "selfadapt")
    (tmp_path / "records").mkdir()
    for index in range(2):
        fields = {"metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index)}
        variables = {}
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "value" in variable:
                variables[variable["name"]] = variable["value"]
            elif "fieldRef" in source:
                variables[variable["name"]] = fields[source["fieldRef"]["fieldPath"]]
            else:
                assert source["secretKeyRef"]["optional"]
        variables |= {key: value.format(index=index) for key, value in extra.items()}
        done = run(selfadapt, *container["args"], RECORD=tmp_path / "records", **variables)
        assert done.returncode == 0, done.stderr
    return manifest, template["spec"], records(tmp_path / "records")


def test_gpu_pods_find_the_first_of_them(tmp_path):
    manifest, job, pods = start_pods("jobset-gpu.yaml", tmp_path)
    name, (replicated,) = manifest["metadata"]["name"], manifest["spec"]["replicatedJobs"]
    # JobSet's name for the pod 0 of the Job 0, in the subdomain that it gives the set.
    first = f"{name}-{replicated['name']}-0-0.{name}"
    (container,) = job["template"]["spec"]["containers"]
    assert {pod["coordinator_address"] for pod in pods} == {f"{first}:{container['ports'][0]['containerPort']}"}
    assert {pod["num_processes"] for pod in pods} == {job["completions"]} == {job["parallelism"]}
    assert [pod["process_id"] for pod in pods] == [0, 1]
    assert [pod["local_device_ids"] for pod in pods] == [None, None]
    assert all(pod["argv"] == container["args"] for pod in pods)


def test_jax_detects_tpu_pods_from_the_variables_of_gke(tmp_path):
    gke = {"TPU_WORKER_ID": "{index}", "TPU_WORKER_HOSTNAMES": "localhost,host1,host2,host3", "RECORD_TPU": "1"}
    # Set but empty, they are not requested from Google's metadata server.
    gke |= dict.fromkeys(("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"), "")
    _, job, pods = start_pods("jobset-tpu.yaml", tmp_path, **gke)
    assert {pod["coordinator_address"] for pod in pods} == {"localhost:8482"}
    assert {pod["num_processes"] for pod in pods} == {job["completions"]} == {job["parallelism"]} == {4}
    assert [pod["process_id"] for pod in pods] == [0, 1]
    (container,) = job["template"]["spec"]["containers"]
    assert 8482 in [port["containerPort"] for port in container["ports"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_everything_to_edit_is_marked_and_the_workdir_is_on_the_shared_volume(name):
    _, template = load(name)
    pod = template["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    (workdir,) = [argument.removeprefix("--workdir=") for argument in container["args"] if "--workdir=" in argument]
    assert any(workdir.startswith(f"{mount}/") for mount in mounts)
    text = (LAUNCH / name).read_text()
    for field in ("image", "args", "claimName", "completions", "parallelism"):
        assert re.search(rf"^ +(- )?{field}:.*# EDIT", text, re.MULTILINE), field
