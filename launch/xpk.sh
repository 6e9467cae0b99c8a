#!/usr/bin/env bash
# A run on a GKE cluster of TPUs created by xpk; the cluster queues, starts and restarts it.
#
# Edit: nothing; everything is an argument. You need xpk, gcloud and kubectl, an image built from launch/Dockerfile
# with PLATFORM=tpu in a registry that the cluster reads, and storage attached with `xpk storage attach`.
# Not run on real hardware. Checked instead: shellcheck; the exact command of a dry run; the JobSet that
# xpk 1.16 itself wrote for it (`xpk workload create --dry-run --output-manifest-file`), once, by hand.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
Usage: launch/xpk.sh --cluster NAME --workload NAME --tpu-type TYPE --image IMAGE --storage NAME [--storage NAME ...]
                     --config FILE --workdir DIR [--cache DIR] [--num-slices N] [--max-restarts N]
                     [--project PROJECT] [--zone ZONE] [--secrets NAME,...] [--dry-run] [--config.FIELD=VALUE ...]

Creates the workload. FILE is a path in the repository, which the image contains; DIR is on the attached storage.
Compiled programs and files of the Hugging Face Hub are kept in --cache (default: `cache` beside the workdir).
A workload that fails is restarted with the same workdir and resumes, at most N times (20); not after an error that
you must fix (exit status 2). To resume after that, or after a deletion, create it again under a new name.

--secrets: variables of this shell, such as HF_TOKEN. xpk writes their values into the pod's specification,
           which everyone can read who may read pods.
--dry-run  prints the command, and the file with the variables, instead of running xpk.
TEXT
}

cluster="" workload="" tpu_type="" image="" config="" workdir="" cache="" project="" zone="" secrets=""
num_slices=1 max_restarts=20 dry_run=false
storage=() overrides=()
while (($#)); do
  case $1 in
    --storage) need "$@"; storage+=("--storage=$2"); shift 2 ;;
    --storage=*) storage+=("$1"); shift ;;
    --cluster | --workload | --tpu-type | --image | --config | --workdir | --cache | --project | --zone | --secrets | \
      --num-slices | --max-restarts)
      need "$@"
      flag=${1#--}
      declare "${flag//-/_}=$2"
      shift 2
      ;;
    --cluster=* | --workload=* | --tpu-type=* | --image=* | --config=* | --workdir=* | --cache=* | --project=* | \
      --zone=* | --secrets=* | --num-slices=* | --max-restarts=*)
      flag=${1%%=*}
      flag=${flag#--}
      declare "${flag//-/_}=${1#*=}"
      shift
      ;;
    --config.*=*) overrides+=("$1"); shift ;;
    --config.*) fail "$1 needs a value: $1=VALUE" ;;
    --dry-run) dry_run=true; shift ;;
    --help) usage; exit 0 ;;
    *) fail "there is no argument $1" ;;
  esac
done

[[ -n $cluster ]] || fail "--cluster is missing: the cluster created by xpk"
[[ -n $workload ]] || fail "--workload is missing: a name for this run on the cluster"
[[ -n $tpu_type ]] || fail "--tpu-type is missing: the accelerator, such as v5litepod-16"
[[ -n $image ]] || fail "--image is missing: an image built from launch/Dockerfile with PLATFORM=tpu"
((${#storage[@]})) || fail "--storage is missing: the storage with the workdir, attached with xpk storage attach"
[[ $num_slices =~ ^[1-9][0-9]*$ ]] || fail "--num-slices=$num_slices must be a whole number from 1"
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts=$max_restarts must be a whole number"
check_run "$config" "$workdir" "$secrets"
[[ -n $cache ]] || cache=$(dirname "$workdir")/cache
place=()
[[ -z $project ]] || place+=(--project="$project")
[[ -z $zone ]] || place+=(--zone="$zone")

if $dry_run; then
  variables=/tmp/variables
else
  variables=$(mktemp)
  trap 'rm -f "$variables"' EXIT
fi
# A name without a value: xpk reads the value from this shell, so that it appears on no command line.
lines=(SELFADAPT_DISTRIBUTED=1 SELFADAPT_COMPILATION_CACHE="$cache/compiled" HF_HOME="$cache/huggingface")
for name in ${secrets//,/ }; do
  export "${name?}"
  lines+=("$name")
done
if $dry_run; then printf "# $variables: %s\n" "${lines[@]}"; else printf '%s\n' "${lines[@]}" >"$variables"; fi

# exec: xpk sends SIGTERM to the shell that it starts, not to the command in it.
run xpk workload create --cluster="$cluster" --workload="$workload" "${place[@]}" \
  --tpu-type="$tpu_type" --num-slices="$num_slices" --docker-image="$image" "${storage[@]}" --env-file="$variables" \
  --max-restarts="$max_restarts" --restart-on-exit-codes=1,75 --termination-grace-period-seconds=300 \
  --command="exec $(quoted selfadapt train --config="$config" --workdir="$workdir" "${overrides[@]}")"
