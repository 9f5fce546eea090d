//! The history of measurements, read from a real server: pages, buckets, and what they cost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use harness::{BOUND, Template, TestClient, TestDatabase};
use pgsteward::config::{self, Secret, SecretSource};
use pgsteward::db::{Database, Purpose};
use pgsteward::lifecycle::Tasks;
use pgsteward::store::audit_query::Cursor;
use pgsteward::store::measurement_query::connections::{self, ConnectionBucket};
use pgsteward::store::measurement_query::health::{self, HealthBucket, Latency};
use pgsteward::store::measurement_query::{Filter, Page, TooManyBuckets};
use pgsteward::store::measurements::{ConnectionRow, HealthRow, MeasurementRow, Range, insert};
use pgsteward::telemetry::Metrics;
use serde_json::{Value, json};
use uuid::Uuid;

struct Bench {
    db: Arc<Database>,
    admin: TestClient,
    _database: TestDatabase,
}

impl Bench {
    async fn new() -> Bench {
        let database = TestDatabase::create(Template::Migrated).await;
        let url = Some(SecretSource::Inline(Secret::new(database.url())));
        let config = config::Database { url, ..config::Database::default() };
        let metrics = Arc::new(Metrics::new().unwrap());
        let db = Database::new("main", &config, 1, &Tasks::new(), &metrics);
        Bench { db, admin: database.client().await, _database: database }
    }

    async fn write(&self, rows: &[MeasurementRow]) {
        let mut conn = self.db.acquire(Purpose::Control).await.unwrap();
        insert(&mut conn, rows, BOUND).await.unwrap();
    }

    async fn health(
        &self,
        filter: &Filter,
        behind: Option<Cursor>,
        limit: usize,
    ) -> Page<HealthRow> {
        let mut conn = self.db.acquire(Purpose::Control).await.unwrap();
        health::page(&mut conn, BOUND, filter, behind, limit).await.unwrap()
    }

    async fn health_buckets(
        &self,
        filter: &Filter,
        seconds: u32,
    ) -> Result<Vec<HealthBucket>, TooManyBuckets> {
        let mut conn = self.db.acquire(Purpose::Control).await.unwrap();
        health::buckets(&mut conn, BOUND, filter, seconds).await.unwrap()
    }

    async fn connections(
        &self,
        filter: &Filter,
        behind: Option<Cursor>,
        limit: usize,
    ) -> Page<ConnectionRow> {
        let mut conn = self.db.acquire(Purpose::Control).await.unwrap();
        connections::page(&mut conn, BOUND, filter, behind, limit).await.unwrap()
    }

    async fn connection_buckets(&self, filter: &Filter, seconds: u32) -> Vec<ConnectionBucket> {
        let mut conn = self.db.acquire(Purpose::Control).await.unwrap();
        connections::buckets(&mut conn, BOUND, filter, seconds).await.unwrap().unwrap()
    }

    /// The plan as it ran, with its parameters as constants, as the planner sees them.
    async fn plan(&self, sql: &str, params: &[&str]) -> Value {
        let mut sql = sql.to_owned();
        for (place, value) in params.iter().enumerate().rev() {
            sql = sql.replace(&format!("${}", place + 1), value);
        }
        let text = self.admin.text(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")).await;
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }
}

/// The top of the hour before last, so that everything is in partitions that are there.
fn hour() -> DateTime<Utc> {
    let now = Utc::now().timestamp();
    DateTime::from_timestamp(now - now.rem_euclid(3600) - 7200, 0).unwrap()
}

fn probe(
    at: DateTime<Utc>,
    instance: &str,
    latency_ms: Option<f64>,
    components: &[(&str, &str)],
) -> Vec<MeasurementRow> {
    let row = |(component, status): &(&str, &str)| HealthRow {
        id: Uuid::now_v7(),
        created_at: at,
        instance: instance.to_owned(),
        component: (*component).to_owned(),
        status: (*status).to_owned(),
        reason: if *status == "healthy" { "ok" } else { "bad" }.to_owned(),
        message: format!("{component} is {status}"),
        latency_ms,
        details: json!({ "n": 1 }),
    };
    components.iter().map(row).map(MeasurementRow::Health).collect()
}

fn sample(
    at: DateTime<Utc>,
    instance: &str,
    interval_seconds: f64,
    samples: i32,
    active: Option<f64>,
) -> ConnectionRow {
    let range = |avg: f64| Range { min: avg as i32 - 1, avg, max: avg as i32 + 1 };
    ConnectionRow {
        id: Uuid::now_v7(),
        created_at: at,
        instance: instance.to_owned(),
        interval_seconds,
        samples,
        max_connections: 100,
        reserved_connections: 3,
        total: range(10.0 * f64::from(samples)),
        active: active.map(range),
        idle: None,
        idle_in_transaction: active.map(range),
        waiting: Some(Range::default()),
        saturation_max: f64::from(samples) / 10.0,
        oldest_transaction_seconds_max: Some(1.5),
        oldest_idle_in_transaction_seconds_max: None,
        by_database: json!({ "app": { "avg": 1.0, "max": 2 } }),
        pool: json!({}),
    }
}

fn of(since: DateTime<Utc>, until: DateTime<Utc>) -> Filter {
    Filter { since, until, ..Filter::default() }
}

#[tokio::test]
async fn pages_of_health_come_newest_first_and_nothing_twice() {
    let bench = Bench::new().await;
    let (hour, minute) = (hour(), TimeDelta::minutes(1));
    let mut rows = Vec::new();
    for n in 0..20 {
        let status = if n % 5 == 0 { "degraded" } else { "healthy" };
        let instance = if n < 15 { "a" } else { "b" };
        // Rows of one probe share their instant: pages are cut inside of them.
        rows.extend(probe(
            hour + minute * n,
            instance,
            Some(1.25),
            &[("connectivity", "healthy"), ("locks", status), ("jobs", "healthy")],
        ));
    }
    bench.write(&rows).await;
    let everything = bench.health(&Filter::default(), None, 1000).await;
    assert_eq!((everything.items.len(), everything.next), (60, None));
    let mut wanted: Vec<HealthRow> = rows
        .iter()
        .filter_map(
            |row| if let MeasurementRow::Health(row) = row { Some(row.clone()) } else { None },
        )
        .collect();
    wanted.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
    assert_eq!(everything.items, wanted, "as they were written");

    let (mut paged, mut behind) = (Vec::new(), None);
    loop {
        let page = bench.health(&Filter::default(), behind, 7).await;
        assert!(page.items.len() <= 7);
        paged.extend(page.items);
        // As a caller sends it back.
        behind = page.next.map(|next| next.to_string().parse().unwrap());
        if behind.is_none() {
            break;
        }
    }
    assert_eq!(paged, wanted);

    let component = |name: &str| Filter { component: Some(name.to_owned()), ..Filter::default() };
    for (filter, count) in [
        (component("locks"), 20),
        (Filter { status: Some("degraded".into()), ..Filter::default() }, 4),
        (Filter { instance: Some("b".into()), ..Filter::default() }, 15),
        (
            Filter {
                instance: Some("b".into()),
                status: Some("degraded".into()),
                ..component("locks")
            },
            1,
        ),
        (component("nothing"), 0),
        (of(hour, hour + minute), 3),
        (of(hour + minute, hour + minute), 0),
    ] {
        assert_eq!(bench.health(&filter, None, 100).await.items.len(), count, "{filter:?}");
    }
    let page = serde_json::to_value(bench.health(&component("locks"), None, 1).await).unwrap();
    let item = &page["items"][0];
    assert!(item["created_at"].as_str().unwrap().ends_with('Z'), "{item}");
    let keys: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = [
        "component",
        "created_at",
        "details",
        "id",
        "instance",
        "latency_ms",
        "message",
        "reason",
        "status",
    ];
    assert_eq!(keys, contract);
    assert!(page["next"].as_str().unwrap().contains(','), "{page}");
}

#[tokio::test]
async fn buckets_of_health_count_probes_by_their_worst_component() {
    let bench = Bench::new().await;
    let (hour, minute) = (hour(), TimeDelta::minutes(1));
    let mut rows = Vec::new();
    let at = |minutes: i32| hour + minute * minutes;
    rows.extend(probe(
        at(0),
        "a",
        Some(1.0),
        &[("connectivity", "healthy"), ("locks", "degraded"), ("jobs", "healthy")],
    ));
    rows.extend(probe(
        at(1),
        "a",
        Some(3.0),
        &[("connectivity", "healthy"), ("locks", "healthy"), ("jobs", "healthy")],
    ));
    rows.extend(probe(at(1), "b", Some(8.0), &[("connectivity", "healthy")]));
    rows.extend(probe(at(14), "a", None, &[("connectivity", "unhealthy"), ("locks", "degraded")]));
    rows.extend(probe(at(30), "a", None, &[("connectivity", "unknown"), ("locks", "unknown")]));
    rows.extend(probe(
        at(31),
        "a",
        Some(2.0),
        &[("connectivity", "healthy"), ("locks", "unknown")],
    ));
    rows.extend(probe(at(45), "a", None, &[("connectivity", "unknown")]));
    bench.write(&rows).await;
    let found = bench.health_buckets(&Filter::default(), 900).await.unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|b| (b.at, b.samples, b.worst, [b.healthy, b.degraded, b.unhealthy, b.unknown]))
        .collect();
    assert_eq!(
        told,
        [
            (at(0), 4, "unhealthy", [2, 1, 1, 0]),
            (at(30), 2, "degraded", [0, 1, 0, 1]),
            (at(45), 1, "unknown", [0, 0, 0, 1]),
        ]
    );
    assert_eq!(found[0].latency_ms, Some(Latency { min: 1.0, avg: 4.0, max: 8.0 }));
    assert_eq!(found[2].latency_ms, None);
    let locks = Filter { component: Some("locks".into()), ..Filter::default() };
    let found = bench.health_buckets(&locks, 900).await.unwrap();
    assert_eq!(
        (found.len(), found[0].samples, found[0].worst, found[0].degraded),
        (2, 3, "degraded", 2)
    );
    assert!(bench.health_buckets(&of(at(60), at(90)), 900).await.unwrap().is_empty());
    // Forty-five minutes of seconds are too many, two are wide enough.
    assert_eq!(
        bench.health_buckets(&Filter::default(), 1).await,
        Err(TooManyBuckets { least_seconds: 2 })
    );
    assert!(bench.health_buckets(&Filter::default(), 2).await.is_ok());
}

#[tokio::test]
async fn connections_are_paged_and_their_means_weighed() {
    let bench = Bench::new().await;
    let (hour, minute) = (hour(), TimeDelta::minutes(1));
    let rows = [
        sample(hour + minute, "a", 60.0, 4, Some(2.0)),
        sample(hour + minute * 2, "a", 30.0, 2, None),
        // A single sample has no interval; it counts all the same.
        sample(hour + minute * 3, "b", 0.0, 1, Some(7.0)),
        sample(hour + minute * 15, "a", 60.0, 4, None),
    ];
    let written: Vec<MeasurementRow> =
        rows.iter().cloned().map(|row| MeasurementRow::Connections(Box::new(row))).collect();
    bench.write(&written).await;
    let first = bench.connections(&Filter::default(), None, 3).await;
    assert_eq!(first.items, [&rows[3], &rows[2], &rows[1]].map(Clone::clone));
    let last = bench.connections(&Filter::default(), first.next, 3).await;
    assert_eq!((last.items, last.next), (vec![rows[0].clone()], None));
    let b = Filter { instance: Some("b".into()), ..Filter::default() };
    assert_eq!(bench.connections(&b, None, 3).await.items.len(), 1);

    let buckets = bench.connection_buckets(&Filter::default(), 900).await;
    assert_eq!(buckets.len(), 2);
    let bucket = &buckets[0];
    assert_eq!(
        (bucket.at, bucket.samples, bucket.max_connections, bucket.saturation_max),
        (hour, 7, 100, 0.4)
    );
    let total = (40.0 * 240.0 + 20.0 * 60.0 + 10.0) / 301.0;
    assert_eq!((bucket.total.min, bucket.total.max), (9, 41));
    assert!((bucket.total.avg - total).abs() < 1e-9, "{bucket:?}");
    let active = bucket.active.unwrap();
    assert_eq!((active.min, active.max), (1, 8));
    assert!(
        (active.avg - (2.0 * 240.0 + 7.0) / 241.0).abs() < 1e-9,
        "a row without states weighs nothing in them"
    );
    assert_eq!((bucket.idle, buckets[1].active), (None, None));
}

/// Nodes of a plan that match, as they ran.
fn nodes<'p>(plan: &'p Value, found: &mut Vec<&'p Value>) {
    found.push(plan);
    for child in plan["Plans"].as_array().into_iter().flatten() {
        nodes(child, found);
    }
}

/// The relations that gave rows, and those of them that were read whole.
fn scans(plan: &Value) -> (Vec<String>, Vec<String>) {
    let mut all = Vec::new();
    nodes(&plan["Plan"], &mut all);
    let gave =
        |node: &&&Value| node["Actual Loops"] != 0 && node["Actual Rows"].as_f64() > Some(0.0);
    let scanned: Vec<_> =
        all.iter().filter(|node| node["Relation Name"].is_string()).filter(gave).collect();
    let name = |node: &&Value| node["Relation Name"].as_str().unwrap().to_owned();
    let sequential = scanned.iter().filter(|node| node["Node Type"] == "Seq Scan");
    (scanned.iter().map(|node| name(node)).collect(), sequential.map(|node| name(node)).collect())
}

fn buffers(plan: &Value) -> i64 {
    let of = |name: &str| plan["Plan"][name].as_i64().unwrap_or_default();
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

#[tokio::test]
async fn a_page_of_many_rows_costs_what_a_page_of_few_costs() {
    let bench = Bench::new().await;
    let admin = &bench.admin;
    admin
        .batch_execute(
            "SELECT steward.ensure_partitions('steward.system_health', 'day', 0, 40);
             SELECT steward.ensure_partitions('steward.connection_metrics', 'day', 0, 40);
             INSERT INTO steward.system_health (created_at, instance, component, status, reason, message, latency_ms)
             SELECT now() - n * interval '6 seconds', 'a', (ARRAY['connectivity', 'locks', 'jobs', 'schema', 'audit'])[n % 5 + 1],
                    'healthy', 'ok', 'all is well', 0.5
               FROM generate_series(0, 499999) AS n;
             INSERT INTO steward.connection_metrics
                    (created_at, instance, interval_seconds, samples, max_connections, reserved_connections,
                     total_min, total_avg, total_max)
             SELECT now() - n * interval '60 seconds', 'a', 60, 4, 100, 3, 1, 2, 3 FROM generate_series(0, 49999) AS n;
             ANALYZE steward.system_health; ANALYZE steward.connection_metrics",
        )
        .await
        .unwrap();
    let (first, last) =
        ("'0001-01-01T00:00:00Z'::timestamptz", "'9999-12-31T00:00:00Z'::timestamptz");
    let none = ["NULL", "NULL", "NULL", "NULL", "NULL"];
    let deep = "(now() - interval '20 days')::timestamptz";
    let at = admin.text(&format!("SELECT quote_literal({deep}) || '::timestamptz'")).await;
    let id = "'00000000-0000-0000-0000-000000000000'::uuid";
    let instance = ["NULL", "NULL", "'a'"];
    for (what, rest) in [
        ("newest", [none[0], none[1], none[2], none[3], none[4]]),
        ("one component", ["'locks'", "NULL", "NULL", "NULL", "NULL"]),
        ("one instance", [instance[0], instance[1], instance[2], "NULL", "NULL"]),
        ("twenty days back", ["NULL", "NULL", "NULL", at.as_str(), id]),
    ] {
        let params = [[first, last].as_slice(), &rest, &["101"]].concat();
        let plan = bench.plan(health::PAGE, &params).await;
        let (relations, sequential) = scans(&plan);
        assert_eq!(plan["Plan"]["Actual Rows"].as_f64(), Some(101.0), "{what}");
        assert!(sequential.is_empty(), "{what}: {sequential:?}");
        assert!(relations.len() <= 3, "{what} looks into {relations:?}");
        assert!(buffers(&plan) < 400, "{what} touches {} blocks", buffers(&plan));
    }
    let params = [first, last, "NULL", at.as_str(), id, "101"];
    let plan = bench.plan(connections::PAGE, &params).await;
    assert!(scans(&plan).1.is_empty() && buffers(&plan) < 400, "{plan}");

    // Partitions outside of the range are not even in the plan.
    let day = [
        "date_trunc('day', now() - interval '10 days')",
        "date_trunc('day', now() - interval '9 days')",
    ];
    let mut bounds = Vec::new();
    for bound in day {
        bounds.push(
            admin
                .text(&format!(
                    "SET timezone = 'UTC'; SELECT quote_literal({bound}) || '::timestamptz'"
                ))
                .await,
        );
    }
    let range = [bounds[0].as_str(), bounds[1].as_str()];
    for (sql, params) in [
        (health::PAGE.to_owned(), [range.as_slice(), &none, &["101"]].concat()),
        (health::BUCKETS.to_owned(), [range.as_slice(), &none[..3], &["900"]].concat()),
        (connections::PAGE.to_owned(), [range.as_slice(), &none[..3], &["101"]].concat()),
        (connections::bucket_sql(), [range.as_slice(), &none[..1], &["900"]].concat()),
    ] {
        let plan = bench.plan(&sql, &params).await;
        let mut all = Vec::new();
        nodes(&plan["Plan"], &mut all);
        let relations: Vec<&Value> =
            all.iter().map(|node| &node["Relation Name"]).filter(|name| name.is_string()).collect();
        assert_eq!(relations.len(), 1, "{relations:?}");
    }

    // And the answers themselves, by the same statements.
    let page = bench.health(&Filter::default(), None, 1000).await;
    assert_eq!(page.items.len(), 1000);
    let buckets = bench.health_buckets(&Filter::default(), 86_400).await.unwrap();
    assert_eq!(buckets.iter().map(|bucket| bucket.samples).sum::<i64>(), 500_000);
    assert!(bench.health_buckets(&Filter::default(), 60).await.unwrap_err().least_seconds > 1000);
}
