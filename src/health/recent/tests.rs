//! Memory against what the tables would say.

use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::health::Status;
use crate::store::measurement_query::health::Counts;
use crate::store::measurements::Range;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn probe(second: i64, instance: &str, components: &[(&str, &str, &str)]) -> Vec<MeasurementRow> {
    let row = |(component, status, reason): &(&str, &str, &str)| HealthRow {
        id: Uuid::now_v7(),
        created_at: at(second),
        instance: instance.to_owned(),
        component: (*component).to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: format!("{component} is {status}"),
        latency_ms: (*status == "healthy").then_some(second as f64),
        details: json!({ "second": second }),
    };
    components.iter().map(row).map(MeasurementRow::Health).collect()
}

const WELL: [(&str, &str, &str); 3] =
    [("connectivity", "healthy", "ok"), ("locks", "healthy", "ok"), ("jobs", "healthy", "ok")];
const LOCKED: [(&str, &str, &str); 3] = [
    ("connectivity", "healthy", "ok"),
    ("locks", "degraded", "lock_wait"),
    ("jobs", "healthy", "ok"),
];
const AWAY: [(&str, &str, &str); 3] = [
    ("connectivity", "unhealthy", "refused"),
    ("locks", "unknown", "not_measured"),
    ("jobs", "healthy", "ok"),
];

fn sample(second: i64, samples: i32, active: Option<f64>) -> MeasurementRow {
    let range = |avg: f64| Range { min: avg as i32 - 1, avg, max: avg as i32 + 1 };
    MeasurementRow::Connections(Box::new(ConnectionRow {
        id: Uuid::now_v7(),
        created_at: at(second),
        instance: "here".into(),
        interval_seconds: 60.0,
        samples,
        max_connections: 100,
        reserved_connections: 3,
        total: range(10.0 * f64::from(samples)),
        active: active.map(range),
        idle: None,
        idle_in_transaction: None,
        waiting: Some(Range::default()),
        saturation_max: f64::from(samples) / 10.0,
        oldest_transaction_seconds_max: None,
        oldest_idle_in_transaction_seconds_max: None,
        by_database: json!({ "app": 1 }),
        pool: json!({ "observe": 1 }),
    }))
}

fn components(page: &Page<HealthRow>) -> Vec<(i64, &str, &str)> {
    let row = |row: &HealthRow| (row.created_at - at(0)).num_seconds();
    page.items
        .iter()
        .map(|item| (row(item), item.component.as_str(), item.status.as_str()))
        .collect()
}

#[test]
fn connectivity_is_kept_of_every_probe_and_others_when_they_change() {
    let recent = Recent::default();
    for (second, found) in [(0, &WELL), (15, &WELL), (30, &LOCKED), (45, &LOCKED), (60, &WELL)] {
        recent.take(&probe(second, "here", found));
    }
    let page = recent.health(&Filter::default(), None, 100);
    let wanted = [
        (60, "locks", "healthy"),
        (60, "connectivity", "healthy"),
        (45, "connectivity", "healthy"),
        (30, "locks", "degraded"),
        (30, "connectivity", "healthy"),
        (15, "connectivity", "healthy"),
        (0, "jobs", "healthy"),
        (0, "locks", "healthy"),
        (0, "connectivity", "healthy"),
    ];
    assert_eq!((components(&page), page.next), (wanted.to_vec(), None));
    let newest = &page.items[0];
    assert_eq!((newest.message.as_str(), newest.reason.as_str()), ("locks is healthy", "ok"));
    assert_eq!((newest.details["second"].as_i64(), newest.instance.as_str()), (Some(60), "here"));

    let (mut paged, mut behind) = (Vec::new(), None);
    loop {
        let page = recent.health(&Filter::default(), behind, 2);
        paged.extend(page.items);
        behind = page.next;
        if behind.is_none() {
            break;
        }
    }
    assert_eq!(paged, page.items);
    for (filter, count) in [
        (Filter { component: Some("locks".into()), ..Filter::default() }, 3),
        (Filter { status: Some("degraded".into()), ..Filter::default() }, 1),
        (Filter { instance: Some("there".into()), ..Filter::default() }, 0),
        (Filter { since: at(15), until: at(45), ..Filter::default() }, 3),
    ] {
        assert_eq!(recent.health(&filter, None, 100).items.len(), count, "{filter:?}");
    }
}

#[test]
fn buckets_count_every_probe_with_all_of_its_components() {
    let recent = Recent::default();
    for (second, found) in
        [(0, &WELL), (15, &LOCKED), (30, &LOCKED), (60, &AWAY), (75, &AWAY), (90, &WELL)]
    {
        recent.take(&probe(second, "here", found));
    }
    recent.take(&probe(90, "there", &WELL[..1]));
    let buckets = recent.health_buckets(&Filter::default(), 60).unwrap();
    let told: Vec<_> = buckets
        .iter()
        .map(|b| (b.at, b.samples, b.worst, [b.healthy, b.degraded, b.unhealthy, b.unknown]))
        .collect();
    assert_eq!(
        told,
        [(at(0), 3, "degraded", [1, 2, 0, 0]), (at(60), 4, "unhealthy", [2, 0, 2, 0])]
    );
    let latency = buckets[0].latency_ms.unwrap();
    assert_eq!((latency.min, latency.avg, latency.max), (0.0, 15.0, 30.0));
    let locks = Filter { component: Some("locks".into()), ..Filter::default() };
    let buckets = recent.health_buckets(&locks, 60).unwrap();
    assert_eq!((buckets[0].samples, buckets[0].degraded, buckets[1].unknown), (3, 2, 2));
    recent.take(&probe(100_000, "here", &WELL));
    assert_eq!(
        recent.health_buckets(&Filter::default(), 1),
        Err(TooManyBuckets { least_seconds: 51 })
    );
}

#[test]
fn the_status_of_a_probe_is_what_its_report_says() {
    use Status::{Degraded, Healthy, Unhealthy, Unknown};
    let all = [Healthy, Degraded, Unhealthy, Unknown];
    for a in all {
        for b in all {
            for c in all {
                let mut counts = Counts::default();
                [a, b, c].iter().for_each(|status| counts.take(status.as_str()));
                assert_eq!(
                    counts.of_a_probe(),
                    Status::overall([a, b, c]).as_str(),
                    "{a:?} {b:?} {c:?}"
                );
            }
        }
    }
}

#[test]
fn connections_are_kept_without_databases_and_their_means_weighed() {
    let recent = Recent::default();
    recent.take(&[
        sample(0, 4, Some(2.0)),
        sample(10, 1, Some(7.0)),
        sample(20, 2, None),
        sample(60, 4, None),
    ]);
    let page = recent.connections(&Filter::default(), None, 3);
    assert_eq!(page.items.len(), 3);
    assert_eq!(
        (page.items[0].created_at, &page.items[0].by_database, &page.items[0].pool),
        (at(60), &Value::Null, &Value::Null)
    );
    assert_eq!(recent.connections(&Filter::default(), page.next, 3).items[0].created_at, at(0));
    let buckets = recent.connection_buckets(&Filter::default(), 60).unwrap();
    let first = &buckets[0];
    assert_eq!((buckets.len(), first.at, first.samples, first.saturation_max), (2, at(0), 7, 0.4));
    assert_eq!((first.total.min, first.total.max), (9, 41));
    assert!((first.total.avg - (40.0 * 4.0 + 10.0 + 20.0 * 2.0) / 7.0).abs() < 1e-9, "{first:?}");
    assert!((first.active.unwrap().avg - (2.0 * 4.0 + 7.0) / 5.0).abs() < 1e-9, "{first:?}");
    assert_eq!((first.idle, buckets[1].active), (None, None));
}

#[test]
fn rows_of_an_earlier_run_take_their_place_once() {
    let recent = Recent::default();
    recent.take(&probe(100, "now", &AWAY));
    let mut earlier = probe(0, "before", &WELL);
    earlier.push(sample(10, 4, None));
    earlier.extend(probe(15, "before", &WELL));
    recent.take(&earlier);
    recent.take(&earlier);
    let page = recent.health(&Filter::default(), None, 100);
    let found = components(&page);
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!((found[0].0, found[3].0, found[6].0), (100, 15, 0));
    assert_eq!(recent.connections(&Filter::default(), None, 100).items.len(), 1);
}

#[test]
fn memory_is_bounded_and_the_oldest_go() {
    let recent = Recent::default();
    for n in 0..5_000 {
        let mut rows = probe(
            n * 15,
            &format!("host/{}/0", n / 1000),
            if n % 7 == 0 { &LOCKED } else { &WELL },
        );
        if let MeasurementRow::Health(row) = &mut rows[0] {
            row.message = "ü".repeat(usize::try_from(n).unwrap() % 2000);
            row.details = json!({ "long": "x".repeat(usize::try_from(n).unwrap() % 3000) });
        }
        rows.push(sample(n * 15, 4, Some(1.0)));
        recent.take(&rows);
        let (probes, connections) = recent.bytes();
        assert!(probes <= BYTES_MAX && connections <= BYTES_MAX, "{probes} {connections}");
    }
    let page = recent.health(&Filter::default(), None, 1000);
    assert_eq!(page.items[0].created_at, at(4_999 * 15));
    let connections = recent.connections(&Filter::default(), None, 1000).items;
    assert!(connections.len() > 200, "{}", connections.len());
    assert_eq!(connections[0].created_at, at(4_999 * 15));

    // As probes are: an hour of them at the least.
    let recent = Recent::default();
    let names = [
        "response",
        "connections",
        "transactions",
        "locks",
        "replication",
        "wraparound",
        "schema",
        "jobs",
        "audit",
    ];
    for n in 0..1_000 {
        let mut all = vec![("connectivity", "healthy", "ok")];
        all.extend(names.map(|name| (name, "healthy", "ok")));
        recent.take(&probe(n * 15, "host-of-a-name/12345/0", &all));
    }
    let held = recent.health_buckets(&Filter::default(), 86_400).unwrap();
    let probes: i64 = held.iter().map(|bucket| bucket.samples).sum();
    assert!(TimeDelta::seconds(probes * 15) >= TimeDelta::hours(1), "{probes}");
    // Names beyond all bounds change nothing of that.
    for n in 0..400 {
        recent.take(&probe(
            20_000 + n,
            "here",
            &[("connectivity", "unhealthy", &format!("reason {n}"))],
        ));
    }
    assert_eq!(recent.health(&Filter::default(), None, 1).items[0].reason, "other");
    assert!(recent.bytes().0 <= BYTES_MAX);
}
