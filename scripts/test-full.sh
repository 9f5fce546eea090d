#!/usr/bin/env bash
# Runs the whole suite once per installed PostgreSQL version, then asks systemd and Kubernetes about
# what is shipped for them.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=
for bin in /usr/lib/postgresql/*/bin; do
    [ -x "$bin/postgres" ] || continue
    printf '== %s\n' "$("$bin/postgres" --version)"
    PGSTEWARD_PG_BIN=$bin scripts/test.sh "$@" || failed="$failed $bin"
done
if [ -n "$failed" ]; then
    printf 'test-full: failed with:%s\n' "$failed" >&2
    exit 1
fi
packaging/verify.sh target/debug/pgsteward
