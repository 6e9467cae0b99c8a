"""launch/tpu_pod.sh: the commands of a dry run, and, with a stand-in for gcloud, their effects on a host."""

import contextlib
import os
import shutil
import signal
import time

import pytest

from tests.launch.harness import LAUNCH, executable, run

POD = LAUNCH / "tpu_pod.sh"
PLACE = ("--tpu=pod", "--zone=us-west4-a")
RUN = ("--config=configs/quickstart.py", "--workdir=/mnt/b/runs/a")
OVERRIDE = '--config.data.path=/mnt/b/it\'s, "here".json'


def dry_run(*arguments, **environment):
    done = run(POD, *arguments, "--dry-run", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_create_asks_for_the_slice():
    assert dry_run(
        *("create", *PLACE, "--project=p", "--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--spot")
    ) == [
        "gcloud compute tpus tpu-vm create pod --zone=us-west4-a --project=p "
        "--accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot"
    ]


def test_setup_copies_the_commit_to_all_hosts_and_installs_it():
    assert dry_run("setup", *PLACE, "--bucket=b") == [
        "git archive --format=tar.gz --output=/tmp/scratch/selfadapt.tar.gz HEAD",
        "gcloud compute tpus tpu-vm scp /tmp/scratch/selfadapt.tar.gz pod:selfadapt.tar.gz --zone=us-west4-a "
        "--worker=all",
        "gcloud compute tpus tpu-vm ssh pod --zone=us-west4-a --worker=all '--command=mkdir -p selfadapt && "
        "tar -xzf selfadapt.tar.gz -C selfadapt && selfadapt/launch/tpu_host.sh setup --bucket b'",
    ]


def test_train_starts_the_run_on_all_hosts():
    assert dry_run("train", *PLACE, *RUN, "--config.rounds=3") == [
        "gcloud compute tpus tpu-vm ssh pod --zone=us-west4-a --worker=all '--command=selfadapt/launch/tpu_host.sh "
        "start --config=configs/quickstart.py --workdir=/mnt/b/runs/a --config.rounds=3'"
    ]


def test_secrets_travel_in_a_file_and_their_values_are_not_printed():
    lines = dry_run("train", *PLACE, *RUN, "--secrets=HF_TOKEN,WANDB_API_KEY", HF_TOKEN="abc", WANDB_API_KEY="def")
    assert lines[:3] == [
        "# /tmp/scratch/secrets, mode 600: the values of HF_TOKEN, WANDB_API_KEY",
        "gcloud compute tpus tpu-vm scp /tmp/scratch/secrets pod:.selfadapt-secrets --zone=us-west4-a --worker=all",
        "gcloud compute tpus tpu-vm ssh pod --zone=us-west4-a --worker=all '--command=chmod 600 .selfadapt-secrets'",
    ]
    assert "abc" not in "".join(lines)


@pytest.mark.parametrize(
    "command, line",
    [
        ("status", "ssh pod --zone=us-west4-a --worker=all '--command=selfadapt/launch/tpu_host.sh status'"),
        ("stop", "ssh pod --zone=us-west4-a --worker=all '--command=selfadapt/launch/tpu_host.sh stop'"),
        ("logs", "ssh pod --zone=us-west4-a --worker=0 '--command=selfadapt/launch/tpu_host.sh logs'"),
        ("delete", "delete pod --zone=us-west4-a --quiet"),
    ],
)
def test_the_other_commands_are_one_line_each(command, line):
    assert dry_run(command, *PLACE) == [f"gcloud compute tpus tpu-vm {line}"]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((), "there is no command --dry-run"),
        (("start", *PLACE), "there is no command start"),
        (("status", "--zone=z"), "--tpu is missing"),
        (("status", "--tpu", "--zone=z"), "--tpu needs a value"),
        (("create", *PLACE), "--type is missing"),
        (("train", *PLACE, RUN[1]), "--config is missing"),
        (("train", *PLACE, "--config=no.py", RUN[1]), "there is no config file no.py"),
        (("train", *PLACE, RUN[0], "--workdir=runs/a"), "must be an absolute path"),
        (("train", *PLACE, *RUN, "--config.rounds", "3"), "--config.rounds needs a value: --config.rounds=VALUE"),
        (("train", *PLACE, *RUN, "--secrets=NOT_SET_HERE"), "NOT_SET_HERE, named by --secrets, is not set"),
        (("train", *PLACE, *RUN, "--rounds=3"), "there is no argument --rounds=3"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_done(arguments, complaint):
    done = run(POD, *arguments, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.fixture
def host(tmp_path):
    """A home directory after setup, and a gcloud that runs there the commands for all hosts."""
    home = tmp_path / "home"
    shutil.copytree(LAUNCH, home / "selfadapt" / "launch")
    copy_or_run = (
        "#!/bin/bash\n"
        'for word in "$@"; do\n'
        '  if [[ $word == --command=* ]]; then cd "$HOME" && exec bash -c "${word#--command=}"; fi\n'
        "done\n"
        'cp -p "$5" "$HOME/${6#*:}"\n'
    )
    executable(tmp_path / "bin" / "gcloud", copy_or_run)
    yield home
    pid = home / "selfadapt.pid"
    if pid.exists():  # left running by a failed test
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def on(host, *arguments, **environment):
    done = run(POD, *arguments, *PLACE, path=host.parent / "bin", HOME=host, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(file, text):
    deadline = time.monotonic() + 30
    while not (file.exists() and text in file.read_text()):
        assert time.monotonic() < deadline, file.read_text() if file.exists() else f"no {file}"
        time.sleep(0.05)


def test_a_host_runs_what_was_asked_until_it_is_stopped(host):
    saves = (
        "#!/bin/bash\n"
        "trap 'echo saved; exit 75' TERM\n"
        'printf \'%s\\n\' "$@" "$SELFADAPT_DISTRIBUTED" "$HF_TOKEN" up\n'
        "while true; do sleep 0.1; done\n"
    )
    executable(host / "selfadapt" / ".venv" / "bin" / "selfadapt", saves)
    log = host / "selfadapt.log"
    assert "started" in on(host, "train", *RUN, OVERRIDE, "--secrets=HF_TOKEN", HF_TOKEN="it's a $ecret")
    wait_for(log, "up\n")
    assert log.read_text().splitlines() == ["train", *RUN, OVERRIDE, "1", "it's a $ecret", "up"]
    assert (host / ".selfadapt-secrets").stat().st_mode & 0o777 == 0o600
    assert ": running" in on(host, "status")
    refused = run(host / "selfadapt" / "launch" / "tpu_host.sh", "start", *RUN, HOME=host)
    assert "a run is in progress" in refused.stderr
    assert "stopped" in on(host, "stop")
    assert log.read_text().splitlines()[-1] == "saved"
    assert ": not running" in on(host, "status")
