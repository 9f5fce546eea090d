#!/usr/bin/env bash
# Runs the tests against one throw-away server, shared by all test processes.
#
# usage: scripts/test.sh [arguments of cargo test / cargo nextest run]
# The server is the newest one installed; PGSTEWARD_PG_BIN names another.
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
cargo build --locked --quiet --example throwaway
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

# It lives until its standard input ends, which is with this script, however that ends.
coproc SERVER { exec "$target/debug/examples/throwaway"; }
server=$SERVER_PID
keep=${SERVER[1]}
IFS= read -r -t 90 named <&"${SERVER[0]}" || fail "no server to test against; the reason stands above"
export "${named?}"

status=0
"${runner[@]}" "$@" {keep}>&- || status=$?

exec {keep}>&-
wait "$server" || fail "the throw-away server did not end well"
exit "$status"
