#!/usr/bin/env bash
# Runs pgsteward on a development server with sample data and frequent jobs, until Ctrl-C.
#
# DEMO_PROFILE           cargo's profile: release, or dev, which builds faster (default: release)
# PGSTEWARD_DEMO_LISTEN  the address to listen on (default: 127.0.0.1:8432)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly profile=${DEMO_PROFILE:-release}
readonly listen=${PGSTEWARD_DEMO_LISTEN:-127.0.0.1:8432}
readonly host=${listen%:*} port=${listen##*:}
readonly ready_bound=120

say() { printf '%s\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

folder=$(mktemp -d)
daemon=
: >"$folder/log"
exec 4<"$folder/log"

finish() {
    local status=$?
    trap '' HUP INT TERM
    trap - EXIT
    # Only one signal: a second one would end the process at once.
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        say
        wait "$daemon" || true
        show_log
    fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT
# Once the daemon runs, a signal is the regular end, with status 0.
trap '[ -z "$daemon" ] || exit 0; exit 130' HUP INT TERM

# Prints the body of a GET, or nothing. curl may be missing.
get() {
    (
        exec 3<>"/dev/tcp/$host/$port"
        printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" "$listen" >&3
        timeout 5 sed '1,/^\r*$/d' <&3
    ) 2>/dev/null || true
}

# Prints new lines of the log, shortened to the time of day and without fields that never change.
show_log() {
    local line
    while IFS= read -r line <&4; do
        [[ $line =~ ^[0-9-]+T([0-9:]+)\.[0-9]+Z\ (.*)$ ]] && line="${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
        [[ $line =~ ^(.*)\ run_id=[0-9a-f-]+(.*)$ ]] && line="${BASH_REMATCH[1]}${BASH_REMATCH[2]}"
        say "${line/ database=main/}"
    done
}

# Prints the log for half a second; fails if the daemon has ended.
follow() {
    show_log
    if ! kill -0 "$daemon" 2>/dev/null; then
        show_log
        fail "the daemon exited; see its log above"
    fi
    sleep 0.5
}

if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
    fail "another process listens on $listen: stop it, or set PGSTEWARD_DEMO_LISTEN=ADDRESS:PORT"
fi

# Temporary files of an interrupted compiler are removed with the folder.
TMPDIR=$folder cargo build --locked --profile "$profile" --bin pgsteward
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
binary=$target/${profile/#dev/debug}/pgsteward

# The token has the role admin. No file holds it: the configuration has its digest.
made=$("$binary" token new demo --role admin --json 2>/dev/null)
member() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' <<<"$made"; }
token=$(member token)
{
    cat packaging/demo/config.toml
    printf '\n[auth.tokens.demo]\nrole = "admin"\nsha256 = "%s"\n' "$(member sha256)"
} >"$folder/config.toml"

say "
Starting pgsteward with a development server."
# A process group of its own, so that Ctrl-C reaches this script alone.
set -m
"$binary" run --ephemeral --config "$folder/config.toml" --listen "$listen" </dev/null 2>>"$folder/log" 4<&- &
daemon=$!
set +m

for ((waited = 0; ; waited++)); do
    follow
    [ "$(get /readyz)" = ok ] && break
    [ "$waited" -lt $((ready_bound * 2)) ] || fail "not ready within $ready_bound s; see its log above"
done

# The daemon logs the folder of its server. Files of mode 0600 in it hold the password.
server=$(sed -n 's/.*[^-_.[:alnum:]/]\(\/[^ "]*\/pgsteward-ephemeral-[0-9a-f]\{12\}\).*/\1/p' "$folder/log" | head -n 1)
[ -r "$server/connection.env" ] || fail "the log does not name the folder of the development server"
unset PGPASSWORD PGHOSTADDR PGSERVICE PGSSLMODE PGOPTIONS
while IFS='=' read -r name value; do
    export "$name=$value"
done <"$server/connection.env"
psql=$PGSTEWARD_PG_BIN/psql
[ -x "$psql" ] || psql=$(command -v psql) || fail "psql is missing: install PostgreSQL's client"
sql() { PGCONNECT_TIMEOUT=5 "$psql" -X -q -v ON_ERROR_STOP=1 "$@"; }

say "Loading sample data into the set zentry: users, projects, VMs, bills, 70 days of metrics."
sql -o /dev/null -f packaging/demo/zentry_sample.sql
loaded=$(sql -At -c "SELECT now()")

show_log
say "
The dashboard is at http://$listen/ and asks for the token below.
In another terminal (curl http://$listen/ lists every endpoint):
  export TOKEN=$token
  curl http://$listen/health/             the database's health
  curl http://$listen/metrics             what Prometheus sees
  curl 'http://$listen/readyz?verbose'    a probe; also /livez and /healthz
  curl -H \"Authorization: Bearer \$TOKEN\" http://$listen/jobs
  curl -H \"Authorization: Bearer \$TOKEN\" -H 'Prefer: wait=20' -X POST http://$listen/jobs/retention/run
  curl -H \"Authorization: Bearer \$TOKEN\" 'http://$listen/health/audit?limit=5'
  PGPASSFILE=$server/pgpass $psql -h $server -p $PGPORT -U $PGUSER $PGDATABASE
And pgsteward's own command line, for the same database:
  export DATABASE_URL='host=$server port=$PGPORT user=$PGUSER dbname=$PGDATABASE passfile=$server/pgpass'
  $binary job list --config $PWD/packaging/demo/config.toml
Every job runs within a minute. Ctrl-C stops the demo and removes everything that it created.
"

# True once each job of the ledger has run after the load and both measurements have rows.
all_ran() {
    [ t = "$(sql -At -v loaded="$loaded" <<'SQL'
SELECT count(DISTINCT job) = 5
       AND EXISTS (SELECT FROM steward.system_health)
       AND EXISTS (SELECT FROM steward.connection_metrics)
  FROM steward.job_runs
 WHERE job IN ('partitions', 'retention', 'vacuum', 'refresh', 'audit-seal') AND finished_at IS NOT NULL AND started_at >= :'loaded'
SQL
    )" ]
}

until all_ran; do
    for _ in 1 2 3 4; do follow; done
done
show_log
say "
Every job has run. Results so far (rows are tables for vacuum and views for refresh):"
sql -P border=0 -P footer=off -P null=- <<'SQL'
SELECT job, count(*) AS runs, (array_agg(state || coalesce(': ' || reason, '') ORDER BY finished_at DESC))[1] AS "last run",
       sum(rows_affected) AS rows, round(1000 * max(extract(epoch FROM finished_at - started_at))) AS "longest, ms"
  FROM steward.job_runs
 WHERE finished_at IS NOT NULL
 GROUP BY job
 ORDER BY job;
SELECT 'steward.system_health' AS "table", count(*) AS rows, count(DISTINCT created_at) AS measurements,
       (array_agg(DISTINCT status))::text AS "contents"
  FROM steward.system_health
UNION ALL
SELECT 'steward.connection_metrics', count(*), sum(samples),
       format('%s to %s of %s connections', min(total_min), max(total_max), max(max_connections))
  FROM steward.connection_metrics;
SQL
say "The log continues; Ctrl-C stops the demo."

while :; do follow; done
