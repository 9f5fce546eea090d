//! Legal holds: rows of the audit trail that are not purged.
//!
//! A hold that is placed holds for every row that is still there. That rests on locks: whoever places or
//! releases one has ROW EXCLUSIVE of `audit_holds` until the commit, and each transaction that purges takes
//! SHARE ([`lock_against_changes`]) before it looks for holds, so that the second of them waits for the first. It needs
//! READ COMMITTED ([`purge_options`]): a snapshot from before the lock would miss what was committed while it was
//! waited for.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::audit::{self, Event};
use crate::db::{Error, Kind, Param, Tx, TxOptions};

/// Unreleased holds at once: each row that is purged is held against each of them.
const HOLDS_MAX: i64 = 1_000;
/// Holds listed at once, the newest of them.
const LISTED_MAX: i64 = 10_000;

/// True of a row `t` that no hold covers.
pub const NOT_HELD: &str = "NOT EXISTS (
    SELECT FROM steward.audit_holds h
     WHERE h.released_at IS NULL
       AND (h.user_id IS NULL OR h.user_id = t.user_id)
       AND (h.resource_type IS NULL OR h.resource_type = t.resource_type)
       AND (h.resource_id IS NULL OR h.resource_id = t.resource_id)
       AND (h.begins_at IS NULL OR h.begins_at <= t.created_at)
       AND (h.ends_at IS NULL OR t.created_at < h.ends_at))";

/// True of a row `t` that the hold of these parameters covers. Of one hold the conditions are constants to
/// the planner, so that the trail's indexes serve.
const COVERED: &str = "($1::text IS NULL OR t.user_id = $1)
       AND ($2::text IS NULL OR t.resource_type = $2)
       AND ($3::text IS NULL OR t.resource_id = $3)
       AND ($4::timestamptz IS NULL OR t.created_at >= $4)
       AND ($5::timestamptz IS NULL OR t.created_at < $5)";

/// What a hold covers: rows that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Only with a type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// Inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins_at: Option<DateTime<Utc>>,
    /// Exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
}

impl Scope {
    fn params(&self) -> [Param<'_>; 5] {
        [
            (&self.user_id, Type::TEXT),
            (&self.resource_type, Type::TEXT),
            (&self.resource_id, Type::TEXT),
            (&self.begins_at, Type::TIMESTAMPTZ),
            (&self.ends_at, Type::TIMESTAMPTZ),
        ]
    }

    fn read(row: &Row) -> Scope {
        Scope {
            user_id: row.get(0),
            resource_type: row.get(1),
            resource_id: row.get(2),
            begins_at: row.get(3),
            ends_at: row.get(4),
        }
    }
}

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub id: Uuid,
    #[serde(flatten)]
    pub scope: Scope,
    pub reason: String,
    pub placed_by: String,
    pub placed_at: DateTime<Utc>,
    pub released_by: Option<String>,
    pub released_at: Option<DateTime<Utc>>,
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseResult {
    Released,
    AlreadyReleased { by: String, at: DateTime<Utc> },
    Unknown,
}

/// Options for a transaction that purges, or that looks for holds. Without the second setting, row security
/// would hide holds from a role that does not own them.
pub fn purge_options(options: TxOptions) -> TxOptions {
    let mut options = options.read_committed();
    options.prelude.push_str("SET LOCAL row_security = off; ");
    options
}

/// Keeps holds as they are until the end of a transaction that purges.
pub async fn lock_against_changes(tx: &Tx<'_>) -> Result<(), Error> {
    let sql = "LOCK TABLE steward.audit_holds IN SHARE MODE";
    tx.batch("wait for a hold that is being placed or released", sql).await
}

/// Comes first in a transaction that changes holds.
async fn change(tx: &Tx<'_>) -> Result<(), Error> {
    let sql = "LOCK TABLE steward.audit_holds IN ROW EXCLUSIVE MODE";
    tx.batch("wait for the transaction that purges the audit trail", sql).await
}

/// Places a hold. From its commit on, no row that it covers is purged any more.
///
/// # Errors
/// [`Kind::LockTimeout`] where a purge under way does not end in time; [`Kind::Sql`] where there are too many
/// holds.
pub async fn place(tx: &Tx<'_>, scope: &Scope, reason: &str, by: &str) -> Result<Uuid, Error> {
    let sql = "
        INSERT INTO steward.audit_holds
               (user_id, resource_type, resource_id, begins_at, ends_at, id, reason, placed_by)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8
         WHERE (SELECT count(*) FROM steward.audit_holds WHERE released_at IS NULL) < $9";
    let id = Uuid::now_v7();
    change(tx).await?;
    let mut params = scope.params().to_vec();
    params.push((&id, Type::UUID));
    params.push((&reason, Type::TEXT));
    params.push((&by, Type::TEXT));
    params.push((&HOLDS_MAX, Type::INT8));
    if tx.execute("place a hold", sql, &params).await? == 0 {
        let what =
            format!("found {HOLDS_MAX} holds in force, which is the most: release one first");
        return Err(Error::new(Kind::Sql, what));
    }
    record(tx, "audit.hold_placed", id, scope, reason, by).await?;
    Ok(id)
}

/// Releases a hold: what it alone kept is purged by the next run of retention.
///
/// # Errors
/// [`Kind::LockTimeout`] where a purge under way does not end in time.
pub async fn release(
    tx: &Tx<'_>,
    id: Uuid,
    reason: &str,
    by: &str,
) -> Result<ReleaseResult, Error> {
    const RELEASE: &str = "
        UPDATE steward.audit_holds SET released_by = $2, released_at = clock_timestamp()
         WHERE id = $1 AND released_at IS NULL
        RETURNING user_id, resource_type, resource_id, begins_at, ends_at";
    const BEFORE: &str = "SELECT released_by, released_at FROM steward.audit_holds WHERE id = $1";
    change(tx).await?;
    if let Some(row) =
        tx.row_opt("release a hold", RELEASE, &[(&id, Type::UUID), (&by, Type::TEXT)]).await?
    {
        record(tx, "audit.hold_released", id, &Scope::read(&row), reason, by).await?;
        return Ok(ReleaseResult::Released);
    }
    let row = tx.row_opt("read a hold", BEFORE, &[(&id, Type::UUID)]).await?;
    Ok(row.map_or(ReleaseResult::Unknown, |row| ReleaseResult::AlreadyReleased {
        by: row.get(0),
        at: row.get(1),
    }))
}

async fn record(
    tx: &Tx<'_>,
    action: &str,
    id: Uuid,
    scope: &Scope,
    reason: &str,
    by: &str,
) -> Result<(), Error> {
    let mut details = json!(scope);
    details["reason"] = reason.into();
    let (id, details) = (&id.to_string(), &details);
    audit::record(tx, &Event::new(by, action, "audit_hold", id, details)).await
}

/// The holds in force, or all, oldest first.
pub async fn list(tx: &Tx<'_>, all: bool) -> Result<Vec<Hold>, Error> {
    let sql = "
        SELECT user_id, resource_type, resource_id, begins_at, ends_at, id, reason, placed_by, placed_at,
               released_by, released_at
          FROM steward.audit_holds
         WHERE $1 OR released_at IS NULL ORDER BY placed_at DESC, id DESC LIMIT $2";
    let rows = tx.rows("list holds", sql, &[(&all, Type::BOOL), (&LISTED_MAX, Type::INT8)]).await?;
    Ok(rows.iter().rev().map(hold).collect())
}

fn hold(row: &Row) -> Hold {
    Hold {
        scope: Scope::read(row),
        id: row.get(5),
        reason: row.get(6),
        placed_by: row.get(7),
        placed_at: row.get(8),
        released_by: row.get(9),
        released_at: row.get(10),
    }
}

/// How many rows a scope covers now, counted up to `limit`.
pub async fn count_covered(tx: &Tx<'_>, scope: &Scope, limit: i64) -> Result<i64, Error> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM steward.audit_logs t WHERE {COVERED} LIMIT $6) covered"
    );
    let mut params = scope.params().to_vec();
    params.push((&limit, Type::INT8));
    Ok(tx.row("count the rows of a hold", &sql, &params).await?.get(0))
}

/// Whether a table of the trail, `"schema"."table"`, has a row on hold.
pub async fn has_held_rows(tx: &Tx<'_>, quoted: &str) -> Result<bool, Error> {
    let sql = format!("SELECT EXISTS (SELECT FROM {quoted} t WHERE {COVERED})");
    for hold in list(tx, false).await? {
        if tx.row("look for rows on hold", &sql, &hold.scope.params()).await?.get(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The cutoff as an instant, and how many rows before it no hold covers, counted up to `limit`.
pub async fn count_due(
    tx: &Tx<'_>,
    cutoff: &str,
    limit: i64,
) -> Result<(DateTime<Utc>, i64), Error> {
    let sql = format!(
        "SELECT $1::timestamptz, (SELECT count(*) FROM (
             SELECT FROM steward.audit_logs t WHERE t.created_at < $1::timestamptz AND {NOT_HELD} LIMIT $2) due)"
    );
    let row =
        tx.row("count what is due", &sql, &[(&cutoff, Type::TEXT), (&limit, Type::INT8)]).await?;
    Ok((row.get(0), row.get(1)))
}

/// How many rows before the cutoff are on hold, counted up to `limit`, and how many holds are in force.
pub async fn count_held(tx: &Tx<'_>, cutoff: &str, limit: i64) -> Result<(i64, i64), Error> {
    let sql = format!(
        "SELECT (SELECT count(*) FROM (
             SELECT FROM steward.audit_logs t WHERE t.created_at < $1::timestamptz AND NOT ({NOT_HELD}) LIMIT $2) kept),
                (SELECT count(*) FROM steward.audit_holds WHERE released_at IS NULL)"
    );
    let row = tx
        .row("count what is on hold", &sql, &[(&cutoff, Type::TEXT), (&limit, Type::INT8)])
        .await?;
    Ok((row.get(0), row.get(1)))
}
