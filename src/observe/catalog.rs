//! The SQL of a snapshot. It requires PostgreSQL 14 (`pg_locks.waitstart`, `inhdetachpending`) and
//! reads newer facts in ways that an older server accepts too.
//!
//! Every part is one SELECT that returns one row with one JSON value. Names are pinned to
//! `pg_catalog`, and DateStyle and TimeZone to the values in which partition bounds are parsed.

use std::time::Duration;

use super::WatchedTable;
use crate::db::quote_literal;

/// One part of a snapshot.
#[derive(Debug)]
pub struct Part {
    /// The name in messages and in [`Unavailable::what`](super::Unavailable::what).
    pub name: &'static str,
    /// Without a required part there is no snapshot.
    pub required: bool,
    sql: &'static str,
    /// Views and functions that a fork may lack, or that an administrator may have closed to this
    /// role (`REVOKE … FROM PUBLIC`).
    pub needs: &'static [&'static str],
}

impl Part {
    const fn optional(
        name: &'static str,
        sql: &'static str,
        needs: &'static [&'static str],
    ) -> Part {
        Part { name, required: false, sql, needs }
    }

    /// The statement that reads the part. `{watched}` stands for the rows of the watched tables.
    pub fn sql(&self, watched: &[WatchedTable]) -> String {
        let rows: Vec<String> = watched
            .iter()
            .map(|w| format!("({}, {})", quote_literal(&w.schema), quote_literal(&w.table)))
            .collect();
        let rows = match rows.is_empty() {
            true => "SELECT ''::text, ''::text LIMIT 0".to_owned(),
            false => format!("VALUES {}", rows.join(", ")),
        };
        self.sql.replace("{watched}", &rows)
    }
}

pub const SERVER: &str = "server";
pub const SESSIONS: &str = "sessions";
pub const WRAPAROUND: &str = "wraparound";
pub const REPLICATION: &str = "replication";
pub const SLOTS: &str = "replication slots";
pub const ARCHIVER: &str = "archiver";
pub const PARTITIONS: &str = "partitions";

/// The parts of a snapshot, in the order in which they are read.
pub static PARTS: [Part; 7] = [
    Part { required: true, ..Part::optional(SERVER, SERVER_SQL, &[]) },
    Part { required: true, ..Part::optional(SESSIONS, SESSIONS_SQL, SESSIONS_NEEDS) },
    Part::optional(WRAPAROUND, WRAPAROUND_SQL, &["pg_database", "mxid_age(xid)"]),
    Part::optional(REPLICATION, REPLICATION_SQL, REPLICATION_NEEDS),
    Part::optional(SLOTS, SLOTS_SQL, SLOTS_NEEDS),
    Part::optional(ARCHIVER, ARCHIVER_SQL, &["pg_stat_get_archiver()"]),
    Part::optional(PARTITIONS, PARTITIONS_SQL, &["pg_inherits", "pg_partitioned_table"]),
];

/// Joins statements into one simple query: a read-only transaction that sets its own bounds.
///
/// The lock timeout concerns catalogs only (`VACUUM FULL pg_class` locks them). Half a second is
/// far longer than any other lock on them is held. `jit` is off because compiling a plan would cost
/// more than any of these statements takes.
pub fn read_only_batch(
    statements: impl Iterator<Item = impl AsRef<str>>,
    statement_timeout: Duration,
) -> String {
    let timeout_ms = statement_timeout.as_millis().clamp(1, i32::MAX as u128);
    let mut sql = format!(
        "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; \
         SET LOCAL statement_timeout = {timeout_ms}; SET LOCAL lock_timeout = 500; \
         SET LOCAL idle_in_transaction_session_timeout = 30000; SET LOCAL jit = off; \
         SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';\n"
    );
    for statement in statements {
        sql.push_str(statement.as_ref());
        sql.push_str(";\n");
    }
    sql.push_str("COMMIT");
    sql
}

/// `reserved_connections` exists since 16; with missing_ok it is read as 0 before.
const SERVER_SQL: &str = "
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

const SESSIONS_NEEDS: &[&str] = &[
    "pg_stat_get_activity(integer)",
    "pg_locks",
    "pg_blocking_pids(integer)",
    "pg_stat_get_progress_info(text)",
    "pg_prepared_xact()",
];

/// Counts client sessions only, because walsenders and workers have slots of their own since 12. A
/// session that is hidden from this role shows neither backend_type nor state. If it has a database
/// and a user, it counts as a client in the state `hidden`, never as idle.
///
/// Reading `pg_locks` locks every partition of the lock table at once, so it is read only if a
/// session waits for a lock, or if the wait events of some sessions are hidden. `pg_blocking_pids`
/// is called for one session, the longest waiter. VACUUM's transaction blocks nobody and may last
/// for hours, so it never counts as the oldest transaction. Planning takes most of the time, so
/// functions replace views that would join more than is needed.
const SESSIONS_SQL: &str = "
WITH client AS MATERIALIZED (
  SELECT pid,
         coalesce((SELECT datname FROM pg_database AS d WHERE d.oid = datid), '') AS datname,
         usesysid, application_name, xact_start, state_change, wait_event_type,
         CASE WHEN backend_type IS NULL THEN 'hidden' ELSE coalesce(state, 'starting') END AS state
    FROM pg_stat_get_activity(NULL)
   WHERE backend_type = 'client backend'
      OR (backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)
), counted AS (
  SELECT datname, state, count(*) AS sessions,
         sum(count(*)) OVER (PARTITION BY datname) AS total
    FROM client GROUP BY datname, state
), ranked AS (
  SELECT *, dense_rank() OVER (ORDER BY total DESC, datname) AS rank FROM counted
), grouped AS (
  SELECT CASE WHEN rank <= 64 THEN datname END AS database, state, sum(sessions)::int AS sessions
    FROM ranked GROUP BY 1, 2
), waiter AS MATERIALIZED (
  SELECT pid, waitstart
    FROM pg_locks
   WHERE NOT granted
     AND (SELECT bool_or(wait_event_type = 'Lock' OR state = 'hidden') FROM client)
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
                        'pid', blocker.pid, 'user', pg_get_userbyid(client.usesysid),
                        'application', client.application_name)), '[]')
                 FROM (SELECT DISTINCT unnest(pg_blocking_pids(longest.pid)) AS pid
                        LIMIT 8) AS blocker
                 LEFT JOIN client ON client.pid = blocker.pid))
      FROM longest),
  'oldest_transaction', (
    SELECT json_build_object(
             'pid', pid, 'user', pg_get_userbyid(usesysid), 'application', application_name,
             'database', datname, 'state', state,
             'seconds', extract(epoch FROM clock_timestamp() - xact_start))
      FROM client
     WHERE xact_start IS NOT NULL
       AND pid <> pg_backend_pid()
       AND NOT EXISTS (SELECT FROM pg_stat_get_progress_info('VACUUM') AS vacuum
                        WHERE vacuum.pid = client.pid)
     ORDER BY xact_start LIMIT 1),
  'oldest_idle_in_transaction', (
    SELECT json_build_object(
             'pid', pid, 'user', pg_get_userbyid(usesysid), 'application', application_name,
             'database', datname, 'state', state,
             'seconds', extract(epoch FROM clock_timestamp() - state_change))
      FROM client
     WHERE state LIKE 'idle in transaction%'
     ORDER BY state_change LIMIT 1),
  'oldest_prepared', (
    SELECT json_build_object('gid', gid,
                             'seconds', extract(epoch FROM clock_timestamp() - prepared))
      FROM pg_prepared_xact() ORDER BY prepared LIMIT 1))";

/// Reads every database, `template0` included: the first one that reaches the limit stops the
/// cluster.
const WRAPAROUND_SQL: &str = "
SELECT coalesce(json_agg(oldest), '[]')
  FROM (SELECT datname AS name, age(datfrozenxid) AS xid_age, mxid_age(datminmxid) AS mxid_age,
               datname = current_database() AS own
          FROM pg_database
         ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC
         LIMIT 20) AS oldest";

const REPLICATION_NEEDS: &[&str] = &[
    "pg_stat_replication",
    "pg_stat_wal_receiver",
    "pg_last_wal_receive_lsn()",
    "pg_last_wal_replay_lsn()",
    "pg_last_xact_replay_timestamp()",
    "pg_current_wal_lsn()",
];

/// A standby that has replayed everything it received has no lag, however old the last commit is.
/// This holds only while its WAL receiver runs, because a lost connection leaves nothing to replay
/// either.
const REPLICATION_SQL: &str = "
SELECT json_build_object(
  'standby', CASE WHEN pg_is_in_recovery() THEN (
    SELECT json_build_object(
             'receiver', receiver.pid IS NOT NULL,
             'receiver_status', receiver.status,
             'lag_seconds', CASE WHEN receiver.pid IS NOT NULL
                                  AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
                                 ELSE extract(epoch FROM clock_timestamp()
                                                         - pg_last_xact_replay_timestamp()) END)
      FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true) END,
  'replicas', (
    SELECT coalesce(json_agg(replica), '[]')
      FROM (SELECT application_name AS name, state, extract(epoch FROM replay_lag) AS lag_seconds,
                   CASE WHEN NOT pg_is_in_recovery()
                        THEN pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) END AS lag_bytes
              FROM pg_stat_replication
             ORDER BY replay_lag DESC NULLS LAST
             LIMIT 20) AS replica))";

const SLOTS_NEEDS: &[&str] =
    &["pg_replication_slots", "pg_current_wal_lsn()", "pg_last_wal_replay_lsn()"];

const SLOTS_SQL: &str = "
SELECT coalesce(json_agg(slot), '[]')
  FROM (SELECT slot_name AS name, active, wal_status,
               pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                    ELSE pg_current_wal_lsn() END, restart_lsn) AS retained_bytes
          FROM pg_replication_slots
         WHERE NOT temporary
         ORDER BY wal_status = 'lost' DESC NULLS LAST, 4 DESC NULLS LAST
         LIMIT 20) AS slot";

/// `last_failed_time` is NULL if no attempt ever failed, `last_archived_time` if none succeeded.
const ARCHIVER_SQL: &str = "
SELECT json_build_object(
  'enabled', current_setting('archive_mode') <> 'off',
  'failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
  'failed_count', failed_count,
  'since_success_seconds', extract(epoch FROM clock_timestamp() - last_archived_time))
  FROM pg_stat_get_archiver()";

/// Reads the bounds of range partitions by a `timestamptz` as epochs; unbounded ends are null.
///
/// A bound refers to no column, so `pg_get_expr` is called without the relation: with it, 17 and
/// later would lock the relation. The two instants are the quoted texts in the bound. Lookups by
/// key are sub-selects, so that no plan reads all of `pg_class`.
const PARTITIONS_SQL: &str = "
SELECT coalesce(json_agg(json_build_object(
         'table', watched.schema || '.' || watched.name,
         'default', parent.partdefid <> 0,
         'bounds', (
           SELECT coalesce(json_agg(json_build_array(
                    CASE WHEN isfinite(low) THEN extract(epoch FROM low) END,
                    CASE WHEN isfinite(high) THEN extract(epoch FROM high) END)), '[]')
             FROM (SELECT pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), 0)
                            AS bound
                     FROM pg_inherits
                    WHERE inhparent = parent.partrelid AND NOT inhdetachpending
                      AND inhrelid <> parent.partdefid
                    LIMIT 1000) AS written,
                  LATERAL (
                    SELECT CASE WHEN bound LIKE 'FOR VALUES FROM (''%'
                                THEN split_part(bound, '''', 2) END::timestamptz AS low,
                           CASE WHEN bound LIKE '%'')'
                                THEN split_part(bound, '''', -2) END::timestamptz AS high
                    ) AS parsed))), '[]')
  FROM ({watched}) AS watched (schema, name)
  JOIN pg_partitioned_table AS parent ON parent.partrelid = (
         SELECT oid FROM pg_class
          WHERE relname = watched.name
            AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = watched.schema))
 WHERE parent.partstrat = 'r'
   AND parent.partnatts = 1
   AND (SELECT atttypid FROM pg_attribute
         WHERE attrelid = parent.partrelid AND attnum = parent.partattrs[0])
       = 'timestamptz'::regtype";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_is_one_bounded_read_only_transaction() {
        let statements = PARTS.iter().map(|part| part.sql(&[]));
        let sql = read_only_batch(statements, Duration::from_secs(3));
        assert!(
            sql.starts_with("BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; "),
            "{sql}"
        );
        assert!(sql.contains("SET LOCAL statement_timeout = 3000;"), "{sql}");
        assert!(sql.ends_with("COMMIT"), "{sql}");
        // 0 would mean "no bound".
        let sql = read_only_batch(["SELECT 1"].iter(), Duration::ZERO);
        assert!(sql.contains("statement_timeout = 1;"), "{sql}");
    }

    #[test]
    fn a_table_name_cannot_leave_its_quotes() {
        let schema = "s'); DROP TABLE t; --".into();
        let hostile = WatchedTable { schema, table: r"a\'b".into() };
        let sql = PARTS[6].sql(&[hostile]);
        assert!(sql.contains(r"('s''); DROP TABLE t; --', E'a\\''b')"), "{sql}");
    }
}
