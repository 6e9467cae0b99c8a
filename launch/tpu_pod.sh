#!/usr/bin/env bash
# A run on a TPU VM pod: the same process on every host, started over SSH by gcloud.
#
# Edit: nothing; everything is an argument. You need gcloud, logged in, and a bucket (or NFS) for the workdir.
# Not run on real hardware. Checked instead: shellcheck; the exact gcloud commands of a dry run, their flags against
# Google Cloud SDK 528; start, restart and stop of the part that runs on the hosts, on a machine without TPUs.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
Usage: launch/tpu_pod.sh COMMAND --tpu NAME --zone ZONE [--project PROJECT] [--dry-run] ...

Commands, in the order in which they are used (FILE is a path in the repository):
  create --type TYPE --version VERSION [--spot]
                      creates the pod, such as --type v5litepod-16 --version v2-alpha-tpuv5-lite
  setup [--bucket BUCKET]
                      copies the last commit to all hosts, installs it, and mounts BUCKET at /mnt/BUCKET
  train --config FILE --workdir DIR [--secrets NAME,...] [--config.FIELD=VALUE ...]
                      starts the run on all hosts in the background; the workdir of an earlier run is resumed.
                      --secrets: variables of this shell, such as HF_TOKEN, copied to the hosts in a file, mode 600
  status, logs        whether it runs, on all hosts; follows the log of the first host
  stop                SIGTERM on all hosts: the run saves and ends
  delete              deletes the pod; the bucket is kept

--dry-run prints the commands instead of running them.
TEXT
}

command=${1-}
[[ $command == --help ]] && { usage; exit 0; }
(($#)) && shift

tpu="" zone="" project="" type="" version="" bucket="" config="" workdir="" secrets=""
spot=false dry_run=false
overrides=()
while (($#)); do
  case $1 in
    --tpu | --zone | --project | --type | --version | --bucket | --config | --workdir | --secrets)
      need "$@"
      declare "${1#--}=$2"
      shift 2
      ;;
    --tpu=* | --zone=* | --project=* | --type=* | --version=* | --bucket=* | --config=* | --workdir=* | --secrets=*)
      flag=${1%%=*}
      declare "${flag#--}=${1#*=}"
      shift
      ;;
    --config.*=*) overrides+=("$1"); shift ;;
    --config.*) fail "$1 needs a value: $1=VALUE" ;;
    --spot) spot=true; shift ;;
    --dry-run) dry_run=true; shift ;;
    --help) usage; exit 0 ;;
    *) fail "there is no argument $1" ;;
  esac
done

[[ $command =~ ^(create|setup|train|status|logs|stop|delete)$ ]] || fail "there is no command ${command:-(none)}"
[[ -n $tpu ]] || fail "--tpu is missing: the pod's name"
[[ -n $zone ]] || fail "--zone is missing: the pod's zone, such as us-west4-a"
place=(--zone="$zone")
[[ -z $project ]] || place+=(--project="$project")

on() { run gcloud compute tpus tpu-vm ssh "$tpu" "${place[@]}" --worker="$1" --command="$2"; }
on_all() { on all "$1"; }
to_all() { run gcloud compute tpus tpu-vm scp "$1" "$tpu:$2" "${place[@]}" --worker=all; }

create() {
  [[ -n $type ]] || fail "--type is missing: the accelerator, such as v5litepod-16"
  [[ -n $version ]] || fail "--version is missing: the hosts' software, such as v2-alpha-tpuv5-lite"
  local arguments=(--accelerator-type="$type" --version="$version")
  if $spot; then arguments+=(--spot); fi
  run gcloud compute tpus tpu-vm create "$tpu" "${place[@]}" "${arguments[@]}"
}

setup() {
  local arguments=()
  [[ -z $bucket ]] || arguments=(--bucket "$bucket")
  [[ -z $(git status --porcelain) ]] || echo "tpu_pod.sh: uncommitted changes are not copied" >&2
  run git archive --format=tar.gz --output="$scratch/selfadapt.tar.gz" HEAD
  to_all "$scratch/selfadapt.tar.gz" selfadapt.tar.gz
  local install
  install=$(quoted selfadapt/launch/tpu_host.sh setup "${arguments[@]}")
  on_all "mkdir -p selfadapt && tar -xzf selfadapt.tar.gz -C selfadapt && $install"
}

train() {
  check_run "$config" "$workdir" "$secrets"
  if [[ -n $secrets ]]; then
    local file=$scratch/secrets name
    if $dry_run; then
      echo "# $file, mode 600: the values of ${secrets//,/, }"
    else
      (umask 077; for name in ${secrets//,/ }; do printf '%s=%q\n' "$name" "${!name}"; done >"$file")
    fi
    to_all "$file" .selfadapt-secrets
    on_all "chmod 600 .selfadapt-secrets"
  fi
  on_all "$(quoted selfadapt/launch/tpu_host.sh start --config="$config" --workdir="$workdir" "${overrides[@]}")"
}

if $dry_run; then
  scratch=/tmp/scratch
else
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
fi

case $command in
  create | setup | train) "$command" ;;
  status | stop) on_all "selfadapt/launch/tpu_host.sh $command" ;;
  logs) on 0 "selfadapt/launch/tpu_host.sh logs" ;;
  delete) run gcloud compute tpus tpu-vm delete "$tpu" "${place[@]}" --quiet ;;
esac
