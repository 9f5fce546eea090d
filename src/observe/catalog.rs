//! The SQL of a tick. Needs PostgreSQL 14 (`pg_locks.waitstart`, `inhdetachpending`); what came later
//! is asked for in ways that an older server answers too.
//!
//! Every part is one SELECT of one row with one JSON value. Names are pinned to `pg_catalog`, dates
//! and zones to what the partition bounds are parsed as.

use std::time::Duration;

use super::Watched;
use crate::db::quote_literal;

/// One of the questions of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Server,
    Sessions,
    Ages,
    Replication,
    Slots,
    Archiver,
    Partitions,
}

impl Part {
    pub const ALL: [Part; 7] = [
        Part::Server,
        Part::Sessions,
        Part::Ages,
        Part::Replication,
        Part::Slots,
        Part::Archiver,
        Part::Partitions,
    ];

    /// What a person calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Server => "server",
            Part::Sessions => "sessions",
            Part::Ages => "wraparound",
            Part::Replication => "replication",
            Part::Slots => "replication slots",
            Part::Archiver => "archiver",
            Part::Partitions => "partitions",
        }
    }

    /// Whether there is no snapshot without it.
    pub fn required(self) -> bool {
        matches!(self, Part::Server | Part::Sessions)
    }

    /// The views and functions that may be missing from a fork, or be closed to us by a careful
    /// administrator (`REVOKE … FROM PUBLIC`).
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Part::Server => &[],
            Part::Sessions => &[
                "pg_stat_get_activity(integer)",
                "pg_locks",
                "pg_blocking_pids(integer)",
                "pg_stat_get_progress_info(text)",
                "pg_prepared_xact()",
            ],
            Part::Ages => &["pg_database", "mxid_age(xid)"],
            Part::Replication => &[
                "pg_stat_replication",
                "pg_stat_wal_receiver",
                "pg_last_wal_receive_lsn()",
                "pg_last_wal_replay_lsn()",
                "pg_last_xact_replay_timestamp()",
                "pg_current_wal_lsn()",
            ],
            Part::Slots => {
                &["pg_replication_slots", "pg_current_wal_lsn()", "pg_last_wal_replay_lsn()"]
            }
            Part::Archiver => &["pg_stat_get_archiver()"],
            Part::Partitions => &["pg_inherits", "pg_partitioned_table"],
        }
    }

    fn sql(self, watched: &[Watched]) -> String {
        match self {
            Part::Server => SERVER.to_owned(),
            Part::Sessions => SESSIONS.to_owned(),
            Part::Ages => AGES.to_owned(),
            Part::Replication => REPLICATION.to_owned(),
            Part::Slots => SLOTS.to_owned(),
            Part::Archiver => ARCHIVER.to_owned(),
            Part::Partitions => partitions(watched),
        }
    }
}

/// The simple query that asks `parts`, in a read-only transaction with its bounds inside.
///
/// The lock time-out is for the catalogs alone (`VACUUM FULL pg_class` locks them): half a second
/// is far more than any other lock on them is held. Compiling a plan (`jit`) would cost more than any
/// of these takes.
pub fn batch(parts: &[Part], watched: &[Watched], statement_timeout: Duration) -> String {
    let timeout_ms = statement_timeout.as_millis().clamp(1, i32::MAX as u128);
    let mut sql = format!(
        "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = {timeout_ms}; \
         SET LOCAL lock_timeout = 500; SET LOCAL idle_in_transaction_session_timeout = 30000; SET LOCAL jit = off; \
         SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';\n"
    );
    for part in parts {
        sql.push_str(&part.sql(watched));
        sql.push_str(";\n");
    }
    sql.push_str("COMMIT");
    sql
}

/// `reserved_connections` exists since 16; asked for with missing_ok, it is 0 before.
const SERVER: &str = "
SELECT json_build_object(
  'time', extract(epoch FROM clock_timestamp()),
  'version', current_setting('server_version_num')::int,
  'in_recovery', pg_is_in_recovery(),
  'started_at', extract(epoch FROM pg_postmaster_start_time()),
  'database', current_database(),
  'role', current_user,
  'sees_all', pg_has_role('pg_read_all_stats', 'USAGE'),
  'max_connections', current_setting('max_connections')::int,
  'superuser_reserved', current_setting('superuser_reserved_connections')::int,
  'reserved', coalesce(current_setting('reserved_connections', true), '0')::int)";

/// Client sessions only: walsenders have slots of their own since 12, and workers too. A session
/// that we may not look into shows neither its backend_type nor its state; one with a database and a
/// user is counted as a client, `unseen`, never as idle.
///
/// `pg_locks` takes every partition of the lock table at once, so it is read only when a session
/// says that it waits, or when some sessions cannot say it to us. `pg_blocking_pids` is asked for
/// one session, the longest waiter. VACUUM's transaction holds nobody back and may last for hours:
/// it is no "oldest transaction". Most of the time goes into planning, so functions stand where a
/// view would join more than is asked for.
const SESSIONS: &str = "
WITH client AS MATERIALIZED (
  SELECT pid, coalesce((SELECT datname FROM pg_database AS known WHERE known.oid = datid), '') AS datname, usesysid,
         application_name, xact_start, state_change, wait_event_type,
         CASE WHEN backend_type IS NULL THEN 'unseen' ELSE coalesce(state, 'starting') END AS state
    FROM pg_stat_get_activity(NULL)
   WHERE backend_type = 'client backend'
      OR (backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)
), counted AS (
  SELECT datname, state, count(*) AS sessions, sum(count(*)) OVER (PARTITION BY datname) AS total
    FROM client GROUP BY datname, state
), ranked AS (
  SELECT *, dense_rank() OVER (ORDER BY total DESC, datname) AS place FROM counted
), grouped AS (
  SELECT CASE WHEN place <= 64 THEN datname END AS database, state, sum(sessions)::int AS sessions
    FROM ranked GROUP BY 1, 2
), waiter AS MATERIALIZED (
  SELECT pid, waitstart
    FROM pg_locks
   WHERE NOT granted
     AND (SELECT bool_or(wait_event_type = 'Lock' OR state = 'unseen') FROM client)
), longest AS MATERIALIZED (
  SELECT pid, waitstart FROM waiter ORDER BY waitstart LIMIT 1
)
SELECT json_build_object(
  'counts', (SELECT coalesce(json_agg(grouped), '[]') FROM grouped),
  'waiting', (SELECT count(DISTINCT pid) FROM waiter),
  'longest_wait', (
    SELECT json_build_object(
             'pid', pid,
             'seconds', extract(epoch FROM clock_timestamp() - waitstart),
             'blockers', (
               SELECT coalesce(json_agg(json_build_object(
                        'pid', blocker.pid, 'user', pg_get_userbyid(client.usesysid), 'application', client.application_name)), '[]')
                 FROM (SELECT DISTINCT unnest(pg_blocking_pids(longest.pid)) AS pid LIMIT 8) AS blocker
                 LEFT JOIN client ON client.pid = blocker.pid))
      FROM longest),
  'oldest_transaction', (
    SELECT json_build_object('pid', pid, 'user', pg_get_userbyid(usesysid), 'application', application_name, 'database', datname,
             'state', state, 'seconds', extract(epoch FROM clock_timestamp() - xact_start))
      FROM client
     WHERE xact_start IS NOT NULL
       AND pid <> pg_backend_pid()
       AND NOT EXISTS (SELECT FROM pg_stat_get_progress_info('VACUUM') AS vacuum WHERE vacuum.pid = client.pid)
     ORDER BY xact_start LIMIT 1),
  'oldest_idle_in_transaction', (
    SELECT json_build_object('pid', pid, 'user', pg_get_userbyid(usesysid), 'application', application_name, 'database', datname,
             'state', state, 'seconds', extract(epoch FROM clock_timestamp() - state_change))
      FROM client
     WHERE state LIKE 'idle in transaction%'
     ORDER BY state_change LIMIT 1),
  'oldest_prepared', (
    SELECT json_build_object('gid', gid, 'seconds', extract(epoch FROM clock_timestamp() - prepared))
      FROM pg_prepared_xact() ORDER BY prepared LIMIT 1))";

/// Of every database: the one that runs out first stops the whole cluster, `template0` included.
const AGES: &str = "
SELECT coalesce(json_agg(oldest), '[]')
  FROM (SELECT datname AS name, age(datfrozenxid) AS xid_age, mxid_age(datminmxid) AS mxid_age,
               datname = current_database() AS own
          FROM pg_database
         ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC
         LIMIT 20) AS oldest";

/// A standby that has replayed all it received lags by nothing, however long ago the last commit
/// was, but only while its receiver lives: a cut link also leaves nothing to replay.
const REPLICATION: &str = "
SELECT json_build_object(
  'standby', CASE WHEN pg_is_in_recovery() THEN (
    SELECT json_build_object(
             'receiver', receiver.pid IS NOT NULL,
             'receiver_status', receiver.status,
             'lag_seconds', CASE WHEN receiver.pid IS NOT NULL
                                  AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
                                 ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END)
      FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true) END,
  'replicas', (
    SELECT coalesce(json_agg(replica), '[]')
      FROM (SELECT application_name AS name, state, extract(epoch FROM replay_lag) AS lag_seconds,
                   CASE WHEN NOT pg_is_in_recovery()
                        THEN pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) END AS lag_bytes
              FROM pg_stat_replication
             ORDER BY replay_lag DESC NULLS LAST
             LIMIT 20) AS replica))";

const SLOTS: &str = "
SELECT coalesce(json_agg(slot), '[]')
  FROM (SELECT slot_name AS name, active, wal_status,
               pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                    ELSE pg_current_wal_lsn() END, restart_lsn) AS retained_bytes
          FROM pg_replication_slots
         WHERE NOT temporary
         ORDER BY wal_status = 'lost' DESC NULLS LAST, 4 DESC NULLS LAST
         LIMIT 20) AS slot";

/// Times are NULL where it never failed, or never succeeded.
const ARCHIVER: &str = "
SELECT json_build_object(
  'enabled', current_setting('archive_mode') <> 'off',
  'failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
  'failed_count', failed_count,
  'since_success_seconds', extract(epoch FROM clock_timestamp() - last_archived_time))
  FROM pg_stat_get_archiver()";

/// Bounds of range partitions by a `timestamptz`, as epochs; the unbounded ends are null. A bound
/// has no column in it, so `pg_get_expr` is given no relation: given one, 17 and later would lock it.
/// Between its quotes stand the two instants. Lookups by key are sub-selects, so that no plan reads
/// the whole of `pg_class`.
fn partitions(watched: &[Watched]) -> String {
    if watched.is_empty() {
        return "SELECT '[]'".to_owned();
    }
    let wanted = watched
        .iter()
        .map(|w| format!("({}, {})", quote_literal(&w.schema), quote_literal(&w.table)))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "
SELECT coalesce(json_agg(json_build_object(
         'table', wanted.schema || '.' || wanted.name,
         'default', parent.partdefid <> 0,
         'bounds', (
           SELECT coalesce(json_agg(json_build_array(
                    CASE WHEN isfinite(low) THEN extract(epoch FROM low) END,
                    CASE WHEN isfinite(high) THEN extract(epoch FROM high) END)), '[]')
             FROM (SELECT pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), 0) AS bound
                     FROM pg_inherits
                    WHERE inhparent = parent.partrelid AND NOT inhdetachpending AND inhrelid <> parent.partdefid
                    LIMIT 1000) AS written,
                  LATERAL (
                    SELECT CASE WHEN bound LIKE 'FOR VALUES FROM (''%' THEN split_part(bound, '''', 2)
                                END::timestamptz AS low,
                           CASE WHEN bound LIKE '%'')' THEN split_part(bound, '''', -2)
                                END::timestamptz AS high) AS parsed))), '[]')
  FROM (VALUES {wanted}) AS wanted (schema, name)
  JOIN pg_partitioned_table AS parent ON parent.partrelid = (
         SELECT oid FROM pg_class
          WHERE relname = wanted.name
            AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = wanted.schema))
 WHERE parent.partstrat = 'r'
   AND parent.partnatts = 1
   AND (SELECT atttypid FROM pg_attribute WHERE attrelid = parent.partrelid AND attnum = parent.partattrs[0])
       = 'timestamptz'::regtype"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_is_one_bounded_read_only_transaction() {
        let sql = batch(&Part::ALL, &[], Duration::from_secs(3));
        assert!(
            sql.starts_with("BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; "),
            "{sql}"
        );
        assert!(sql.contains("SET LOCAL statement_timeout = 3000;"), "{sql}");
        assert!(sql.ends_with("COMMIT"), "{sql}");
        // 0 would mean "no bound".
        assert!(batch(&[], &[], Duration::ZERO).contains("statement_timeout = 1;"));
    }

    #[test]
    fn a_table_name_cannot_leave_its_quotes() {
        let hostile = Watched { schema: "s'); DROP TABLE t; --".into(), table: r"a\'b".into() };
        let sql = partitions(&[hostile]);
        assert!(sql.contains(r"('s''); DROP TABLE t; --', E'a\\''b')"), "{sql}");
    }
}
