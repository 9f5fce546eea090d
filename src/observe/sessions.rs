//! Looks up sessions and server processes.

use tokio_postgres::types::Type;

use crate::db::{Conn, Error};

/// Describes the session that holds a transaction-level advisory lock on a 64-bit key: its process
/// id, application, address and the age of its transaction. Returns `None` if nobody holds the
/// lock.
pub async fn advisory_lock_holder(conn: &Conn, key: i64) -> Result<Option<String>, Error> {
    // pg_locks shows a 64-bit key as two halves, with objsubid 1.
    const SQL: &str = "
        SELECT format('pid %s, %s%s, for %s s', a.pid,
                      coalesce(nullif(a.application_name, ''), 'no application name'),
                      coalesce(' from ' || host(a.client_addr), ''),
                      extract(epoch FROM clock_timestamp() - a.xact_start)::int)
          FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.classid::bigint = (($1::bigint >> 32) & 4294967295)
           AND l.objid::bigint = ($1::bigint & 4294967295)
         LIMIT 1";
    conn.read_opt("find the holder of a lock", SQL, &[(&key, Type::INT8)]).await
}

/// Returns whether the server process with this id and start time (microseconds since 1970) still
/// runs. A process whose start time this role may not see counts as running, because it may be the
/// same one.
pub async fn is_running(conn: &Conn, pid: i32, start_us: i64) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_stat_activity
             WHERE pid = $1
               AND coalesce((extract(epoch FROM backend_start) * 1000000)::int8 = $2, true))";
    let params = [(&pid as _, Type::INT4), (&start_us as _, Type::INT8)];
    conn.read_one("look for a server process", SQL, &params).await
}
