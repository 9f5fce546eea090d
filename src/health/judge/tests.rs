//! One table per component: each threshold just below, at and above its edge.

use std::time::Duration;

use chrono::DateTime;

use super::Status::{self, *};
use super::*;
use crate::observe::{
    Archiver, Blocker, DatabaseAge, LockWait, Partitioned, Prepared, Replica, Replication, Session,
    SessionCount, Sessions, Slot, Standby,
};

fn limits() -> config::Health {
    config::Health {
        cache_ttl: Duration::from_secs(300),
        stale_after: Duration::from_secs(60),
        recover_after: 2,
        response_degraded: Duration::from_millis(500),
        connections_degraded: 0.80,
        connections_unhealthy: 0.95,
        transaction_age_degraded: Duration::from_secs(900),
        lock_wait_degraded: Duration::from_secs(60),
        replication_lag_degraded: Duration::from_secs(30),
        wraparound_degraded: 0.5,
        wraparound_unhealthy: 0.75,
    }
}

fn snapshot() -> Snapshot {
    let at = DateTime::from_timestamp(1_000, 0).unwrap();
    Snapshot {
        time: at,
        version: 150_018,
        in_recovery: false,
        started_at: at,
        database: "app".into(),
        role: "steward".into(),
        sees_all: true,
        max_connections: 110,
        superuser_reserved: 3,
        reserved: 7,
        sessions: Sessions::default(),
        ages: Some(vec![age("app", 1_000, 10)]),
        replication: Some(Replication::default()),
        slots: Some(Vec::new()),
        archiver: Some(Archiver {
            enabled: false,
            failing: false,
            failed_count: 0,
            since_success_seconds: None,
        }),
        partitions: Some(Vec::new()),
        unavailable: Vec::new(),
    }
}

fn age(name: &str, xid_age: i64, mxid_age: i64) -> DatabaseAge {
    DatabaseAge { name: name.into(), xid_age, mxid_age, own: name == "app" }
}

fn sessions(state: &str, sessions: i64) -> SessionCount {
    SessionCount { database: Some("app".into()), state: state.into(), sessions }
}

fn session(seconds: f64) -> Session {
    Session {
        pid: 77,
        user: Some("shop".into()),
        application: Some(String::new()),
        database: "app".into(),
        state: "idle in transaction".into(),
        seconds,
    }
}

fn answered(snapshot: &Snapshot, inputs: &Inputs) -> Vec<Verdict> {
    let response = Duration::from_millis(3);
    judge(Measurement::Answered { snapshot, response, fresh_connect: None }, inputs, &limits())
}

fn of(verdicts: &[Verdict], name: &str) -> Verdict {
    verdicts
        .iter()
        .find(|verdict| verdict.name == name)
        .unwrap_or_else(|| panic!("no component {name}"))
        .clone()
}

/// What a change of the quiet snapshot does to one component.
fn verdict(name: &str, change: impl FnOnce(&mut Snapshot)) -> Verdict {
    let mut snapshot = snapshot();
    change(&mut snapshot);
    of(&answered(&snapshot, &Inputs::default()), name)
}

#[track_caller]
fn expect(verdict: &Verdict, status: Status, reason: &str, words: &[&str]) {
    assert_eq!((verdict.status, verdict.reason), (status, reason), "{verdict:?}");
    let remedy = verdict.remedy.as_deref().unwrap_or_default();
    for word in words {
        let found = verdict.message.contains(word) || remedy.contains(word);
        assert!(found, "{verdict:?} does not say {word:?}");
    }
    // "not_measured" follows from another component, which has the remedy.
    let needs_remedy = status != Healthy && reason != "not_measured";
    assert_eq!(verdict.remedy.is_some(), needs_remedy, "{verdict:?}");
    assert!(!needs_remedy || !verdict.message.contains(remedy), "{verdict:?}");
}

#[test]
fn a_quiet_server_is_healthy_in_everything_that_was_looked_at() {
    let inputs = Inputs {
        schema: Some(Schema::default()),
        partitions: Vec::new(),
        jobs: Some(Jobs::default()),
        audit: Some(Audit::default()),
    };
    let verdicts = answered(&snapshot(), &inputs);
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict.name).collect();
    let all = [
        "connectivity",
        "response",
        "connections",
        "transactions",
        "locks",
        "replication",
        "wraparound",
        "schema",
        "partitions",
        "jobs",
        "audit",
    ];
    assert_eq!(names, all);
    for verdict in &verdicts {
        expect(verdict, Healthy, "ok", &[]);
    }
}

#[test]
fn every_error_kind_has_a_reason_and_a_remedy() {
    let verdict = |kind| connectivity(Measurement::Failed(&Error::new(kind, "it was so")));
    for kind in Kind::ALL {
        let found = verdict(kind);
        assert_ne!(found.status, Healthy, "{kind}");
        expect(&found, found.status, kind.as_str(), &["it was so", reason::remedy(kind)]);
        assert_eq!(found.remedy.as_deref(), Some(reason::remedy(kind)));
    }
    expect(
        &verdict(Kind::Refused),
        Unhealthy,
        "refused",
        &["cannot be reached", "start the server"],
    );
    expect(&verdict(Kind::Auth), Unhealthy, "auth", &["password"]);
    expect(&verdict(Kind::Hba), Unhealthy, "hba", &["pg_hba.conf"]);
    expect(
        &verdict(Kind::UnknownDatabase),
        Unhealthy,
        "unknown_database",
        &["create the database"],
    );
    expect(
        &verdict(Kind::TooManyConnections),
        Unhealthy,
        "too_many_connections",
        &["max_connections"],
    );
    expect(&verdict(Kind::StartingUp), Unhealthy, "starting_up", &["wait"]);
    expect(&verdict(Kind::Timeout), Unhealthy, "timeout", &["query_timeout"]);
    expect(&verdict(Kind::Tls), Unhealthy, "tls", &["sslmode"]);
    expect(
        &verdict(Kind::LockTimeout),
        Degraded,
        "lock_timeout",
        &["the server answers", "system catalogs"],
    );
    expect(&verdict(Kind::Sql), Degraded, "sql", &["the server answers"]);
    expect(&verdict(Kind::PoolTimeout), Unknown, "pool_timeout", &["not measured"]);
}

#[test]
fn what_was_not_measured_is_unknown_not_healthy() {
    let error = Error::new(Kind::Refused, "connect");
    let inputs = Inputs { schema: Some(Schema::default()), ..Inputs::default() };
    let verdicts = judge(Measurement::Failed(&error), &inputs, &limits());
    for name in [
        "response",
        "connections",
        "transactions",
        "locks",
        "replication",
        "wraparound",
        "partitions",
    ] {
        expect(&of(&verdicts, name), Unknown, "not_measured", &["see connectivity"]);
    }
    expect(&of(&verdicts, "schema"), Healthy, "ok", &[]);
    expect(&of(&verdicts, "jobs"), Unknown, "not_measured", &["no job"]);
    assert_eq!(Status::overall(verdicts.iter().map(|verdict| verdict.status)), Unhealthy);
}

#[test]
fn an_open_connection_does_not_hide_that_new_ones_fail() {
    let error = Error::new(Kind::TooManyConnections, "connect afresh");
    let snapshot = snapshot();
    let response = Duration::from_millis(3);
    let found = connectivity(Measurement::Answered {
        snapshot: &snapshot,
        response,
        fresh_connect: Some(&error),
    });
    expect(
        &found,
        Degraded,
        "too_many_connections",
        &["a new one fails", "connect afresh", "max_connections"],
    );
}

#[test]
fn response() {
    for (micros, status, reason) in [
        (0, Healthy, "ok"),
        (499_999, Healthy, "ok"),
        (500_000, Degraded, "slow"),
        (9_000_000, Degraded, "slow"),
    ] {
        expect(&super::response(Duration::from_micros(micros), &limits()), status, reason, &["ms"]);
    }
}

#[test]
fn connections_are_held_against_what_ordinary_roles_may_use() {
    // 110 of which 3 and 7 are reserved: 100 are usable.
    for (used, status, reason) in [
        (0, Healthy, "ok"),
        (79, Healthy, "ok"),
        (80, Degraded, "connections_high"),
        (94, Degraded, "connections_high"),
        (95, Unhealthy, "connections_exhausted"),
        (103, Unhealthy, "connections_exhausted"),
    ] {
        let found = verdict("connections", |s| s.sessions.counts = vec![sessions("idle", used)]);
        expect(&found, status, reason, &[&format!("{used} of 100")]);
    }
    let hidden = verdict("connections", |s| {
        s.sessions.counts = vec![sessions("hidden", 80), sessions("idle", 1)];
    });
    expect(&hidden, Degraded, "connections_high", &["81 of 100"]);
    assert_eq!((&hidden.measured["idle"], &hidden.measured["hidden"]), (&json!(1), &json!(80)));
    let nothing_usable = verdict("connections", |s| s.max_connections = 5);
    expect(&nothing_usable, Healthy, "ok", &["0 of 1"]);
}

#[test]
fn transactions() {
    for (seconds, status, reason) in
        [(0.0, Healthy, "ok"), (899.9, Healthy, "ok"), (900.0, Degraded, "transaction_old")]
    {
        let found =
            verdict("transactions", |s| s.sessions.oldest_transaction = Some(session(seconds)));
        expect(&found, status, reason, &[]);
    }
    let old = verdict("transactions", |s| s.sessions.oldest_transaction = Some(session(3_700.0)));
    let words = [
        "pid 77",
        "user shop",
        "1 h 1 m",
        "idle in transaction",
        "15 m 0 s",
        "pg_terminate_backend(77)",
    ];
    expect(&old, Degraded, "transaction_old", &words);
    let prepared = verdict("transactions", |s| {
        s.sessions.oldest_prepared = Some(Prepared { gid: "x1".into(), seconds: 900.0 });
    });
    expect(&prepared, Degraded, "prepared_transaction_old", &["'x1'", "ROLLBACK PREPARED"]);
}

#[test]
fn sessions_that_cannot_be_looked_into_leave_transactions_unknown() {
    let hide = |s: &mut Snapshot| {
        s.sees_all = false;
        s.unavailable.push(Unavailable {
            what: OTHERS_SESSIONS.into(),
            code: "not_permitted",
            reason: "r".into(),
            remedy: "GRANT pg_monitor TO \"steward\"".into(),
        });
        s.sessions.counts = vec![sessions("hidden", 4)];
    };
    let words = ["4 sessions", "GRANT pg_monitor TO \"steward\""];
    expect(&verdict("transactions", hide), Unknown, "not_permitted", &words);
    let own_is_old = verdict("transactions", |s| {
        hide(s);
        s.sessions.oldest_transaction = Some(session(900.0));
    });
    expect(&own_is_old, Degraded, "transaction_old", &[]);
    expect(&verdict("locks", hide), Healthy, "ok", &[]);
    expect(&verdict("connections", hide), Healthy, "ok", &["4 of 100"]);
}

#[test]
fn locks() {
    let waits = |seconds: Option<f64>| {
        verdict("locks", |s| {
            s.sessions.waiting = 3;
            let holder = Blocker { pid: 5, user: Some("shop".into()), application: None };
            let prepared = Blocker { pid: 0, user: None, application: None };
            s.sessions.longest_wait =
                Some(LockWait { pid: 9, seconds, blockers: vec![holder, prepared] });
        })
    };
    expect(&waits(None), Healthy, "ok", &["3 sessions wait"]);
    expect(&waits(Some(59.9)), Healthy, "ok", &["3 sessions wait"]);
    let words =
        ["pid 9", "1 m 0 s", "behind pid 5 (user shop), a prepared transaction", "3 sessions"];
    expect(&waits(Some(60.0)), Degraded, "lock_wait", &words);
}

#[test]
fn replication_lag() {
    let standby = |receiver: bool, lag: Option<f64>| {
        verdict("replication", |s| {
            let receiver_status = receiver.then(|| "streaming".into());
            let standby = Standby { receiver, receiver_status, lag_seconds: lag };
            s.replication = Some(Replication { standby: Some(standby), replicas: Vec::new() });
        })
    };
    expect(&standby(true, None), Healthy, "ok", &[]);
    expect(&standby(true, Some(29.9)), Healthy, "ok", &[]);
    expect(&standby(true, Some(30.0)), Degraded, "standby_lag", &["30 s"]);
    expect(&standby(false, Some(29.9)), Healthy, "ok", &[]);
    expect(&standby(false, Some(30.0)), Degraded, "receiver_down", &["WAL receiver"]);
    let replica = |lag: Option<f64>| {
        verdict("replication", |s| {
            let replica = Replica {
                name: Some("eu".into()),
                state: Some("streaming".into()),
                lag_seconds: lag,
                lag_bytes: None,
            };
            s.replication = Some(Replication { standby: None, replicas: vec![replica] });
        })
    };
    expect(&replica(None), Healthy, "ok", &[]);
    expect(&replica(Some(29.9)), Healthy, "ok", &[]);
    expect(&replica(Some(90_000.0)), Degraded, "replica_lag", &["'eu'", "1 d 1 h", "30 s"]);
}

#[test]
fn slots_and_archiving() {
    let slot = |active: bool, wal_status: &str| {
        verdict("replication", |s| {
            let retained_bytes = Some(3.0 * 1_048_576.0);
            s.slots = Some(vec![Slot {
                name: "s1".into(),
                active,
                wal_status: Some(wal_status.into()),
                retained_bytes,
            }]);
        })
    };
    expect(&slot(false, "reserved"), Healthy, "ok", &[]);
    expect(&slot(true, "extended"), Healthy, "ok", &[]);
    expect(
        &slot(false, "extended"),
        Degraded,
        "slot_retains_wal",
        &["inactive", "3 MiB", "pg_drop_replication_slot"],
    );
    expect(&slot(true, "unreserved"), Degraded, "slot_retains_wal", &["(active)"]);
    expect(&slot(false, "lost"), Degraded, "slot_lost", &["'s1'"]);
    let archiver = |enabled: bool, failing: bool| {
        verdict("replication", |s| {
            s.archiver =
                Some(Archiver { enabled, failing, failed_count: 1, since_success_seconds: None });
        })
    };
    expect(&archiver(true, false), Healthy, "ok", &[]);
    expect(&archiver(false, true), Healthy, "ok", &[]);
    expect(
        &archiver(true, true),
        Degraded,
        "archiving_failed",
        &["never succeeded", "archive_command"],
    );
}

#[test]
fn a_part_that_cannot_be_read_is_unknown_with_the_grant() {
    let hidden = |what: &str, s: &mut Snapshot| {
        s.unavailable.push(Unavailable {
            what: what.into(),
            code: "not_supported",
            reason: "this server has no x()".into(),
            remedy: "nothing here".into(),
        });
    };
    let slots = verdict("replication", |s| {
        s.slots = None;
        hidden("replication slots", s);
    });
    expect(&slots, Unknown, "not_supported", &["this server has no x()", "nothing here"]);
    let ages = verdict("wraparound", |s| {
        s.ages = None;
        hidden("wraparound", s);
    });
    expect(&ages, Unknown, "not_supported", &["this server has no x()"]);
    let replicas = verdict("replication", |s| {
        s.sees_all = false;
        let replica = Replica { name: None, state: None, lag_seconds: None, lag_bytes: None };
        s.replication = Some(Replication { standby: None, replicas: vec![replica] });
    });
    expect(&replicas, Unknown, "not_permitted", &["grant pg_monitor"]);
}

#[test]
fn wraparound_takes_the_worse_counter_of_the_worst_database() {
    const HALF: i64 = 1 << 30;
    const THREE_QUARTERS: i64 = HALF + HALF / 2;
    for (xid, mxid, status, reason, words) in [
        (HALF - 1, 0, Healthy, "ok", "50 %"),
        (HALF, 0, Degraded, "wraparound_ahead", "transaction ids"),
        (0, HALF, Degraded, "wraparound_ahead", "multixact ids"),
        (THREE_QUARTERS - 1, 0, Degraded, "wraparound_ahead", "template0"),
        (THREE_QUARTERS, HALF, Unhealthy, "wraparound_near", "VACUUM"),
        (HALF, THREE_QUARTERS, Unhealthy, "wraparound_near", "multixact ids"),
    ] {
        let found = verdict("wraparound", |s| {
            s.ages = Some(vec![age("app", 5, 5), age("template0", xid, mxid)]);
        });
        expect(&found, status, reason, &[words]);
        assert_eq!(found.measured["own"]["name"], "app");
    }
}

#[test]
fn schema() {
    let found = |schema| upkeep::schema(schema);
    expect(&found(None), Unknown, "not_measured", &[]);
    let many = (0..7).map(|i| format!("table t{i}")).collect();
    let mismatched = Schema { mismatches: many, ..Schema::default() };
    expect(
        &found(Some(&mismatched)),
        Degraded,
        "schema_mismatch",
        &["7 differ", "table t4 and 2 more"],
    );
    let failed = Schema { failed: Some("003_x.sql: syntax error".into()), ..Schema::default() };
    expect(
        &found(Some(&failed)),
        Unhealthy,
        "migration_failed",
        &["003_x.sql: syntax error", "SIGHUP"],
    );
    let untrusted = Schema { untrusted: true, ..failed.clone() };
    expect(&found(Some(&untrusted)), Unhealthy, "untrusted_schema", &["another role controls"]);
    let edited = Schema { mismatches: vec!["app/001_a was edited".into()], ..failed.clone() };
    expect(
        &found(Some(&edited)),
        Unhealthy,
        "schema_mismatch",
        &["no migration is applied", "app/001_a was edited"],
    );
}

#[test]
fn partitions() {
    let needs = [PartitionsNeeded { table: "steward.t".into(), ahead: 2 }];
    let with = |default: bool, days: &[i64]| {
        let mut snapshot = snapshot();
        let day = |day: i64| day as f64 * 86_400.0;
        let bounds = days.iter().map(|from| (Some(day(*from)), Some(day(from + 1)))).collect();
        snapshot.partitions =
            Some(vec![Partitioned { table: "steward.t".into(), default, bounds }]);
        upkeep::partitions(&snapshot, &needs)
    };
    expect(&with(false, &[0, 1, 2]), Healthy, "ok", &[]);
    expect(&with(false, &[0, 1]), Degraded, "partitions_short", &["steward.t has 1 of 2 ahead"]);
    expect(&with(false, &[1, 2, 3]), Unhealthy, "partition_missing", &["takes no rows"]);
    expect(&with(true, &[1, 2, 3]), Degraded, "partitions_short", &["none for today"]);
    let absent = upkeep::partitions(&snapshot(), &needs);
    expect(&absent, Unhealthy, "partition_missing", &["no partitioned table"]);
}

#[test]
fn jobs() {
    let failing = vec![FailingJob { name: "vacuum".into(), error: "lock_timeout".into() }];
    let failed = Jobs { failing, paused: Some("ann".into()), ..Jobs::default() };
    expect(&upkeep::jobs(Some(&failed)), Degraded, "jobs_failing", &["vacuum (lock_timeout)"]);
    let paused = Jobs { paused: Some("ann".into()), ..Jobs::default() };
    expect(&upkeep::jobs(Some(&paused)), Degraded, "paused", &["by ann", "pgsteward resume --all"]);
    let blocked = vec![FailingJob {
        name: "vacuum".into(),
        error: "not_permitted: needs GRANT a TO b".into(),
    }];
    let blocked = Jobs { not_permitted: blocked, ..Jobs::default() };
    expect(
        &upkeep::jobs(Some(&blocked)),
        Degraded,
        "not_permitted",
        &["vacuum", "GRANT a TO b", "disable the job"],
    );
    let warned =
        Jobs { warnings: vec!["vacuum: public.t: not permitted".into()], ..Jobs::default() };
    expect(&upkeep::jobs(Some(&warned)), Healthy, "ok", &["public.t: not permitted"]);
    expect(&upkeep::jobs(None), Unknown, "not_measured", &[]);
}
