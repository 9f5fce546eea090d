//! Rows of the audit trail that pgsteward writes about its own acts.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, Tx, TxOptions};

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
    /// What was done, in full.
    pub details: &'a Value,
}

/// Writes the event in the transaction of the act itself, so that both commit or neither.
pub async fn record(tx: &Tx<'_>, event: &Event<'_>) -> Result<(), Error> {
    let sql = "
        INSERT INTO steward.audit_logs (actor, action, resource_type, resource_id, details, source)
        VALUES ($1, $2, $3, $4, $5, 'pgsteward')";
    let params: [crate::db::Param<'_>; 5] = [
        (&event.actor, Type::TEXT),
        (&event.action, Type::TEXT),
        (&event.resource_type, Type::TEXT),
        (&event.resource_id, Type::TEXT),
        (event.details, Type::JSONB),
    ];
    tx.execute("write audit row", sql, &params).await?;
    Ok(())
}

/// How many statements row audit could not record, as the database counts them.
pub async fn losses(conn: &mut Conn, bound: Duration) -> Result<i64, Error> {
    let sql = "SELECT last_value FROM steward.audit_losses";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move { Ok(tx.row("read the losses of the audit trail", sql, &[]).await?.get(0)) })
    })
    .await
}
