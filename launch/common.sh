# shellcheck shell=bash
# Functions that tpu_pod.sh and xpk.sh source. Nothing to edit here.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit # paths of configs are paths in the repository

fail() {
  echo "${0##*/}: error: $*. See launch/${0##*/} --help" >&2
  exit 2
}

# Checks that a flag is followed by a value and not by another flag.
need() {
  [[ -n ${2-} && $2 != --* ]] || fail "$1 needs a value"
}

# Quotes words for a shell.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }"
}

# Runs a command, or prints it in a dry run.
run() {
  if ${dry_run:?}; then quoted "$@"; else "$@"; fi
}

# Checks the config, the workdir and the names of secrets before any cost arises.
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
