"""launch/xpk.sh: the command of a dry run, and the arguments of xpk (a stand-in)."""

import pytest

from tests.launch.harness import LAUNCH, executable, run

XPK = LAUNCH / "xpk.sh"
WHERE = ("--cluster=c", "--workload=w", "--tpu-type=v5litepod-16", "--image=registry/selfadapt:tpu", "--storage=files")
RUN = ("--config=configs/quickstart.py", "--workdir=/shared/runs/a")


def test_a_dry_run_prints_the_variables_and_the_command():
    done = run(XPK, *WHERE, *RUN, "--config.rounds=3", "--secrets=HF_TOKEN", "--dry-run", HF_TOKEN="abc")
    assert done.stdout.splitlines() == [
        "# /tmp/variables: SELFADAPT_DISTRIBUTED=1",
        "# /tmp/variables: SELFADAPT_COMPILATION_CACHE=/shared/runs/cache/compiled",
        "# /tmp/variables: HF_HOME=/shared/runs/cache/huggingface",
        "# /tmp/variables: HF_TOKEN",
        "xpk workload create --cluster=c --workload=w --tpu-type=v5litepod-16 --num-slices=1 "
        "--docker-image=registry/selfadapt:tpu --storage=files --env-file=/tmp/variables --max-restarts=20 "
        "--restart-on-exit-codes=1,75 --termination-grace-period-seconds=300 '--command=exec selfadapt train "
        "--config=configs/quickstart.py --workdir=/shared/runs/a --config.rounds=3'",
    ]


def test_xpk_gets_the_secrets_by_name_and_the_overrides_unchanged(tmp_path):
    xpk = (
        "#!/bin/bash\n"
        'for word in "$@"; do\n'
        '  [[ $word == --env-file=* ]] && cat "${word#*=}"\n'
        '  [[ $word == --command=* ]] && bash -c "${word#*=}"\n'
        "done\n"
        'env | grep "^HF_TOKEN="\n'
    )
    executable(tmp_path / "xpk", xpk)
    executable(tmp_path / "selfadapt", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    override = '--config.data.path=/shared/it\'s, "here" {x}.json'
    done = run(XPK, *WHERE, *RUN, override, "--secrets=HF_TOKEN", "--cache=/c", path=tmp_path, HF_TOKEN="abc")
    assert done.stdout.splitlines() == [
        *("SELFADAPT_DISTRIBUTED=1", "SELFADAPT_COMPILATION_CACHE=/c/compiled", "HF_HOME=/c/huggingface", "HF_TOKEN"),
        *("train", *RUN, override),
        "HF_TOKEN=abc",
    ]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((*WHERE[1:], *RUN), "--cluster is missing"),
        ((*WHERE[:-1], *RUN), "--storage is missing"),
        ((*WHERE, *RUN, "--num-slices=0"), "--num-slices=0 must be a whole number from 1"),
        ((*WHERE, *RUN, "--max-restarts", "-1"), "--max-restarts=-1 must be a whole number"),
        ((*WHERE, RUN[0]), "--workdir is missing"),
        ((*WHERE, RUN[0], "--workdir=gs://bucket/a"), "must be an absolute path"),
        ((*WHERE, *RUN, "--secrets=A=b"), "--secrets takes names of variables, not A=b"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_done(arguments, complaint):
    done = run(XPK, *arguments, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
