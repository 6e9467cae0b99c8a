#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each host of a TPU VM pod, in that host's copy of the repository.
#
# Nothing to edit: tpu_pod.sh calls it on all hosts. Not run on a TPU host; tpu_pod.sh lists what was checked instead.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
Usage, on every host of the pod:
  launch/tpu_host.sh setup [--bucket NAME]      Python and selfadapt; the bucket mounted at /mnt/NAME
  launch/tpu_host.sh start ARGUMENT...          `selfadapt train ARGUMENT...` in the background, restarted after a failure
  launch/tpu_host.sh status                     whether it runs, and the end of its log
  launch/tpu_host.sh logs                       follows its log
  launch/tpu_host.sh stop                       sends SIGTERM, so that it saves; waits until it has ended
TEXT
}

fail() {
  echo "tpu_host.sh: error: $*" >&2
  exit 2
}

log=$HOME/selfadapt.log
pid_file=$HOME/selfadapt.pid
secrets=$HOME/.selfadapt-secrets

running() { [[ -s $pid_file ]] && kill -0 "$(<"$pid_file")" 2>/dev/null; }

setup() {
  local bucket=""
  if [[ ${1-} == --bucket ]]; then
    bucket=${2-}
    [[ -n $bucket ]] || fail "--bucket needs a name"
  elif (($#)); then
    fail "setup has no argument $1"
  fi
  # TPU VM images have Python 3.10, which is too old; uv installs another.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[tpu,gcs]'
  if [[ -n $bucket ]]; then mount_bucket "$bucket"; fi
  echo "$(hostname): selfadapt is set up"
}

mount_bucket() {
  if mountpoint -q "/mnt/$1"; then return; fi
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
    curl -fsS "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -c -s) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    sudo apt-get install -qq -y gcsfuse
  fi
  sudo mkdir -p "/mnt/$1"
  sudo chown "$USER" "/mnt/$1"
  # Checkpoint directories are renamed when complete, and other hosts must see new files immediately.
  gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 "$1" "/mnt/$1"
}

start() {
  (($#)) || fail "start needs the arguments of selfadapt train"
  if running; then fail "a run is in progress; stop it first"; fi
  if [[ -f $secrets ]]; then
    set -a
    # shellcheck source=/dev/null
    source "$secrets"
    set +a
  fi
  SELFADAPT_DISTRIBUTED=1 setsid nohup launch/supervise.sh -- .venv/bin/selfadapt train "$@" >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  echo "$(hostname): started; its log is $log"
}

status() {
  if running; then echo "$(hostname): running"; else echo "$(hostname): not running"; fi
  if [[ -f $log ]]; then tail -n 5 "$log"; fi
}

stop() {
  if ! running; then
    echo "$(hostname): not running"
    return
  fi
  local pid
  pid=$(<"$pid_file")
  kill -TERM "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 1; done
  echo "$(hostname): stopped"
}

case ${1-} in
  setup | start | status | stop) "$@" ;;
  logs) exec tail -n 100 -F "$log" ;;
  --help) usage ;;
  *) fail "there is no command ${1:-(none)}. See launch/tpu_host.sh --help" ;;
esac
