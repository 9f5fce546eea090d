//! Reading the audit trail: in the order in which it is sealed, by id, and what a seal may take.

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Error, Kind, Param, Tx, TxOptions};

/// A row of the trail, as it was read: nothing is copied out of it.
#[derive(Debug)]
pub struct AuditRow {
    row: Row,
    created_at: DateTime<Utc>,
}

/// A place in the order of sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealPosition {
    pub xid: u64,
    pub id: Uuid,
}

impl SealPosition {
    /// Before every row.
    pub const FIRST: SealPosition = SealPosition { xid: 0, id: Uuid::nil() };

    /// Before everything of a transaction.
    pub fn before(xid: u64) -> SealPosition {
        SealPosition { xid, id: Uuid::nil() }
    }
}

/// How many fields follow `id` and `created_at`.
const TEXTS: usize = 14;
const XID: usize = 12;

/// As they are hashed: every field but the first two as text.
const COLUMNS: &str = "l.id, l.created_at, l.user_id, l.actor, l.session_user_name, l.action, l.resource_type,
        l.resource_id, l.old_values::text, l.new_values::text, l.ip_address::text, l.user_agent, l.request_id,
        l.source, l.xid::text, l.details::text";

impl AuditRow {
    /// An error where the time is none (`infinity`), which no writer of ours can have made.
    fn read(row: Row) -> Result<AuditRow, Error> {
        let id: Uuid = row.get(0);
        let malformed = |error| Error::from_pg(format!("read the time of event {id}"), error);
        let created_at = row.try_get(1).map_err(malformed)?;
        Ok(AuditRow { row, created_at })
    }

    /// The id.
    pub fn id(&self) -> Uuid {
        self.row.get(0)
    }

    /// When it was written.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// The same in microseconds since 1970.
    pub fn created_at_us(&self) -> i64 {
        self.created_at().timestamp_micros()
    }

    /// The fields after these two, in the order of the table.
    pub fn texts(&self) -> impl Iterator<Item = Option<&str>> {
        (0..TEXTS).map(|index| self.row.get(2 + index))
    }

    /// The transaction that wrote it.
    ///
    /// # Errors
    /// A number that is none.
    pub fn xid(&self) -> Result<u64, Error> {
        let text: &str = self.row.get(2 + XID);
        text.parse()
            .map_err(|_| Error::new(Kind::Protocol, format!("found transaction id {text:?}")))
    }

    /// Its place in the order of sealing.
    ///
    /// # Errors
    /// As [`AuditRow::xid`].
    pub fn position(&self) -> Result<SealPosition, Error> {
        Ok(SealPosition { xid: self.xid()?, id: self.id() })
    }
}

/// The server's transactions at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// Every transaction below has ended, prepared ones too.
    pub xmin: u64,
    /// No transaction from here on has begun.
    pub xmax: u64,
    pub now: DateTime<Utc>,
}

/// Reads the horizon. What is read afterwards shows every row that was ever committed below `xmin`.
pub async fn horizon(tx: &Tx<'_>) -> Result<Horizon, Error> {
    let sql = "
        SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, clock_timestamp()
          FROM pg_current_snapshot() s";
    let row = tx.row("read the horizon of transactions", sql, &[]).await?;
    Ok(Horizon { xmin: number(row.get(0))?, xmax: number(row.get(1))?, now: row.get(2) })
}

fn number(text: &str) -> Result<u64, Error> {
    text.parse()
        .map_err(|_| Error::new(Kind::Protocol, format!("found {text:?}, wanted a transaction id")))
}

/// In which life of the server transaction ids are counted: its system identifier and timeline.
pub async fn epoch(tx: &Tx<'_>) -> Result<String, Error> {
    // The name of the current WAL file begins with the timeline, also right after a promotion, when the
    // control file still has the former one.
    let sql = "
        SELECT system_identifier || '/' ||
               ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
          FROM pg_control_system()";
    Ok(tx.row("read the server's identity", sql, &[]).await?.get(0))
}

/// Options for reading in the order of sealing: by the index on `(xid, id)`, whatever the statistics say. The
/// planner does not know yet what a bulk change has just added. With `row_security` off PostgreSQL raises an error
/// where a policy would hide rows; otherwise a seal would pass them over.
pub fn by_index(mut options: TxOptions) -> TxOptions {
    options.prelude.push_str("SET LOCAL row_security = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off; ");
    options
}

/// Gives the rows from one place up to another, in the order of sealing and one by one; without those that the
/// seals `but_of` hold.
pub async fn range(
    tx: &Tx<'_>,
    (from, below): (SealPosition, SealPosition),
    but_of: &[i64],
    limit: i64,
    with: impl FnMut(AuditRow) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    let but = if but_of.is_empty() {
        ""
    } else {
        "AND NOT EXISTS (SELECT FROM unnest($6::bigint[]) s CROSS JOIN LATERAL steward.audit_sealed_ids(s) i (id)
                          WHERE i.id = l.id)"
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_logs l
          WHERE (l.xid, l.id) >= ($1::text::xid8, $2) AND (l.xid, l.id) < ($3::text::xid8, $4) {but}
          ORDER BY l.xid, l.id LIMIT $5"
    );
    let (xid_from, xid_below) = (from.xid.to_string(), below.xid.to_string());
    let params: [Param<'_>; 6] = [
        (&xid_from, Type::TEXT),
        (&from.id, Type::UUID),
        (&xid_below, Type::TEXT),
        (&below.id, Type::UUID),
        (&limit, Type::INT8),
        (&but_of, Type::INT8_ARRAY),
    ];
    let used = if but_of.is_empty() { 5 } else { 6 };
    each(tx, "read the trail in order", &sql, &params[..used], with).await
}

async fn each(
    tx: &Tx<'_>,
    what: &'static str,
    sql: &str,
    params: &[Param<'_>],
    mut with: impl FnMut(AuditRow) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    tx.each_row(what, sql, params, |row| with(AuditRow::read(row)?)).await
}

/// Gives the rows that no seal holds and that no transaction now under way can have written, in the order of
/// sealing.
pub async fn unsealed(
    tx: &Tx<'_>,
    horizon: &Horizon,
    limit: i64,
    with: impl FnMut(AuditRow) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_logs l
          WHERE (l.xid < $1::text::xid8 OR l.xid >= $2::text::xid8)
            AND NOT EXISTS (SELECT FROM steward.audit_leaves s CROSS JOIN LATERAL steward.audit_sealed_ids(s.seal) i (id)
                             WHERE i.id = l.id)
          ORDER BY l.xid, l.id LIMIT $3"
    );
    let (xmin, xmax) = (horizon.xmin.to_string(), horizon.xmax.to_string());
    let params: [Param<'_>; 3] = [(&xmin, Type::TEXT), (&xmax, Type::TEXT), (&limit, Type::INT8)];
    each(tx, "read what no seal holds", &sql, &params, with).await
}

/// Rows by their ids, in any order.
pub async fn by_ids(
    tx: &Tx<'_>,
    ids: &[Uuid],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<AuditRow>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_logs l WHERE l.created_at BETWEEN $2 AND $3 AND l.id = ANY ($1)"
    );
    let params: [Param<'_>; 3] =
        [(&ids, Type::UUID_ARRAY), (&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ)];
    tx.rows("read rows by their ids", &sql, &params)
        .await?
        .into_iter()
        .map(AuditRow::read)
        .collect()
}

/// A row by its id. A version 7 id begins with the time of its row, to the millisecond, so that one partition
/// and its primary key answer; any other id is looked for everywhere.
pub async fn by_id(tx: &Tx<'_>, id: Uuid) -> Result<Option<AuditRow>, Error> {
    let at = id.get_timestamp().filter(|_| id.get_version_num() == 7).map(|at| at.to_unix());
    let from = at
        .and_then(|(seconds, nanos)| DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos));
    if let Some(from) = from {
        let row = by_ids(tx, &[id], from, from + TimeDelta::milliseconds(1)).await?.pop();
        if row.is_some() {
            return Ok(row);
        }
    }
    Ok(anywhere(tx, &[id]).await?.pop())
}

/// Rows by their ids, wherever they are: reads the whole trail.
pub async fn anywhere(tx: &Tx<'_>, ids: &[Uuid]) -> Result<Vec<AuditRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM steward.audit_logs l WHERE l.id = ANY ($1)");
    let rows =
        tx.rows("look for rows in the whole trail", &sql, &[(&ids, Type::UUID_ARRAY)]).await?;
    rows.into_iter().map(AuditRow::read).collect()
}

/// What is not sealed yet, from a transaction on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    pub rows: i64,
    pub oldest_at: Option<DateTime<Utc>>,
    /// Rows that claim a transaction which has not begun.
    pub from_the_future: i64,
}

/// Counts what is not sealed yet.
pub async fn count_unsealed(
    tx: &Tx<'_>,
    from: SealPosition,
    horizon: &Horizon,
    but_of: &[i64],
) -> Result<Unsealed, Error> {
    let sql = "
        SELECT count(*), min(l.created_at), count(*) FILTER (WHERE l.xid >= $2::text::xid8)
          FROM steward.audit_logs l
         WHERE (l.xid, l.id) >= ($1::text::xid8, $4)
           AND NOT EXISTS (SELECT FROM unnest($3::bigint[]) s CROSS JOIN LATERAL steward.audit_sealed_ids(s) i (id)
                            WHERE i.id = l.id)";
    let (xid, xmax) = (from.xid.to_string(), horizon.xmax.to_string());
    let params: [Param<'_>; 4] = [
        (&xid, Type::TEXT),
        (&xmax, Type::TEXT),
        (&but_of, Type::INT8_ARRAY),
        (&from.id, Type::UUID),
    ];
    let row = tx.row("count what is not sealed", sql, &params).await?;
    Ok(Unsealed { rows: row.get(0), oldest_at: row.get(1), from_the_future: row.get(2) })
}

/// Counts what no seal holds, wherever it is: reads the whole trail.
pub async fn count_unadopted(tx: &Tx<'_>) -> Result<Unsealed, Error> {
    let sql = "
        SELECT count(*), min(l.created_at) FROM steward.audit_logs l
         WHERE NOT EXISTS (SELECT FROM steward.audit_leaves s CROSS JOIN LATERAL steward.audit_sealed_ids(s.seal) i (id)
                            WHERE i.id = l.id)";
    let row = tx.row("count what no seal holds", sql, &[]).await?;
    Ok(Unsealed { rows: row.get(0), oldest_at: row.get(1), from_the_future: 0 })
}
