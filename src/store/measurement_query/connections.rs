//! The history of connections.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Filter, Page, TooManyBuckets, bucket_width, check_buckets, ends, options, page_limit};
use crate::db::{Conn, Error, Param};
use crate::store::audit_query::Cursor;
use crate::store::measurements::{ConnectionRow, Range};

/// A page of rows, newest first, behind the cursor. `limit` is 1 to [`super::PAGE_MAX`]. Of the filter, the range and
/// the instance count.
pub async fn page(
    conn: &mut Conn,
    bound: Duration,
    filter: &Filter,
    behind: Option<Cursor>,
    limit: usize,
) -> Result<Page<ConnectionRow>, Error> {
    let limit = page_limit(limit);
    let (at, id, rows) =
        (behind.map(|cursor| cursor.created_at), behind.map(|cursor| cursor.id), limit as i64 + 1);
    let params: &[Param<'_>] = &[
        (&filter.since, Type::TIMESTAMPTZ),
        (&filter.until, Type::TIMESTAMPTZ),
        (&filter.instance, Type::TEXT),
        (&at, Type::TIMESTAMPTZ),
        (&id, Type::UUID),
        (&rows, Type::INT8),
    ];
    let options = options(bound);
    let read =
        conn.transaction(&options, |tx| Box::pin(tx.rows("read connection_metrics", PAGE, params)));
    let items = read.await?.iter().map(row).collect();
    Ok(Page::cut(items, limit, |row| Cursor { created_at: row.created_at, id: row.id }))
}

/// The statement of [`page`].
pub const PAGE: &str = "
    SELECT c.id, c.created_at, c.instance, c.interval_seconds, c.samples, c.max_connections, c.reserved_connections,
           c.saturation_max, c.oldest_transaction_seconds_max, c.oldest_idle_in_transaction_seconds_max,
           c.by_database, c.pool, c.total_min, c.total_avg, c.total_max, c.active_min, c.active_avg, c.active_max,
           c.idle_min, c.idle_avg, c.idle_max,
           c.idle_in_transaction_min, c.idle_in_transaction_avg, c.idle_in_transaction_max,
           c.waiting_min, c.waiting_avg, c.waiting_max
      FROM steward.connection_metrics c
     WHERE c.created_at >= $1 AND c.created_at < $2
       AND ($3::text IS NULL OR c.instance = $3)
       AND ($4::timestamptz IS NULL OR c.created_at <= $4 AND (c.created_at, c.id) < ($4, $5))
     ORDER BY c.created_at DESC, c.id DESC
     LIMIT $6";

fn row(row: &Row) -> ConnectionRow {
    ConnectionRow {
        id: row.get(0),
        created_at: row.get(1),
        instance: row.get(2),
        interval_seconds: row.get(3),
        samples: row.get(4),
        max_connections: row.get(5),
        reserved_connections: row.get(6),
        saturation_max: row.get::<_, Option<f64>>(7).unwrap_or_default(),
        oldest_transaction_seconds_max: row.get(8),
        oldest_idle_in_transaction_seconds_max: row.get(9),
        by_database: row.get::<_, Option<Value>>(10).unwrap_or_default(),
        pool: row.get::<_, Option<Value>>(11).unwrap_or_default(),
        total: range(row, 12).unwrap_or_default(),
        active: range(row, 15),
        idle: range(row, 18),
        idle_in_transaction: range(row, 21),
        waiting: range(row, 24),
    }
}

/// From three columns side by side.
fn range(row: &Row, from: usize) -> Option<Range> {
    let end = |place: usize| row.get::<_, Option<i32>>(place);
    Some(Range { min: end(from)?, avg: row.get::<_, Option<f64>>(from + 1)?, max: end(from + 2)? })
}

/// The connections of a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionBucket {
    /// Its beginning.
    pub at: DateTime<Utc>,
    pub samples: i64,
    /// A mean weighs each row with its samples times its interval, which is at least a second.
    pub total: Range,
    /// States are absent where no row has them.
    pub active: Option<Range>,
    pub idle: Option<Range>,
    pub idle_in_transaction: Option<Range>,
    pub waiting: Option<Range>,
    pub saturation_max: f64,
    pub max_connections: i32,
}

/// What a row weighs in the means of a bucket.
pub fn weight(row: &ConnectionRow) -> f64 {
    f64::from(row.samples) * row.interval_seconds.max(1.0)
}

/// The connections of each span of `bucket_seconds`, oldest first. A row belongs to where its interval ended. Of the
/// filter, the range and the instance count.
pub async fn buckets(
    conn: &mut Conn,
    bound: Duration,
    filter: &Filter,
    bucket_seconds: u32,
) -> Result<Result<Vec<ConnectionBucket>, TooManyBuckets>, Error> {
    let seconds = f64::from(bucket_width(bucket_seconds));
    let params: &[Param<'_>] = &[
        (&filter.since, Type::TIMESTAMPTZ),
        (&filter.until, Type::TIMESTAMPTZ),
        (&filter.instance, Type::TEXT),
        (&seconds, Type::FLOAT8),
    ];
    let (sql, params) = (&bucket_sql(), params);
    conn.transaction(&options(bound), |tx| {
        Box::pin(async move {
            let Some((first, last)) = ends(tx, "connection_metrics", filter).await? else {
                return Ok(Ok(Vec::new()));
            };
            if let Err(too_many) = check_buckets(first, last, bucket_seconds) {
                return Ok(Err(too_many));
            }
            let rows = tx.rows("sum up connection_metrics", sql, params).await?;
            Ok(Ok(rows.iter().map(bucket).collect()))
        })
    })
    .await
}

/// The statement of [`buckets`].
pub fn bucket_sql() -> String {
    let states = ["total", "active", "idle", "idle_in_transaction", "waiting"].map(|state| {
        format!(
            "min(c.{state}_min), sum(c.{state}_avg * w.weight) / sum(w.weight) FILTER (WHERE c.{state}_avg IS NOT NULL),
             max(c.{state}_max)"
        )
    });
    format!(
        "SELECT date_bin(make_interval(secs => $4), c.created_at, 'epoch'::timestamptz), sum(c.samples)::int8,
                max(c.saturation_max), max(c.max_connections), {}
           FROM steward.connection_metrics c
          CROSS JOIN LATERAL (SELECT c.samples * greatest(c.interval_seconds, 1)) AS w (weight)
          WHERE c.created_at >= $1 AND c.created_at < $2
            AND ($3::text IS NULL OR c.instance = $3)
          GROUP BY 1
          ORDER BY 1",
        states.join(", ")
    )
}

fn bucket(row: &Row) -> ConnectionBucket {
    ConnectionBucket {
        at: row.get(0),
        samples: row.get(1),
        saturation_max: row.get::<_, Option<f64>>(2).unwrap_or_default(),
        max_connections: row.get(3),
        total: range(row, 4).unwrap_or_default(),
        active: range(row, 7),
        idle: range(row, 10),
        idle_in_transaction: range(row, 13),
        waiting: range(row, 16),
    }
}
