//! Rows of `steward.system_health` and `steward.connection_metrics`, and what the audit trail tells
//! of them.
//!
//! Each row carries its id and the instant of the measurement: written again after an answer was
//! lost, or from the spool, it is refused by its key, not doubled.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::audit::{self, EventRow};
use crate::db::{Conn, Error, Fault, Tx, TxOptions};

/// A row of one of the tables.
#[derive(Debug, Clone, PartialEq)]
pub enum MeasurementRow {
    Health(HealthRow),
    Connections(Box<ConnectionRow>),
    /// The status of the whole has changed.
    Event(Box<EventRow>),
}

impl MeasurementRow {
    /// When it was measured.
    pub fn created_at(&self) -> DateTime<Utc> {
        match self {
            MeasurementRow::Health(row) => row.created_at,
            MeasurementRow::Connections(row) => row.created_at,
            MeasurementRow::Event(row) => row.created_at,
        }
    }
}

/// The result of [`insert_accepted`].
#[derive(Debug, Default)]
pub struct InsertReport {
    /// Rows that were written. Rows that were there already are not counted.
    pub written: u64,
    /// Rows that the server refused, by their place, each with its error.
    pub refused: Vec<(usize, Error)>,
}

/// Writes rows in one transaction. Returns how many were written; rows that were there already are
/// not counted. `within` bounds each statement, on the server.
///
/// # Errors
/// The server's. Nothing is written then, unless the answer to the commit was lost.
pub async fn insert(
    conn: &mut Conn,
    rows: &[MeasurementRow],
    within: Duration,
) -> Result<u64, Error> {
    conn.transaction(&TxOptions::within(within), |tx| Box::pin(insert_in(tx, rows))).await
}

/// Writes the rows that the server accepts, and finds those that it refuses by halving, in one
/// transaction.
///
/// # Errors
/// The server's, also where it refuses every row: then nothing shows that the rows are at fault.
/// Nothing is written then.
pub async fn insert_accepted(
    conn: &mut Conn,
    rows: &[MeasurementRow],
    within: Duration,
) -> Result<InsertReport, Error> {
    conn.transaction(&TxOptions::within(within), |tx| {
        Box::pin(async move {
            let mut apart = InsertReport::default();
            // The last one is next, so that rows are written in order.
            let mut ranges = vec![(0, rows.len())];
            while let Some((from, to)) = ranges.pop() {
                tx.batch("set a savepoint", "SAVEPOINT part").await?;
                match insert_in(tx, &rows[from..to]).await {
                    Ok(written) => {
                        tx.batch("release a savepoint", "RELEASE SAVEPOINT part").await?;
                        apart.written += written;
                    }
                    Err(error) if error.write_fault() == Fault::Row => {
                        let back = "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part";
                        tx.batch("roll back to a savepoint", back).await?;
                        if to - from == 1 {
                            apart.refused.push((from, error));
                        } else {
                            let middle = from.midpoint(to);
                            ranges.push((middle, to));
                            ranges.push((from, middle));
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if apart.refused.len() == rows.len()
                && let Some((_, error)) = apart.refused.pop()
            {
                return Err(error);
            }
            Ok(apart)
        })
    })
    .await
}

async fn insert_in(tx: &Tx<'_>, rows: &[MeasurementRow]) -> Result<u64, Error> {
    let health: Vec<&HealthRow> = rows
        .iter()
        .filter_map(|row| if let MeasurementRow::Health(row) = row { Some(row) } else { None })
        .collect();
    let mut written = if health.is_empty() { 0 } else { insert_health(tx, &health).await? };
    for row in rows {
        written += match row {
            MeasurementRow::Health(_) => 0,
            MeasurementRow::Connections(row) => insert_connections(tx, row).await?,
            MeasurementRow::Event(row) => audit::insert(tx, row).await?,
        };
    }
    Ok(written)
}

/// One component of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthRow {
    /// Version 7, made by pgsteward.
    pub id: Uuid,
    /// On the server's clock, or on this instance's corrected to it where the server did not
    /// answer.
    pub created_at: DateTime<Utc>,
    pub instance: String,
    pub component: String,
    /// `healthy`, `degraded`, `unhealthy` or `unknown`.
    pub status: String,
    pub reason: String,
    pub message: String,
    /// The same for all of one probe, since all came in one round trip.
    pub latency_ms: Option<f64>,
    pub details: Value,
}

async fn insert_health(tx: &Tx<'_>, rows: &[&HealthRow]) -> Result<u64, Error> {
    const SQL: &str = "
        INSERT INTO steward.system_health
               (id, created_at, instance, component, status, reason, message, latency_ms, details)
        SELECT id, created_at, instance, component, status, reason, message, latency_ms, details::jsonb
          FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
               AS row (id, created_at, instance, component, status, reason, message, latency_ms, details)
            ON CONFLICT (id, created_at) DO NOTHING";
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let instants: Vec<DateTime<Utc>> = rows.iter().map(|row| row.created_at).collect();
    let instances: Vec<&str> = rows.iter().map(|row| row.instance.as_str()).collect();
    let components: Vec<&str> = rows.iter().map(|row| row.component.as_str()).collect();
    let statuses: Vec<&str> = rows.iter().map(|row| row.status.as_str()).collect();
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason.as_str()).collect();
    let messages: Vec<&str> = rows.iter().map(|row| row.message.as_str()).collect();
    let latencies: Vec<Option<f64>> = rows.iter().map(|row| row.latency_ms).collect();
    let details: Vec<String> = rows.iter().map(|row| row.details.to_string()).collect();
    tx.execute(
        "insert system_health",
        SQL,
        &[
            (&ids, Type::UUID_ARRAY),
            (&instants, Type::TIMESTAMPTZ_ARRAY),
            (&instances, Type::TEXT_ARRAY),
            (&components, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&messages, Type::TEXT_ARRAY),
            (&latencies, Type::FLOAT8_ARRAY),
            (&details, Type::TEXT_ARRAY),
        ],
    )
    .await
}

/// Least, mean and greatest of the samples in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub min: i32,
    pub avg: f64,
    pub max: i32,
}

/// Connections over one interval, from several samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRow {
    pub id: Uuid,
    /// The end of the interval, on the server's clock.
    pub created_at: DateTime<Utc>,
    pub instance: String,
    pub interval_seconds: f64,
    /// At least 1.
    pub samples: i32,
    pub max_connections: i32,
    /// For superusers and for roles with `pg_use_reserved_connections`.
    pub reserved_connections: i32,
    pub total: Range,
    /// States are absent where the sessions of other roles could not be looked into.
    pub active: Option<Range>,
    pub idle: Option<Range>,
    pub idle_in_transaction: Option<Range>,
    pub waiting: Option<Range>,
    pub saturation_max: f64,
    pub oldest_transaction_seconds_max: Option<f64>,
    pub oldest_idle_in_transaction_seconds_max: Option<f64>,
    /// `{"name": {"avg": 3.5, "max": 5}}`; the key `null` of others together is `""`.
    pub by_database: Value,
    /// `{"observe": {"open": 1, "idle": 0, "max": 1}}`
    pub pool: Value,
}

async fn insert_connections(tx: &Tx<'_>, row: &ConnectionRow) -> Result<u64, Error> {
    const SQL: &str = "
        INSERT INTO steward.connection_metrics
               (id, created_at, instance, interval_seconds, samples, max_connections, reserved_connections,
                total_min, total_avg, total_max, active_min, active_avg, active_max, idle_min, idle_avg, idle_max,
                idle_in_transaction_min, idle_in_transaction_avg, idle_in_transaction_max,
                waiting_min, waiting_avg, waiting_max, saturation_max, oldest_transaction_seconds_max,
                oldest_idle_in_transaction_seconds_max, by_database, pool)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                $23, $24, $25, $26, $27)
            ON CONFLICT (id, created_at) DO NOTHING";
    let split =
        |range: Option<Range>| (range.map(|r| r.min), range.map(|r| r.avg), range.map(|r| r.max));
    let (active, idle) = (split(row.active), split(row.idle));
    let (in_transaction, waiting) = (split(row.idle_in_transaction), split(row.waiting));
    tx.execute(
        "insert connection_metrics",
        SQL,
        &[
            (&row.id, Type::UUID),
            (&row.created_at, Type::TIMESTAMPTZ),
            (&row.instance, Type::TEXT),
            (&row.interval_seconds, Type::FLOAT8),
            (&row.samples, Type::INT4),
            (&row.max_connections, Type::INT4),
            (&row.reserved_connections, Type::INT4),
            (&row.total.min, Type::INT4),
            (&row.total.avg, Type::FLOAT8),
            (&row.total.max, Type::INT4),
            (&active.0, Type::INT4),
            (&active.1, Type::FLOAT8),
            (&active.2, Type::INT4),
            (&idle.0, Type::INT4),
            (&idle.1, Type::FLOAT8),
            (&idle.2, Type::INT4),
            (&in_transaction.0, Type::INT4),
            (&in_transaction.1, Type::FLOAT8),
            (&in_transaction.2, Type::INT4),
            (&waiting.0, Type::INT4),
            (&waiting.1, Type::FLOAT8),
            (&waiting.2, Type::INT4),
            (&row.saturation_max, Type::FLOAT8),
            (&row.oldest_transaction_seconds_max, Type::FLOAT8),
            (&row.oldest_idle_in_transaction_seconds_max, Type::FLOAT8),
            (&Json(&row.by_database), Type::JSONB),
            (&Json(&row.pool), Type::JSONB),
        ],
    )
    .await
}
