#!/usr/bin/env bash
# Installs missing packages that building and testing need. Starts no service.
#
# usage: scripts/install-deps.sh [server|test|outside|full]
#   server  a C linker for cargo, and a PostgreSQL server with its client
#   test    server, PgBouncer, promtool, systemd-analyze and Python
#   outside tests of the API and the dashboard: server, Python with venv, Node and Chromium
#   full    test, and every supported PostgreSQL version (adds the repository of apt.postgresql.org)
#
# On Debian and Ubuntu, as root or with sudo. On other systems it prints what is missing.
set -euo pipefail

readonly level=${1:-server}
readonly versions="14 15 16 17 18"
readonly createcluster=/etc/postgresql-common/createcluster.conf
readonly policy=/usr/sbin/policy-rc.d

fail() {
    printf 'install-deps: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Searches the folders that the daemon searches.
has_server() {
    local folder
    if [ -n "${PGSTEWARD_PG_BIN:-}" ]; then
        [ -x "$PGSTEWARD_PG_BIN/postgres" ] && return
        fail "PGSTEWARD_PG_BIN=$PGSTEWARD_PG_BIN has no postgres; unset it, or name a server's bin folder"
    fi
    for folder in ${PATH//:/ } /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /usr/local/pgsql/bin; do
        [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ] && return
    done
    return 1
}

missing_packages() {
    has cc || echo gcc libc6-dev
    has_server || echo postgresql
    case $level in
    test | full)
        has pgbouncer || [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
        has promtool || echo prometheus
        has systemd-analyze || echo systemd
        has python3 || echo python3
        ;;
    esac
    if [ "$level" = outside ]; then
        has node || echo nodejs
        has chromium || [ -n "${CHROMIUM:-}" ] || echo chromium
        has python3 || echo python3
    fi
    if [ "$level" = full ] || [ "$level" = outside ]; then
        python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    fi
    if [ "$level" = full ]; then
        local version
        for version in $versions; do
            [ -x "/usr/lib/postgresql/$version/bin/postgres" ] || echo "postgresql-$version"
        done
    fi
}

# As root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -qq -o DPkg::Lock::Timeout=180 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 "$@" </dev/null
}

# apt's timeout does not cover the lock on its package lists.
refresh_lists() {
    local try
    for try in 1 2 3 4 5 6; do
        if apt update; then
            return
        fi
        printf 'install-deps: apt-get update failed (attempt %s of 6), trying again in 10 s\n' "$try" >&2
        sleep 10
    done
    fail "apt-get update failed; see its messages above"
}

restore() {
    if [ -n "${conf_kept:-}" ]; then
        as_root cp -p "$conf_kept" "$createcluster"
        rm -f "$conf_kept"
        conf_kept=
    fi
    if [ -n "${policy_made:-}" ]; then
        as_root rm -f "$policy"
        policy_made=
    fi
}

# Packages start their services unless this file refuses. An existing file belongs to the administrator.
refuse_services() {
    [ -e "$policy" ] && return
    policy_made=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

# postgresql-common alone creates no cluster. Its configuration keeps the servers from creating one.
refuse_clusters() {
    [ -e "$createcluster" ] || apt install --no-install-recommends postgresql-common
    conf_kept=$(mktemp)
    cp -p "$createcluster" "$conf_kept"
    printf 'create_main_cluster = false\n' | as_root tee -a "$createcluster" >/dev/null
}

# Keeps newly installed services from starting at the next boot.
disable_services() {
    has systemctl || return 0
    local package
    for package in "$@"; do
        case $package in
        pgbouncer | prometheus) as_root systemctl disable "$package" >/dev/null 2>&1 || true ;;
        esac
    done
}

case $level in
server | test | outside | full) ;;
*) fail "expected server, test, outside or full, found '$level'" ;;
esac
has cargo || fail "cargo is missing; install Rust first: https://rustup.rs"

missing=$(missing_packages | tr '\n' ' ')
missing=${missing% }
if [ -z "$missing" ]; then
    exit 0
fi
if ! has apt-get; then
    fail "missing: $missing (names of Debian's packages); install their equivalents with this system's package manager"
fi
if [ "$(id -u)" != 0 ] && ! has sudo; then
    fail "missing: $missing; become root, or install sudo, and run: apt-get install $missing"
fi

printf 'install-deps: installing %s\n' "$missing" >&2
trap restore EXIT
trap 'exit 130' INT TERM
refuse_services
refresh_lists
refuse_clusters
if [ "$level" = full ]; then
    as_root /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y
fi
# shellcheck disable=SC2086 # a list of names
apt install --no-install-recommends $missing
# shellcheck disable=SC2086
disable_services $missing
restore

still=$(missing_packages | tr '\n' ' ')
[ -z "${still% }" ] || fail "still missing after the installation: $still"
