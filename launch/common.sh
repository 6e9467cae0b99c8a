# shellcheck shell=bash
# What tpu_pod.sh and xpk.sh share; they source this file. Nothing to edit here.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit # paths of configs are paths in the repository

fail() {
  echo "${0##*/}: error: $*. See launch/${0##*/} --help" >&2
  exit 2
}

# Takes a flag and what follows it: the flag must have a value that is not the next flag.
need() {
  [[ -n ${2-} && $2 != --* ]] || fail "$1 needs a value"
}

# Writes words so that a shell reads the same words again.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }"
}

# Runs a command, or prints it if this is a dry run.
run() {
  if ${dry_run:?}; then quoted "$@"; else "$@"; fi
}

# The config, the workdir and the secrets' names, before anything is paid for.
check_run() {
  local config=$1 workdir=$2 secrets=$3 name
  [[ -n $config ]] || fail "--config is missing: the config file, such as configs/quickstart.py"
  [[ -f ${config%%:*} ]] || fail "there is no config file ${config%%:*}; give its path in the repository"
  [[ $config != /* ]] || fail "--config=$config must be a path in the repository, since hosts have it elsewhere"
  [[ -n $workdir ]] || fail "--workdir is missing: a directory that all hosts see"
  [[ $workdir == /* ]] || fail "--workdir=$workdir must be an absolute path on storage that all hosts see"
  for name in ${secrets//,/ }; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || fail "--secrets takes names of variables, not $name"
    [[ -n ${!name-} ]] || fail "the variable $name, named by --secrets, is not set here"
  done
}
