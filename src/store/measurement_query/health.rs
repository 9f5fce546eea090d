//! The history of components, and of probes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Filter, Page, TooManyBuckets, bucket_width, check_buckets, ends, options, page_limit};
use crate::db::{Conn, Error, Param};
use crate::store::audit_query::Cursor;
use crate::store::measurements::HealthRow;

/// A page of rows, newest first, behind the cursor. `limit` is 1 to [`super::PAGE_MAX`].
pub async fn page(
    conn: &mut Conn,
    bound: Duration,
    filter: &Filter,
    behind: Option<Cursor>,
    limit: usize,
) -> Result<Page<HealthRow>, Error> {
    let limit = page_limit(limit);
    let (at, id, rows) =
        (behind.map(|cursor| cursor.created_at), behind.map(|cursor| cursor.id), limit as i64 + 1);
    let params: &[Param<'_>] = &[
        (&filter.since, Type::TIMESTAMPTZ),
        (&filter.until, Type::TIMESTAMPTZ),
        (&filter.component, Type::TEXT),
        (&filter.status, Type::TEXT),
        (&filter.instance, Type::TEXT),
        (&at, Type::TIMESTAMPTZ),
        (&id, Type::UUID),
        (&rows, Type::INT8),
    ];
    let options = options(bound);
    let read =
        conn.transaction(&options, |tx| Box::pin(tx.rows("read system_health", PAGE, params)));
    let items = read.await?.iter().map(row).collect();
    Ok(Page::cut(items, limit, |row| Cursor { created_at: row.created_at, id: row.id }))
}

/// The statement of [`page`]. Conditions that were not given are constants to the planner; the cursor's time stands by
/// itself too, since only a column rules partitions out.
pub const PAGE: &str = "
    SELECT h.id, h.created_at, h.instance, h.component, h.status, h.reason, h.message, h.latency_ms, h.details
      FROM steward.system_health h
     WHERE h.created_at >= $1 AND h.created_at < $2
       AND ($3::text IS NULL OR h.component = $3)
       AND ($4::text IS NULL OR h.status = $4)
       AND ($5::text IS NULL OR h.instance = $5)
       AND ($6::timestamptz IS NULL OR h.created_at <= $6 AND (h.created_at, h.id) < ($6, $7))
     ORDER BY h.created_at DESC, h.id DESC
     LIMIT $8";

fn row(row: &Row) -> HealthRow {
    HealthRow {
        id: row.get(0),
        created_at: row.get(1),
        instance: row.get(2),
        component: row.get(3),
        status: row.get(4),
        reason: row.get(5),
        message: row.get::<_, Option<String>>(6).unwrap_or_default(),
        latency_ms: row.get(7),
        details: row.get::<_, Option<Value>>(8).unwrap_or_default(),
    }
}

/// The probes of a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthBucket {
    /// Its beginning.
    pub at: DateTime<Utc>,
    /// Probes.
    pub samples: i64,
    /// The worst status that a probe had; `unknown` is worse than `healthy` and better than `degraded`.
    pub worst: &'static str,
    pub healthy: i64,
    pub degraded: i64,
    pub unhealthy: i64,
    pub unknown: i64,
    /// Of the probes that the server answered.
    pub latency_ms: Option<Latency>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub min: f64,
    pub avg: f64,
    pub max: f64,
}

impl HealthBucket {
    /// By how many probes had which status.
    pub fn new(at: DateTime<Utc>, counts: Counts, latency_ms: Option<Latency>) -> HealthBucket {
        let Counts { healthy, degraded, unhealthy, unknown } = counts;
        let worst = match () {
            () if unhealthy > 0 => "unhealthy",
            () if degraded > 0 => "degraded",
            () if unknown > 0 => "unknown",
            () => "healthy",
        };
        let samples = healthy + degraded + unhealthy + unknown;
        HealthBucket { at, samples, worst, healthy, degraded, unhealthy, unknown, latency_ms }
    }
}

/// How many have a status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub healthy: i64,
    pub degraded: i64,
    pub unhealthy: i64,
    pub unknown: i64,
}

impl Counts {
    /// Counts one more.
    pub fn take(&mut self, status: &str) {
        match status {
            "healthy" => self.healthy += 1,
            "degraded" => self.degraded += 1,
            "unhealthy" => self.unhealthy += 1,
            _ => self.unknown += 1,
        }
    }

    /// The status of a probe, from those of its components: the worst, where one `unknown` beside others counts as
    /// `degraded`, as the report of the probe itself has it.
    pub fn of_a_probe(self) -> &'static str {
        match self {
            Counts { unhealthy: 1.., .. } => "unhealthy",
            Counts { degraded: 1.., .. } => "degraded",
            Counts { unknown: 1.., healthy: 0, .. } => "unknown",
            Counts { unknown: 1.., .. } => "degraded",
            Counts { .. } => "healthy",
        }
    }
}

/// The probes of each span of `bucket_seconds`, oldest first, by the components that pass the filter: of one component
/// a probe has that component's status, of all of them what [`Counts::of_a_probe`] says. A probe is the rows of one
/// instance at one instant.
pub async fn buckets(
    conn: &mut Conn,
    bound: Duration,
    filter: &Filter,
    bucket_seconds: u32,
) -> Result<Result<Vec<HealthBucket>, TooManyBuckets>, Error> {
    let seconds = f64::from(bucket_width(bucket_seconds));
    let params: &[Param<'_>] = &[
        (&filter.since, Type::TIMESTAMPTZ),
        (&filter.until, Type::TIMESTAMPTZ),
        (&filter.component, Type::TEXT),
        (&filter.status, Type::TEXT),
        (&filter.instance, Type::TEXT),
        (&seconds, Type::FLOAT8),
    ];
    conn.transaction(&options(bound), |tx| {
        Box::pin(async move {
            let Some((first, last)) = ends(tx, "system_health", filter).await? else {
                return Ok(Ok(Vec::new()));
            };
            if let Err(too_many) = check_buckets(first, last, bucket_seconds) {
                return Ok(Err(too_many));
            }
            let rows = tx.rows("sum up system_health", BUCKETS, params).await?;
            Ok(Ok(rows.iter().map(bucket).collect()))
        })
    })
    .await
}

/// The statement of [`buckets`].
pub const BUCKETS: &str = "
    SELECT p.at, count(*) FILTER (WHERE p.status = 'healthy'), count(*) FILTER (WHERE p.status = 'degraded'),
           count(*) FILTER (WHERE p.status = 'unhealthy'), count(*) FILTER (WHERE p.status = 'unknown'),
           min(p.latency_ms), avg(p.latency_ms), max(p.latency_ms)
      FROM (SELECT date_bin(make_interval(secs => $6), h.created_at, 'epoch'::timestamptz) AS at,
                   CASE WHEN bool_or(h.status = 'unhealthy') THEN 'unhealthy'
                        WHEN bool_or(h.status = 'degraded') THEN 'degraded'
                        WHEN bool_and(h.status = 'unknown') THEN 'unknown'
                        WHEN bool_or(h.status = 'unknown') THEN 'degraded'
                        ELSE 'healthy' END AS status,
                   max(h.latency_ms) AS latency_ms
              FROM steward.system_health h
             WHERE h.created_at >= $1 AND h.created_at < $2
               AND ($3::text IS NULL OR h.component = $3)
               AND ($4::text IS NULL OR h.status = $4)
               AND ($5::text IS NULL OR h.instance = $5)
             GROUP BY h.created_at, h.instance) AS p
     GROUP BY p.at
     ORDER BY p.at";

fn bucket(row: &Row) -> HealthBucket {
    let counts = Counts {
        healthy: row.get(1),
        degraded: row.get(2),
        unhealthy: row.get(3),
        unknown: row.get(4),
    };
    let latency: (Option<f64>, Option<f64>, Option<f64>) = (row.get(5), row.get(6), row.get(7));
    let latency_ms = match latency {
        (Some(min), Some(avg), Some(max)) => Some(Latency { min, avg, max }),
        _ => None,
    };
    HealthBucket::new(row.get(0), counts, latency_ms)
}
