# Sourced by the scripts beside it: where everything is, and how they talk.
# shellcheck shell=bash disable=SC2034

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$repo/.venv/bin/python
# rustup's place, where a login shell hasn't put it on the path.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cd "$repo" || exit

bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

say() { printf '%s%s%s\n' "$bold" "$*" "$plain" >&2; }
fail() {
  printf '%serror:%s %s\n' "$bold" "$plain" "$1" >&2
  [ $# -lt 2 ] || printf '%shint:%s %s\n' "$bold" "$plain" "$2" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# usage TEXT ARGUMENT…: prints the text and leaves if help is asked for.
usage() {
  case ${2:-} in -h | --help) printf '%s\n' "$1" && exit 0 ;; esac
}
