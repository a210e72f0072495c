#!/bin/sh
# Makes a Debian machine able to run vmmcheck: system packages where they are missing, then the project's own
# virtual environment with pinned packages. Does nothing when nothing is missing, so it can be run every time.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv="$here/.venv"
stamp="$venv/.vmmcheck-ready"

say() { printf 'vmmcheck set-up: %s\n' "$*" >&2; }
die() { say "$*"; exit 4; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || die "python3 is not installed; install Python 3.11 or newer and run again."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version 2>&1) is too old; vmmcheck needs Python 3.11 or newer (set PYTHON=/path/to/python3.11)."

missing=''
command -v bochs >/dev/null 2>&1 || missing="$missing bochs bochsbios vgabios"
# The `term` display is the only one that needs neither X nor an open port; its package is separate.
find /usr/lib -name 'libbx_term*' 2>/dev/null | grep -q . || missing="$missing bochs-term"
# Debian ships venv without ensurepip until python3-venv is there.
[ -x "$venv/bin/python" ] || "$python" -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        die "this machine lacks$missing, and there is no apt-get to install them; install Bochs 2.7 with its 'term' display by hand."
    elif [ "$(id -u)" -eq 0 ]; then
        become=''
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        become='sudo'
    elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then
        become='sudo'
    else
        die "this machine lacks$missing, and there is neither root nor sudo here; ask its administrator for: apt-get install$missing"
    fi
    say "installing$missing"
    $become apt-get update -qq
    # shellcheck disable=SC2086 # the list is meant to be split
    $become env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

wanted=$(cat "$here/pyproject.toml" "$here/constraints.txt" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    say "creating .venv with pinned packages"
    # tox leaves a file of that name that points at an environment of its own (PEP 832).
    if [ -f "$venv" ]; then rm -f "$venv"; else rm -f "$stamp"; fi
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c "$here/constraints.txt" -e "$here[dev]"
    printf '%s\n' "$wanted" >"$stamp"
fi
