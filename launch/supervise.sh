#!/usr/bin/env bash
# Restarts a command that fails; `selfadapt train` with the same workdir then resumes the run.
#
# For hosts without another supervisor: TPU VMs (tpu_host.sh) and SkyPilot nodes (sky.yaml). Kubernetes and SLURM
# restart by themselves. Nothing to edit here.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/supervise.sh [--max-restarts N] [--pause SECONDS] -- COMMAND [ARGUMENT...]

Runs COMMAND and restarts it after a failure, at most N times (20), SECONDS (10) later.
It does not restart after 0 (done), 2 (an error that you must fix), 126 or 127 (no such command) and 130 (Ctrl-C).
It forwards SIGTERM and SIGINT to COMMAND as SIGTERM, and then does not restart.

Exits with the status of COMMAND's last run, or with 2 if its own arguments are wrong.
TEXT
}

fail() {
  echo "supervise.sh: error: $*. See launch/supervise.sh --help" >&2
  exit 2
}

max_restarts=20
pause=10
while (($#)); do
  case $1 in
    --max-restarts) [[ ${2-} =~ ^[0-9]+$ ]] || fail "--max-restarts needs a whole number"; max_restarts=$2; shift 2 ;;
    --pause) [[ ${2-} =~ ^[0-9]+$ ]] || fail "--pause needs a whole number of seconds"; pause=$2; shift 2 ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "there is no argument $1; the command follows --" ;;
  esac
done
(($#)) || fail "no command after --"

child=""
interrupted=false
stopping=false
forward() {
  interrupted=true
  stopping=true
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap forward TERM INT

# Runs its arguments as a process and sets `code`. A trapped signal interrupts `wait` while the process still runs.
run() {
  "$@" &
  child=$!
  if $stopping; then kill -TERM "$child" 2>/dev/null || true; fi
  while true; do
    interrupted=false
    code=0
    wait "$child" || code=$?
    if ! $interrupted; then break; fi
  done
  child=""
}

for ((restarts = 0; ; restarts++)); do
  run "$@"
  case $code in 0 | 2 | 126 | 127 | 130) exit "$code" ;; esac
  if $stopping; then exit "$code"; fi
  if ((restarts >= max_restarts)); then
    echo "supervise.sh: ended with $code; not restarted after $restarts restarts" >&2
    exit "$code"
  fi
  echo "supervise.sh: ended with $code; restart $((restarts + 1)) of $max_restarts in $pause s" >&2
  ended=$code
  run sleep "$pause"
  if $stopping; then exit "$ended"; fi
done
