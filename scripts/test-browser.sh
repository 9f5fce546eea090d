#!/usr/bin/env bash
# Tests the dashboard of a running daemon in a headless Chromium: signs in, reads each view, runs a
# job, and interrupts the connection to the database. Keeps screenshots.
#
# BROWSER_OUT  where the screenshots go (target/browser)
# CHROMIUM     the browser (/usr/bin/chromium)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly out=${BROWSER_OUT:-target/browser}
readonly port=${BROWSER_PORT:-8495} relay=${BROWSER_RELAY_PORT:-8496}
fail() {
    printf 'test-browser: %s\n' "$*" >&2
    exit 1
}
command -v node >/dev/null || fail "node is missing: install version 20 or newer"
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || fail "Chromium is missing: apt-get install chromium, or set CHROMIUM=PATH"

folder=$(mktemp -d)
daemon=
finish() {
    local status=$?
    trap - EXIT
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        wait "$daemon" || true
    fi
    [ ! -s "$folder/relay.pid" ] || kill "$(cat "$folder/relay.pid")" 2>/dev/null || true
    [ -z "${keep:-}" ] || exec {keep}>&-
    [ "$status" = 0 ] || tail -n 20 "$folder/log" >&2 || true
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

cargo build --locked --quiet --bin pgsteward --example test-server
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

# A PostgreSQL server behind a relay that the test can interrupt.
coproc SERVER { exec "$target/debug/examples/test-server"; }
keep=${SERVER[1]}
IFS= read -r -t 90 named <&"${SERVER[0]}" || fail "no server: see the error above"
connection=${named#PGSTEWARD_TEST_SERVER=}
set -a
# shellcheck disable=SC1090
. "$connection"
set +a
socket=$(dirname "$connection")/.s.PGSQL.$PGPORT

cat >"$folder/repair" <<SH
node tests/browser/relay.mjs $relay "$socket" >/dev/null 2>&1 </dev/null & echo \$! >"$folder/relay.pid"
SH
printf 'kill "$(cat "%s")"\n' "$folder/relay.pid" >"$folder/break"
sh "$folder/repair"

# A table with dead rows only, so that an optimization has something to do.
mkdir "$folder/migrations"
printf 'CREATE TABLE public.worn AS SELECT n FROM generate_series(1, 20000) AS n;\nDELETE FROM public.worn;\n' \
    >"$folder/migrations/001_worn.sql"

token=pgs_of_the_browser_0123456789abcdef0123456789
cat >"$folder/config.toml" <<TOML
[database]
url = "postgresql://$PGUSER@127.0.0.1:$relay/$PGDATABASE?sslmode=disable&passfile=$(dirname "$connection")/pgpass"
connect_timeout = "2s"
[migrations]
sets = ["zentry"]
dir = "$folder/migrations"
[jobs.sleeper]
sql = "SELECT pg_sleep(300)"
timeout = "10m"
[jobs.health-probe]
schedule = "@every 2s"
[jobs.connection-metrics]
schedule = "@every 5s"
[auth.tokens.browser]
role = "admin"
sha256 = "$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)"
TOML
env -u PGUSER -u PGDATABASE -u PGHOST -u PGPORT -u DATABASE_URL \
    "$target/debug/pgsteward" run --config "$folder/config.toml" --listen "127.0.0.1:$port" 2>"$folder/log" &
daemon=$!
for ((waited = 0; ; waited++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /readyz HTTP/1.0\r\nHost: x\r\n\r\n' >&3 &&
        grep -q '^HTTP/1.0 200' <&3) 2>/dev/null && break
    kill -0 "$daemon" 2>/dev/null && [ "$waited" -lt 120 ] || fail "the daemon did not become ready within 60 s"
    sleep 0.5
done

mkdir -p "$out"
BASE=http://127.0.0.1:$port/ TOKEN=$token OUT=$out BREAK_CMD="sh $folder/break" REPAIR_CMD="sh $folder/repair" \
    timeout 600 node tests/browser/run.mjs
printf 'screenshots: %s\n' "$out"
