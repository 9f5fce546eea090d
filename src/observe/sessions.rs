//! Who does what on the server now.

use tokio_postgres::types::Type;

use crate::db::{Conn, Error};

/// Who holds a transaction-level advisory lock on a 64-bit key, as a phrase for a person.
pub async fn advisory_lock_holder(conn: &Conn, key: i64) -> Result<Option<String>, Error> {
    // A 64-bit key stands in pg_locks as two halves with objsubid 1.
    const SQL: &str = "
        SELECT format('pid %s, %s%s, for %s s', a.pid, coalesce(nullif(a.application_name, ''), 'no application name'),
                      coalesce(' from ' || host(a.client_addr), ''),
                      extract(epoch FROM clock_timestamp() - a.xact_start)::int)
          FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.classid::bigint = (($1::bigint >> 32) & 4294967295) AND l.objid::bigint = ($1::bigint & 4294967295)
         LIMIT 1";
    Ok(conn
        .row_opt("find the holder of a lock", SQL, &[(&key, Type::INT8)])
        .await?
        .map(|row| row.get(0)))
}

/// Whether a server process is there, by its id and when it began (microseconds since 1970). One whose
/// beginning this role may not see counts as there: it may be the one.
pub async fn is_there(conn: &Conn, pid: i32, start_us: i64) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_stat_activity
             WHERE pid = $1 AND coalesce((extract(epoch FROM backend_start) * 1000000)::int8 = $2, true))";
    Ok(conn
        .row("look for a server process", SQL, &[(&pid, Type::INT4), (&start_us, Type::INT8)])
        .await?
        .get(0))
}
