#!/usr/bin/env bash
# Runs a command and starts it again when it ends early; `selfadapt train` with the same workdir then goes on.
#
# For machines where nothing else does this: TPU VMs (tpu_host.sh) and SkyPilot's nodes (sky.yaml). Kubernetes and
# SLURM do it themselves. Nothing to edit here.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/supervise.sh [--max-restarts N] [--pause SECONDS] -- COMMAND [ARGUMENT...]

Runs COMMAND and starts it again when it ends early, at most N times (20), after SECONDS (10).
It does not start it again after 0 (done), 2 (an error that you must put right), 126 or 127 (no such command)
and 130 (Ctrl-C). It hands SIGTERM and SIGINT on to COMMAND as SIGTERM, and then starts nothing again.

Exits with the status of COMMAND's last run; with 2 if its own arguments are wrong.
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
    *) fail "there is no argument $1; the command stands after --" ;;
  esac
done
(($#)) || fail "no command after --"

child=""
interrupted=false
stopping=false
hand_on() {
  interrupted=true
  stopping=true
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap hand_on TERM INT

# Runs its arguments as a process and sets `code`. A trapped signal ends `wait` while the process is still there.
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
    echo "supervise.sh: ended with $code; not started again after $restarts restarts" >&2
    exit "$code"
  fi
  echo "supervise.sh: ended with $code; restart $((restarts + 1)) of $max_restarts in $pause s" >&2
  ended=$code
  run sleep "$pause"
  if $stopping; then exit "$ended"; fi
done
