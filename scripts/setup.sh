#!/bin/sh
# What `make setup` needs outside Python: the virtual environment itself, and Debian packages.
#   setup.sh venv PYTHON DIR      makes DIR
#   setup.sh packages NAME...     installs those that are missing; starts no service
#   setup.sh root WHAT            stops with a sentence where WHAT cannot run for want of root
set -eu

fail() {
    echo "haltuun setup: $1" >&2
    echo "               $2" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "$1 needs root." "Run this again as root, for instance with sudo."
}

install() {
    command -v apt-get >/dev/null 2>&1 ||
        fail "apt-get is missing, so $* cannot be installed." "Use a Debian or Ubuntu machine, or install these packages by hand."
    need_root "Installing $*"
    log=$(mktemp)
    # A machine may list a package source that does not answer; the install below tells whether that matters.
    apt-get -q update >"$log" 2>&1 || true
    # A policy of 101 keeps a package's installation from starting a daemon.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy" "$log"' EXIT
    else
        trap 'rm -f "$log"' EXIT
    fi
    if ! DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install $*." "Its own words are above; when they name the network, try again with it."
    fi
}

packages() {
    missing=
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing="$missing $name"
    done
    [ -n "$missing" ] || return 0
    echo "Installing Debian packages:$missing ..."
    # shellcheck disable=SC2086  # package names, to be split
    install $missing
}

venv() {
    python=$1 dir=$2
    command -v "$python" >/dev/null 2>&1 ||
        fail "$python is missing." "Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3.11 setup"
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        fail "$("$python" -V) is not a version that Haltuun runs on." "Name a Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11 setup"
    # Debian ships venv's ensurepip apart from python3.
    "$python" -c 'import ensurepip' >/dev/null 2>&1 || packages python3-venv
    "$python" -m venv "$dir"
}

command=$1
shift
case "$command" in
    venv) venv "$@" ;;
    packages) packages "$@" ;;
    root) need_root "$@" ;;
    *) fail "unknown command: $command" "See the head of scripts/setup.sh." ;;
esac
