#!/usr/bin/env bash
# Shows pgsteward at work on a throw-away PostgreSQL, with sample data and quickened jobs, until Ctrl-C.
#
# PGSTEWARD_DEMO_LISTEN  where to listen (127.0.0.1:8432)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly listen=${PGSTEWARD_DEMO_LISTEN:-127.0.0.1:8432}
readonly host=${listen%:*} port=${listen##*:}
readonly ready_bound=120

say() { printf '\n%s\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
folder=$(mktemp -d)
daemon=

finish() {
    trap '' INT TERM
    trap - EXIT
    # One signal: a second one would cut the orderly end short.
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        wait "$daemon" || true
    fi
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 0' HUP INT TERM

alive() { kill -0 "$daemon" 2>/dev/null; }

# The status of a GET, or nothing.
status_of() {
    (
        exec 3<>"/dev/tcp/$host/$port"
        printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" "$listen" >&3
        IFS=' ' read -r -t 5 _ code _ <&3
        printf '%s' "$code"
    ) 2>/dev/null || true
}

# A process group of its own, so that Ctrl-C reaches this script alone.
set -m
"$target/release/pgsteward" run --ephemeral --config packaging/demo/config.toml --listen "$listen" \
    </dev/null 2> >(exec tee "$folder/log" >&2) &
daemon=$!
set +m

for ((waited = 0; ; waited++)); do
    alive || fail "the daemon ended; its log stands above"
    [ "$(status_of /readyz)" = 200 ] && break
    [ "$waited" -lt $((ready_bound * 5)) ] || fail "not ready within $ready_bound s; its log stands above"
    sleep 0.2
done

# The daemon logs the folder of its server; the password lies there, in files of mode 0600.
server=$(sed -n 's/.*[^-_.[:alnum:]/]\(\/[^ "]*\/pgsteward-ephemeral-[0-9a-f]\{12\}\).*/\1/p' "$folder/log" | head -n 1)
[ -r "$server/connection.env" ] || fail "the log does not name the throw-away server's folder"
while IFS='=' read -r name value; do
    export "$name=$value"
done <"$server/connection.env"
psql=$PGSTEWARD_PG_BIN/psql
[ -x "$psql" ] || psql=$(command -v psql) || fail "psql is missing: install PostgreSQL's client"
"$psql" -X -q -v ON_ERROR_STOP=1 -o /dev/null -f packaging/demo/zentry_sample.sql

say "pgsteward keeps house. Open:
  http://$listen/health/     the database's health
  http://$listen/metrics     what Prometheus sees
  http://$listen/readyz      and /livez, /healthz: the probes
Look into the database from another terminal:
  PGPASSFILE=$server/pgpass $psql -h $server -p $PGPORT -U $PGUSER $PGDATABASE
  then: SELECT job, state, rows_affected, started_at FROM steward.job_runs ORDER BY started_at DESC LIMIT 10;
Ctrl-C ends it and leaves nothing behind."

wait "$daemon" || fail "the daemon ended by itself with status $?"
