#!/usr/bin/env bash
# Runs the tests against one development server, which all test processes share.
#
# usage: scripts/test.sh [arguments of cargo test / cargo nextest run]
# It uses the newest installed server, or the one in PGSTEWARD_PG_BIN.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'test: %s\n' "$*" >&2
    exit 1
}

runner=(cargo test --locked)
if cargo nextest --version >/dev/null 2>&1; then
    runner=(cargo nextest run --locked)
fi

"${runner[@]}" --no-run "$@"
cargo build --locked --quiet --example test-server
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

# The server lives until its standard input ends: until this script ends, for whatever reason.
coproc SERVER { exec "$target/debug/examples/test-server"; }
server=$SERVER_PID
keep=${SERVER[1]}
IFS= read -r -t 90 named <&"${SERVER[0]}" || fail "the server did not start; see the reason above"
export "${named?}"

status=0
"${runner[@]}" "$@" {keep}>&- || status=$?

exec {keep}>&-
wait "$server" || fail "the server did not stop cleanly"
exit "$status"
