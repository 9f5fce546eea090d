#!/usr/bin/env bash
# Checks the dependencies, runs the whole suite once for each installed PostgreSQL version, validates
# the files for systemd and Kubernetes, and builds and checks the release binary.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deny >/dev/null || {
    echo "test-full: cargo-deny is missing; install it: cargo install cargo-deny --locked" >&2
    exit 69
}
cargo deny --locked --log-level error check bans licenses sources

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
scripts/release.sh
