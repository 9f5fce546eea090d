//! Rows of the audit trail that pgsteward writes about its own acts.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::{NoContext, Timestamp, Uuid};

use crate::db::{Conn, Error, Tx, TxOptions, quote_literal};

/// Something that pgsteward did.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// `job:retention`, `cli:root` …
    pub actor: &'a str,
    /// `retention.purge` …
    pub action: &'a str,
    /// `table`, `partition` …
    pub resource_type: &'a str,
    /// `schema.table`
    pub resource_id: &'a str,
    /// What it was before, where the act changed something that has values.
    pub old_values: Option<&'a Value>,
    /// And after.
    pub new_values: Option<&'a Value>,
    /// What was done, in full.
    pub details: Option<&'a Value>,
    /// From where it was asked for, where somebody asked from elsewhere.
    pub origin: Option<&'a Origin>,
}

/// From where a caller asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The application's user, where the caller is one.
    pub user_id: Option<String>,
    pub ip_address: Option<IpAddr>,
    /// At most 512 characters.
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
}

impl<'a> Event<'a> {
    /// An act that is told by its details.
    pub fn new(
        actor: &'a str,
        action: &'a str,
        resource_type: &'a str,
        resource_id: &'a str,
        details: &'a Value,
    ) -> Event<'a> {
        Event {
            actor,
            action,
            resource_type,
            resource_id,
            old_values: None,
            new_values: None,
            details: Some(details),
            origin: None,
        }
    }

    /// The same, asked for from there.
    pub fn from(self, origin: &'a Origin) -> Event<'a> {
        Event { origin: Some(origin), ..self }
    }
}

/// Writes the event in the transaction of the act itself, so that both commit or neither. The id bears
/// the time of the row: one reading of the clock serves both.
pub async fn record(tx: &Tx<'_>, event: &Event<'_>) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO steward.audit_logs
               (id, created_at, actor, action, resource_type, resource_id, old_values, new_values, details,
                user_id, ip_address, user_agent, request_id, source)
        SELECT steward.uuid_v7(c.at), c.at, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pgsteward'
          FROM (SELECT clock_timestamp() AS at) c";
    let of = |part: fn(&Origin) -> Option<&str>| event.origin.and_then(part);
    let (user, agent) = (of(|from| from.user_id.as_deref()), of(|from| from.user_agent.as_deref()));
    let (request, address) =
        (of(|from| from.request_id.as_deref()), event.origin.and_then(|from| from.ip_address));
    let params: [crate::db::Param<'_>; 11] = [
        (&event.actor, Type::TEXT),
        (&event.action, Type::TEXT),
        (&event.resource_type, Type::TEXT),
        (&event.resource_id, Type::TEXT),
        (&event.old_values, Type::JSONB),
        (&event.new_values, Type::JSONB),
        (&event.details, Type::JSONB),
        (&user, Type::TEXT),
        (&address, Type::INET),
        (&agent, Type::TEXT),
        (&request, Type::TEXT),
    ];
    tx.execute("write audit row", SQL, &params).await?;
    Ok(())
}

/// Whether there is a trail to write into.
pub async fn exists(tx: &Tx<'_>) -> Result<bool, Error> {
    let sql = "SELECT to_regclass('steward.audit_logs') IS NOT NULL";
    Ok(tx.row("look for the audit trail", sql, &[]).await?.get(0))
}

/// The same as one statement of text, for a transaction that is one simple query: a migration's. Writes nothing
/// where there is no trail, before the migration that makes it and after the rollback that takes it away.
pub fn record_sql(event: &Event<'_>) -> String {
    let json = |value: Option<&Value>| {
        value.map_or("NULL".to_owned(), |value| quote_literal(&value.to_string()))
    };
    let body = format!(
        "BEGIN \
         IF pg_catalog.to_regclass('steward.audit_logs') IS NOT NULL THEN \
         INSERT INTO steward.audit_logs \
         (id, created_at, actor, action, resource_type, resource_id, old_values, new_values, details, source) \
         SELECT steward.uuid_v7(c.at), c.at, {}, {}, {}, {}, {}::jsonb, {}::jsonb, {}::jsonb, 'pgsteward' \
         FROM (SELECT pg_catalog.clock_timestamp() AS at) c; \
         END IF; END",
        quote_literal(event.actor),
        quote_literal(event.action),
        quote_literal(event.resource_type),
        quote_literal(event.resource_id),
        json(event.old_values),
        json(event.new_values),
        json(event.details),
    );
    // Quoted as a literal, not by dollars, which an actor's name could hold.
    format!("DO {};", quote_literal(&body))
}

/// An event that may be written later than it happened, with everything that its row will have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub resource_type: String,
    pub resource_id: String,
    pub old_values: Option<Value>,
    pub new_values: Option<Value>,
    pub details: Option<Value>,
    #[serde(default)]
    pub ip_address: Option<IpAddr>,
    #[serde(default)]
    pub user_agent: Option<String>,
}

impl EventRow {
    /// As it happened at an instant, which the id bears to the millisecond: who has only the id finds the
    /// row by it.
    pub fn new(at: DateTime<Utc>, event: &Event<'_>) -> EventRow {
        let created_at = at.trunc_subsecs(6);
        // No clock of ours is before 1970.
        let seconds = u64::try_from(created_at.timestamp()).unwrap_or_default();
        let bears = Timestamp::from_unix(NoContext, seconds, created_at.timestamp_subsec_nanos());
        EventRow {
            id: Uuid::new_v7(bears),
            created_at,
            actor: event.actor.to_owned(),
            action: event.action.to_owned(),
            resource_type: event.resource_type.to_owned(),
            resource_id: event.resource_id.to_owned(),
            old_values: event.old_values.cloned(),
            new_values: event.new_values.cloned(),
            details: event.details.cloned(),
            ip_address: event.origin.and_then(|origin| origin.ip_address),
            user_agent: event.origin.and_then(|origin| origin.user_agent.clone()),
        }
    }
}

/// Writes an event that happened before. Returns 0 where it is written already.
pub async fn insert(tx: &Tx<'_>, row: &EventRow) -> Result<u64, Error> {
    const SQL: &str = "
        INSERT INTO steward.audit_logs
               (id, created_at, actor, action, resource_type, resource_id, old_values, new_values, details,
                ip_address, user_agent, source)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pgsteward')
            ON CONFLICT DO NOTHING";
    let params: [crate::db::Param<'_>; 11] = [
        (&row.id, Type::UUID),
        (&row.created_at, Type::TIMESTAMPTZ),
        (&row.actor, Type::TEXT),
        (&row.action, Type::TEXT),
        (&row.resource_type, Type::TEXT),
        (&row.resource_id, Type::TEXT),
        (&row.old_values, Type::JSONB),
        (&row.new_values, Type::JSONB),
        (&row.details, Type::JSONB),
        (&row.ip_address, Type::INET),
        (&row.user_agent, Type::TEXT),
    ];
    tx.execute("write an audit row that waited", SQL, &params).await
}

/// The same for several, in a transaction of their own.
pub async fn insert_all(conn: &mut Conn, rows: &[EventRow], bound: Duration) -> Result<(), Error> {
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            for row in rows {
                insert(tx, row).await?;
            }
            Ok(())
        })
    })
    .await
}

/// How the trail stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditStatus {
    /// Statements that row audit could not record, as the database counts them.
    pub losses: i64,
    /// The newest entry of the chain, and when it was made.
    pub seal: Option<(i64, DateTime<Utc>)>,
    /// When the oldest row that is not sealed was written.
    pub unsealed_since: Option<DateTime<Utc>>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// What audited tables lack.
    pub gaps: Vec<TriggerGap>,
}

/// A trigger that an audited table ought to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerGap {
    /// The table that is audited.
    pub table: String,
    /// It, or one beneath it; its number where it is gone.
    pub relation: String,
    /// None where the table is gone.
    pub trigger: Option<String>,
    /// `missing`, `disabled`, `not always`, `the table is gone`
    pub problem: String,
}

/// Reads how the trail stands.
pub async fn read_status(conn: &mut Conn, bound: Duration) -> Result<AuditStatus, Error> {
    // The first in the order of sealing: how many there are would be a walk over all of them. What a restore
    // brought is older than its adoption, and what claims an id that is yet to come is for `audit verify`.
    const STANDING: &str = "
        SELECT (SELECT last_value FROM steward.audit_losses), newest.number, newest.sealed_at, clock_timestamp(),
               (SELECT l.created_at FROM steward.audit_logs l
                 WHERE (l.xid, l.id) >= (coalesce(below.xid_below, '0'), coalesce(below.id_below, '00000000-0000-0000-0000-000000000000'))
                   AND l.xid < pg_snapshot_xmax(pg_current_snapshot())
                   AND l.created_at > coalesce((SELECT sealed_at FROM steward.audit_seals WHERE kind = 'adopted'
                                                 ORDER BY number DESC LIMIT 1), '-infinity')
                 ORDER BY l.xid, l.id LIMIT 1)
          FROM (VALUES (1)) one
          LEFT JOIN LATERAL (SELECT number, sealed_at FROM steward.audit_seals ORDER BY number DESC LIMIT 1) newest ON true
          LEFT JOIN LATERAL (SELECT xid_below, id_below FROM steward.audit_seals
                              WHERE kind <> 'purge' ORDER BY number DESC LIMIT 1) below ON true";
    const GAPS: &str =
        "SELECT table_name, relation, trigger_name, problem FROM steward.audit_gaps() LIMIT 1000";
    let mut options = TxOptions::within(bound).read_only();
    // By the index, also when the planner has not heard yet of what a bulk change added; and to compile a plan would
    // take a hundred times as long as to run it.
    options.prelude.push_str(
        "SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off; ",
    );
    conn.transaction(&options, |tx| {
        Box::pin(async move {
            let row = tx.row("read how the audit trail stands", STANDING, &[]).await?;
            let number: Option<i64> = row.get(1);
            let gaps = tx.rows("look for gaps of the audit trail", GAPS, &[]).await?;
            Ok(AuditStatus {
                losses: row.get(0),
                seal: number.zip(row.get(2)),
                unsealed_since: row.get(4),
                now: row.get(3),
                gaps: gaps.iter().map(gap).collect(),
            })
        })
    })
    .await
}

fn gap(row: &Row) -> TriggerGap {
    TriggerGap { table: row.get(0), relation: row.get(1), trigger: row.get(2), problem: row.get(3) }
}
