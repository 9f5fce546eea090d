//! The probe against real servers: true numbers, named blindness, bad days.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;
#[path = "health/turns.rs"]
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use harness::{
    BOUND, PrivateServer, Proxy, Template, TestClient, TestDatabase, connect, wait_for, wait_until,
};
use pgsteward::config::{self, Pooler, Secret, SecretSource};
use pgsteward::db::{Database, Kind, Purpose};
use pgsteward::health::{Audit, Board, Inputs, Jobs, PartitionsNeeded, Schema, Status};
use pgsteward::jobs::probe::{self, Outcome, Probe, ProbeState};
use pgsteward::jobs::sample;
use pgsteward::jobs::writer::Destination;
use pgsteward::lifecycle::Tasks;
use pgsteward::observe::{Collector, Snapshot, WatchedTable};
use pgsteward::telemetry::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use turns::Turns;

/// One target with what a daemon would hold for it.
struct Steward {
    db: Arc<Database>,
    metrics: Arc<Metrics>,
    board: Board,
    limits: config::Health,
    watched: Vec<WatchedTable>,
    bound: Duration,
    skew: TimeDelta,
    state: ProbeState,
}

impl Steward {
    fn new(url: &str) -> Steward {
        let config = config::Database {
            url: Some(SecretSource::Inline(Secret::new(url))),
            direct_url: None,
            password: None,
            supabase: None,
            pooler: Pooler::None,
            pool_min_size: 0,
            pool_max_size: 2,
            query_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        };
        let limits = config::Health {
            cache_ttl: Duration::from_secs(300),
            stale_after: Duration::from_secs(60),
            recover_after: 2,
            // A loaded machine may be slow; slowness is judged in its own tests.
            response_degraded: BOUND,
            connections_degraded: 0.80,
            connections_unhealthy: 0.95,
            transaction_age_degraded: Duration::from_secs(900),
            lock_wait_degraded: Duration::from_secs(60),
            replication_lag_degraded: Duration::from_secs(30),
            wraparound_degraded: 0.5,
            wraparound_unhealthy: 0.75,
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let table = |name: &str| WatchedTable { schema: "steward".into(), table: name.into() };
        Steward {
            db: Database::new("main", &config, 2, &Tasks::new(), &metrics),
            metrics,
            board: Board::new("main", limits.stale_after),
            watched: vec![table("system_health"), table("connection_metrics")],
            bound: BOUND,
            skew: TimeDelta::zero(),
            state: ProbeState::new(&config::Config::default()),
            limits,
        }
    }

    async fn probe(&mut self) -> Outcome {
        self.probe_as(true).await
    }

    async fn probe_as(&mut self, observer: bool) -> Outcome {
        let probe = Probe {
            db: &self.db,
            board: &self.board,
            metrics: &self.metrics,
            limits: &self.limits,
            instance: "here",
            watched: &self.watched,
            writable: true,
            keeps: true,
            skew: self.skew,
            bound: self.bound,
        };
        let inputs = Inputs {
            schema: Some(Schema::default()),
            partitions: vec![PartitionsNeeded { table: "steward.system_health".into(), ahead: 14 }],
            jobs: Some(Jobs::default()),
            audit: Some(Audit::default()),
        };
        match observer {
            true => probe::run(&probe, &mut self.state, &inputs).await,
            false => probe::connectivity_only(&probe, &mut self.state).await,
        }
    }

    async fn sample(&mut self) -> Result<u64, Kind> {
        let to = Destination {
            db: &self.db,
            metrics: &self.metrics,
            writable: true,
            keeps: true,
            skew: self.skew,
            bound: BOUND,
        };
        sample::run(&to, "here", &mut self.state).await.map_err(|error| error.kind())
    }

    async fn snapshot(&self) -> Snapshot {
        let conn = self.db.acquire(Purpose::Observe).await.unwrap();
        Collector::default().collect(&conn, &self.watched, BOUND).await.unwrap().snapshot
    }

    /// The value of a series, by its start up to the space.
    fn metric(&self, series: &str) -> Option<f64> {
        let page = String::from_utf8(self.metrics.encode().unwrap()).unwrap();
        let line = page
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.map(|line| line[series.len() + 1..].parse().unwrap())
    }
}

#[track_caller]
fn expect(outcome: &Outcome, component: &str, status: Status, reason: &str, words: &[&str]) {
    let found = outcome
        .report
        .component(component)
        .unwrap_or_else(|| panic!("no {component}: {outcome:#?}"));
    assert_eq!((found.status, found.reason), (status, reason), "{found:#?}");
    for word in words {
        let said = [Some(&found.message), found.remedy.as_ref()];
        assert!(
            said.into_iter().flatten().any(|text| text.contains(word)),
            "{found:?} does not say {word:?}"
        );
    }
}

async fn in_state(client: &TestClient, state: &str, sessions: i64) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = '{state}' AND datname = current_database() \
         AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pgsteward/%'"
    );
    wait_until(state, BOUND, async || client.number(&sql).await == sessions).await;
}

#[tokio::test]
async fn a_healthy_server_is_told_with_its_real_numbers() {
    let server =
        PrivateServer::start(&[("max_connections", "50"), ("superuser_reserved_connections", "4")])
            .await;
    let client = server.client().await;
    client.batch_execute("CREATE TABLE shop (id int)").await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.client().await);
    }
    for sql in ["BEGIN; LOCK TABLE shop", "BEGIN; SELECT 1"] {
        let session = server.client().await;
        session.batch_execute(sql).await.unwrap();
        open.push(session);
    }
    let holder = open[3].number("SELECT pg_backend_pid()").await;
    let blocked = server.client().await;
    let waiter = blocked.number("SELECT pg_backend_pid()").await;
    let waiting = tokio::spawn(async move { blocked.batch_execute("SELECT FROM shop").await });
    in_state(&client, "idle", 3).await;
    in_state(&client, "idle in transaction", 2).await;
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE pid = {waiter} AND NOT granted AND waitstart IS NOT NULL"
    );
    wait_until("a session waits for a lock", BOUND, async || client.number(&waits).await == 1)
        .await;

    let mut steward = Steward::new(&server.url());
    steward.watched.clear();
    let snapshot = steward.snapshot().await;
    let sessions = &snapshot.sessions;
    // Beside the three: the client that looks, idle too. Active: the blocked one and ourselves.
    assert_eq!(sessions.in_state("idle"), 4, "{sessions:?}");
    assert_eq!(sessions.idle_in_transaction(), 2, "{sessions:?}");
    assert_eq!(sessions.in_state("active"), 2, "{sessions:?}");
    assert_eq!((sessions.total(), sessions.hidden(), sessions.waiting), (8, 0, 1), "{sessions:?}");
    let wait = sessions.longest_wait.as_ref().expect("somebody waits");
    assert_eq!((i64::from(wait.pid), i64::from(wait.blockers[0].pid)), (waiter, holder));
    assert_eq!(wait.blockers[0].user.as_deref(), Some("postgres"));
    assert!(
        wait.seconds.is_some_and(|seconds| seconds >= 0.0 && seconds < BOUND.as_secs_f64()),
        "{wait:?}"
    );
    let oldest = sessions.oldest_transaction.as_ref().expect("a transaction is open");
    assert_eq!((i64::from(oldest.pid), oldest.state.as_str()), (holder, "idle in transaction"));
    let idle = sessions.oldest_idle_in_transaction.as_ref().expect("one idles in a transaction");
    assert_eq!(idle.state, "idle in transaction");
    assert_eq!(
        (snapshot.max_connections, snapshot.superuser_reserved, snapshot.usable_connections()),
        (50, 4, 46)
    );
    assert!(
        snapshot.sees_all && !snapshot.in_recovery && snapshot.unavailable.is_empty(),
        "{snapshot:?}"
    );
    let version = client.number("SHOW server_version_num").await;
    assert_eq!(i64::from(snapshot.version), version);
    let ages = snapshot.ages.as_ref().unwrap();
    assert!(
        ages.iter().any(|age| age.name == "template0" && !age.own && age.xid_age > 0),
        "{ages:?}"
    );
    assert_eq!(ages.iter().filter(|age| age.own).count(), 1);

    let outcome = steward.probe().await;
    for name in [
        "connectivity",
        "response",
        "connections",
        "transactions",
        "locks",
        "replication",
        "wraparound",
    ] {
        expect(&outcome, name, Status::Healthy, "ok", &[]);
    }
    expect(&outcome, "locks", Status::Healthy, "ok", &["1 session waits"]);
    assert_eq!(steward.metric("pgsteward_database_up{target=\"main\"}"), Some(1.0));
    assert_eq!(steward.metric("pg_settings_max_connections{target=\"main\"}"), Some(50.0));
    let count = |state| {
        format!(
            "pg_stat_activity_connections{{datname=\"postgres\",state=\"{state}\",target=\"main\"}}"
        )
    };
    assert_eq!(steward.metric(&count("idle in transaction")), Some(2.0));
    assert_eq!(steward.metric(&count("disabled")), Some(0.0));

    // A limit that is passed names who passes it.
    steward.limits.lock_wait_degraded = Duration::ZERO;
    steward.limits.transaction_age_degraded = Duration::ZERO;
    let outcome = steward.probe().await;
    let behind = format!("behind pid {holder} (user postgres)");
    expect(&outcome, "locks", Status::Degraded, "lock_wait", &[&format!("pid {waiter}"), &behind]);
    expect(
        &outcome,
        "transactions",
        Status::Degraded,
        "transaction_old",
        &[&format!("pid {holder}")],
    );

    open[3].batch_execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_probe_leaves_a_row_per_component_and_samples_become_one_row() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let mut steward = Steward::new(&database.url());
    steward.limits.response_degraded = Duration::ZERO;
    let outcome = steward.probe().await;
    expect(&outcome, "partitions", Status::Healthy, "ok", &[]);
    expect(&outcome, "response", Status::Degraded, "slow", &["look for load"]);
    // One per component, and one for the change of the overall status.
    assert_eq!(outcome.rows_written, 12);
    let ahead = steward
        .metric("pgsteward_partitions_ahead{table=\"steward.system_health\",target=\"main\"}");
    assert!(ahead.is_some_and(|ahead| ahead >= 14.0), "{ahead:?}");
    for component in &outcome.report.components {
        let row = client
            .text(&format!(
                "SELECT concat_ws('|', status, reason, message, latency_ms > 0, jsonb_typeof(details),
                        abs(extract(epoch FROM now() - created_at)) < 60, details ->> 'remedy')
                   FROM steward.system_health WHERE component = '{}' AND instance = 'here'",
                component.name
            ))
            .await;
        let wanted = format!(
            "{}|{}|{}|t|object|t{}",
            component.status.as_str(),
            component.reason,
            component.message,
            component.remedy.as_ref().map_or_else(String::new, |remedy| format!("|{remedy}"))
        );
        assert_eq!(row, wanted);
    }

    steward.probe().await;
    assert_eq!(steward.sample().await, Ok(1));
    let row = client
        .text(
            "SELECT concat_ws('|', samples, total_max >= 1, active_min >= 1, idle_max IS NOT NULL, saturation_max > 0,
                    by_database ? current_database(), pool #>> '{observe,max}',
                    max_connections = current_setting('max_connections')::int)
               FROM steward.connection_metrics WHERE instance = 'here'",
        )
        .await;
    assert_eq!(row, "2|t|t|t|t|t|1|t");
    assert_eq!(steward.sample().await, Ok(0), "nothing was seen since");
}

#[tokio::test]
async fn a_role_without_pg_monitor_says_what_it_cannot_see_and_what_to_grant() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let role = database.role("plain", "").await;
    let client = database.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let mut steward = Steward::new(&role.url);
    let snapshot = steward.snapshot().await;
    let own = |state: &str| {
        let counts = snapshot.sessions.counts.iter();
        counts
            .filter(|c| c.database.as_deref() == Some(database.name()) && c.state == state)
            .map(|c| c.sessions)
            .sum()
    };
    let (hidden, idle): (i64, i64) = (own("hidden"), own("idle in transaction"));
    assert_eq!(
        (hidden, idle),
        (1, 0),
        "a masked session is hidden, never idle: {:?}",
        snapshot.sessions
    );
    let grant = format!("GRANT pg_monitor TO \"{}\"", role.name);
    assert!(
        snapshot.unavailable.iter().any(|unavailable| unavailable.remedy == grant),
        "{:?}",
        snapshot.unavailable
    );
    let outcome = steward.probe().await;
    expect(&outcome, "transactions", Status::Unknown, "not_permitted", &[&grant]);

    for sql in ["ROLLBACK", &grant, "BEGIN"] {
        client.batch_execute(sql).await.unwrap();
    }
    let outcome = steward.probe().await;
    expect(&outcome, "transactions", Status::Healthy, "ok", &[]);
    assert!(steward.snapshot().await.unavailable.is_empty());
}

#[tokio::test]
async fn a_function_that_is_closed_or_refuses_is_left_out_and_named() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let role = database.role("plain", "IN ROLE pg_monitor").await;
    let client = database.client().await;
    client
        .batch_execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_stat_get_archiver() FROM PUBLIC")
        .await
        .unwrap();
    let snapshot = Steward::new(&role.url).snapshot().await;
    let grant =
        format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_get_archiver() TO \"{}\"", role.name);
    assert_eq!(snapshot.archiver, None);
    assert!(
        snapshot.unavailable.iter().any(|unavailable| unavailable.remedy == grant),
        "{:?}",
        snapshot.unavailable
    );
    client.batch_execute(&grant).await.unwrap();
    assert!(Steward::new(&role.url).snapshot().await.archiver.is_some());

    // The view is open, what it calls is not: only the attempt shows.
    client
        .batch_execute(
            "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_get_replication_slots() FROM PUBLIC;
             ALTER FUNCTION pg_catalog.mxid_age(xid) RENAME TO gone",
        )
        .await
        .unwrap();
    let steward = Steward::new(&role.url);
    let (mut collector, conn) =
        (Collector::default(), steward.db.acquire(Purpose::Observe).await.unwrap());
    for round in ["found out", "known"] {
        let snapshot = collector.collect(&conn, &[], BOUND).await.unwrap().snapshot;
        assert_eq!((&snapshot.slots, &snapshot.ages), (&None, &None), "{round}");
        let unavailable = |what| {
            snapshot.unavailable.iter().find(|unavailable| unavailable.what == what).expect(what)
        };
        let slots = unavailable("replication slots");
        assert_eq!(slots.code, "not_permitted", "{slots:?}");
        assert!(
            slots.reason.contains("permission denied for function pg_get_replication_slots"),
            "{slots:?}"
        );
        let ages = unavailable("wraparound");
        assert_eq!(
            (ages.code, ages.reason.as_str()),
            ("not_supported", "this server has no mxid_age(xid)")
        );
        assert!(
            snapshot.archiver.is_some() && snapshot.replication.is_some(),
            "{round}: the others are answered"
        );
    }
}

#[tokio::test]
async fn a_killed_server_is_named_within_the_bound_and_recovery_has_to_prove_itself() {
    let mut server = PrivateServer::start(&[]).await;
    let mut steward = Steward::new(&server.url_at(server.address(), "postgres"));
    steward.watched.clear();
    steward.bound = Duration::from_secs(12);
    let outcome = steward.probe().await;
    expect(&outcome, "connectivity", Status::Healthy, "ok", &[]);
    let since = outcome.report.component("connectivity").unwrap().since;

    server.kill().await;
    let started = Instant::now();
    let outcome = steward.probe().await;
    assert!(started.elapsed() <= steward.bound, "the probe took {:?}", started.elapsed());
    assert!(!outcome.measured);
    expect(
        &outcome,
        "connectivity",
        Status::Unhealthy,
        "refused",
        &["cannot be reached", "start the server"],
    );
    expect(&outcome, "connections", Status::Unknown, "not_measured", &[]);
    let reading = steward.board.read();
    assert_eq!((reading.status, reading.stale), (Status::Unhealthy, false));
    assert_eq!(reading.report.as_deref(), Some(&*outcome.report));
    for (series, value) in [
        ("pgsteward_database_up{target=\"main\"}", Some(0.0)),
        ("pgsteward_database_down{kind=\"refused\",target=\"main\"}", Some(1.0)),
        ("pgsteward_database_down{kind=\"auth\",target=\"main\"}", Some(0.0)),
        ("pgsteward_health_status{component=\"connectivity\",target=\"main\"}", Some(2.0)),
        ("pg_up{target=\"main\"}", Some(0.0)),
        ("pg_settings_max_connections{target=\"main\"}", None),
        ("pgsteward_spool_records{target=\"main\"}", Some(23.0)),
    ] {
        assert_eq!(steward.metric(series), value, "{series}");
    }

    server.restart().await;
    let outcome = steward.probe().await;
    expect(&outcome, "connectivity", Status::Unhealthy, "recovering", &["1 of 2"]);
    assert_eq!(
        steward.metric("pgsteward_database_up{target=\"main\"}"),
        Some(1.0),
        "up is not judged, it is measured"
    );
    let outcome = steward.probe().await;
    expect(&outcome, "connectivity", Status::Healthy, "ok", &[]);
    assert!(outcome.report.component("connectivity").unwrap().since > since);
    assert_eq!(
        steward.metric("pgsteward_database_down{kind=\"refused\",target=\"main\"}"),
        Some(0.0)
    );
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_within_the_bound() {
    let database = TestDatabase::create(Template::Empty).await;
    let proxy = Proxy::start(database.server().address()).await;
    let mut steward = Steward::new(&database.url_at(proxy.address()));
    expect(&steward.probe().await, "connectivity", Status::Healthy, "ok", &[]);
    proxy.blackhole().await;
    steward.bound = Duration::from_secs(2);
    let started = Instant::now();
    let outcome = steward.probe().await;
    let took = started.elapsed();
    assert!(took < steward.bound + Duration::from_secs(1), "the probe took {took:?}");
    expect(&outcome, "connectivity", Status::Unhealthy, "timeout", &["no answer within"]);
    assert_eq!(
        steward.metric("pgsteward_database_down{kind=\"timeout\",target=\"main\"}"),
        Some(1.0)
    );
}

#[tokio::test]
async fn a_connection_that_was_terminated_is_replaced_without_a_word() {
    let database = TestDatabase::create(Template::Migrated).await;
    let mut steward = Steward::new(&database.url());
    steward.probe().await;
    let client = database.client().await;
    let ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgsteward/observe'";
    assert_eq!(client.number(&format!("SELECT count(pg_terminate_backend(pid)) {ours}")).await, 1);
    wait_until("the backend ends", BOUND, async || {
        client.number(&format!("SELECT count(*) {ours}")).await == 0
    })
    .await;
    expect(&steward.probe().await, "connectivity", Status::Healthy, "ok", &[]);
}

#[tokio::test]
async fn a_connection_that_breaks_under_the_question_is_asked_again_over_a_new_one() {
    let database = TestDatabase::create(Template::Migrated).await;
    let turns = Turns::start(database.server().address()).await;
    let mut steward = Steward::new(&database.url_at(turns.address()));
    steward.probe().await;
    turns.lose_next();
    let outcome = steward.probe().await;
    assert!(turns.lost(), "the connection broke");
    assert!(outcome.measured, "{outcome:?}");
    expect(&outcome, "connectivity", Status::Healthy, "ok", &[]);
}

#[tokio::test]
async fn a_fresh_connect_shows_what_the_open_connection_hides() {
    let server = PrivateServer::start(&[]).await;
    let admin = server.client().await;
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app' IN ROLE pg_monitor").await.unwrap();
    let mut steward = Steward::new(&format!("postgresql://app:app@{}/postgres", server.address()));
    steward.watched.clear();
    steward.probe().await;
    server.prepend_hba("host all app all reject");
    server.reload().await;
    // Nothing is known of fresh connects now, so that one is due; the open connections stay.
    steward.state = ProbeState::new(&config::Config::default());
    expect(&steward.probe().await, "connectivity", Status::Healthy, "ok", &[]);
    let words = ["an open connection answers, but a new one fails", "pg_hba.conf"];
    expect(&steward.probe().await, "connectivity", Status::Degraded, "hba", &words);
    assert_eq!(steward.metric("pgsteward_database_up{target=\"main\"}"), Some(1.0));

    // The open connection hangs: the fresh one says more than "timeout".
    let ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgsteward/observe'";
    let backend = Pid::from_raw(admin.number(ours).await.try_into().unwrap()).unwrap();
    kill_process(backend, Signal::STOP).unwrap();
    steward.bound = Duration::from_secs(4);
    let outcome = steward.probe().await;
    kill_process(backend, Signal::CONT).unwrap();
    expect(
        &outcome,
        "connectivity",
        Status::Unhealthy,
        "hba",
        &["cannot be reached", "pg_hba.conf"],
    );

    // Mended, it is found out at the next tick, not minutes later.
    server.prepend_hba("host all app all scram-sha-256");
    server.reload().await;
    steward.bound = BOUND;
    wait_until("connectivity recovers", BOUND, async || {
        steward.probe().await.report.component("connectivity").unwrap().status == Status::Healthy
    })
    .await;
}

#[tokio::test]
async fn full_connection_slots_show_while_the_open_connection_still_answers() {
    let settings = [
        ("max_connections", "10"),
        ("superuser_reserved_connections", "3"),
        ("max_wal_senders", "0"),
    ];
    let server = PrivateServer::start(&settings).await;
    let admin = server.client().await;
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app' IN ROLE pg_monitor").await.unwrap();
    let url = format!("postgresql://app:app@{}/postgres", server.address());
    let mut steward = Steward::new(&url);
    steward.watched.clear();
    // The connection for rows is opened too, before there is none left.
    expect(&steward.probe().await, "connectivity", Status::Healthy, "ok", &[]);
    let mut held = Vec::new();
    wait_for("no slot is left", BOUND, async || match connect(&url).await {
        Ok(client) => {
            held.push(client);
            None
        }
        Err(error) => (error.code().map(|code| code.code()) == Some("53300")).then_some(()),
    })
    .await;
    let outcome = steward.probe().await;
    expect(&outcome, "connections", Status::Unhealthy, "connections_exhausted", &["of 7"]);

    // The open connection broken, the reason is named.
    let ours = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'pgsteward/%'";
    assert!(admin.number(ours).await >= 1);
    wait_for("no slot is left", BOUND, async || match connect(&url).await {
        Ok(client) => {
            held.push(client);
            None
        }
        Err(_) => Some(()),
    })
    .await;
    let outcome = steward.probe().await;
    expect(
        &outcome,
        "connectivity",
        Status::Unhealthy,
        "too_many_connections",
        &["raise max_connections"],
    );
}

#[tokio::test]
async fn locks_on_tables_keep_no_tick_waiting() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    client.batch_execute("CREATE TABLE shop (id int PRIMARY KEY); BEGIN").await.unwrap();
    client
        .batch_execute(
            "LOCK TABLE shop, steward.system_health, steward.connection_metrics IN ACCESS EXCLUSIVE MODE;
             ALTER TABLE shop ADD COLUMN name text",
        )
        .await
        .unwrap();
    let steward = Steward::new(&database.url());
    // A tick that met one of those locks would fail by its lock_timeout of half a second.
    let snapshot = steward.snapshot().await;
    let partitions = snapshot.partitions.expect("partitions are read");
    assert_eq!(partitions.len(), 2);
    for table in partitions {
        assert!(table.ahead(snapshot.time).is_some_and(|ahead| ahead >= 14), "{table:?}");
    }
}

#[tokio::test]
async fn a_locked_catalog_spoils_the_measurement_but_the_database_is_up() {
    let database = TestDatabase::create(Template::Migrated).await;
    let mut steward = Steward::new(&database.url());
    expect(&steward.probe().await, "connectivity", Status::Healthy, "ok", &[]);
    let client = database.client().await;
    client
        .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_inherits IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    steward.bound = Duration::from_secs(4);
    let outcome = steward.probe().await;
    expect(
        &outcome,
        "connectivity",
        Status::Degraded,
        "lock_timeout",
        &["the server answers", "system catalogs"],
    );
    expect(&outcome, "connections", Status::Unknown, "not_measured", &[]);
    assert_eq!(steward.metric("pgsteward_database_up{target=\"main\"}"), Some(1.0));
    assert_eq!(steward.metric("pg_up{target=\"main\"}"), Some(1.0));
    assert_eq!(
        steward.metric("pg_settings_max_connections{target=\"main\"}"),
        None,
        "what is not known is not shown"
    );
    client.batch_execute("ROLLBACK").await.unwrap();
    let outcome = steward.probe().await;
    assert!(outcome.measured, "the connection is usable again: {outcome:?}");
}

#[tokio::test]
async fn rows_that_cannot_be_written_wait_and_the_board_is_current() {
    let database = TestDatabase::create(Template::Empty).await;
    let mut steward = Steward::new(&database.url());
    steward.watched.clear();
    let outcome = steward.probe().await;
    assert!(outcome.measured && outcome.rows_written == 0, "{outcome:?}");
    expect(&outcome, "connectivity", Status::Healthy, "ok", &[]);
    assert_eq!(steward.board.read().report.as_deref(), Some(&*outcome.report));
    let components = outcome.report.components.len() as f64;
    // One more tells the audit trail that this is no healthy beginning.
    assert_eq!(steward.metric("pgsteward_spool_records{target=\"main\"}"), Some(components + 1.0));
    assert_eq!(steward.sample().await, Err(Kind::Sql));
    assert_eq!(steward.metric("pgsteward_spool_records{target=\"main\"}"), Some(components + 2.0));
    let page = String::from_utf8(steward.metrics.encode().unwrap()).unwrap();
    assert!(
        !page.contains("pgsteward_rows_dropped_total{"),
        "a table that is missing can come back: {page}"
    );
}

#[tokio::test]
async fn what_was_measured_in_an_outage_carries_the_databases_clock() {
    let database = TestDatabase::create(Template::Migrated).await;
    let proxy = Proxy::start(database.server().address()).await;
    let client = database.client().await;
    let mut steward = Steward::new(&database.url_at(proxy.address()));
    // As if this machine's clock were three hours ahead.
    steward.skew = TimeDelta::hours(-3);
    steward.probe().await;
    proxy.cut().await;
    let outcome = steward.probe().await;
    assert_eq!((outcome.measured, outcome.rows_written), (false, 0));
    expect(&outcome, "connectivity", Status::Unhealthy, "refused", &[]);
    proxy.pass().await;
    let outcome = steward.probe().await;
    assert_eq!(outcome.rows_written, 11, "what waited is not counted as the probe's own");
    let hours =
        "SELECT string_agg(round(extract(epoch FROM recorded_at - created_at) / 3600)::text, ' ' ORDER BY recorded_at)
                   FROM steward.system_health WHERE component = 'connectivity'";
    assert_eq!(
        client.text(hours).await,
        "0 3 0",
        "where the server answers, it tells the time itself"
    );
    let replayed = "pgsteward_spool_replayed_total{table=\"system_health\",target=\"main\"}";
    assert_eq!(steward.metric(replayed), Some(11.0));
}

#[tokio::test]
async fn an_instance_that_does_not_observe_tells_its_connectivity_and_nothing_of_the_server() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let mut steward = Steward::new(&database.url());
    let outcome = steward.probe_as(false).await;
    assert_eq!((outcome.rows_written, outcome.report.status), (1, Status::Healthy));
    let rows = "SELECT string_agg(component || ' ' || status, ',') FROM steward.system_health";
    assert_eq!(client.text(rows).await, "connectivity healthy");
    assert_eq!(steward.metric("pg_up{target=\"main\"}"), None);
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name LIKE 'pgsteward/%'";
    assert_eq!(client.number(ours).await, 1, "it holds one connection");

    // It becomes the observer, and stands down again.
    steward.probe().await;
    assert_eq!(steward.metric("pg_up{target=\"main\"}"), Some(1.0));
    steward.state.stand_down(&steward.metrics, "main");
    let outcome = steward.probe_as(false).await;
    assert_eq!(outcome.report.components.len(), 1);
    let page = String::from_utf8(steward.metrics.encode().unwrap()).unwrap();
    let left: Vec<&str> = page.lines().filter(|line| line.starts_with("pg_")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        steward.metric("pgsteward_health_status{component=\"locks\",target=\"main\"}"),
        None
    );
}

#[tokio::test]
async fn a_tick_is_one_round_trip_and_the_first_on_a_connection_two() {
    let database = TestDatabase::create(Template::Migrated).await;
    let turns = Turns::start(database.server().address()).await;
    let steward = Steward::new(&database.url_at(turns.address()));
    let conn = steward.db.acquire(Purpose::Observe).await.unwrap();
    let mut collector = Collector::default();
    for allowed in [2, 1, 1, 1] {
        let before = turns.count();
        collector.collect(&conn, &steward.watched, BOUND).await.unwrap();
        assert_eq!(turns.count() - before, allowed);
    }
}

#[tokio::test]
async fn a_standby_without_a_primary_is_seen_as_one() {
    let mut server = PrivateServer::start(&[("hot_standby", "on"), ("wal_level", "replica")]).await;
    server.stop().await;
    std::fs::write(server.ephemeral().data_dir().join("standby.signal"), "").unwrap();
    server.restart().await;
    let mut steward = Steward::new(&server.url());
    steward.watched.clear();
    let snapshot = steward.snapshot().await;
    assert!(snapshot.in_recovery);
    let standby = snapshot.replication.unwrap().standby.expect("a standby");
    assert!(!standby.receiver, "{standby:?}");
    let outcome = steward.probe().await;
    expect(&outcome, "connectivity", Status::Healthy, "ok", &[]);
    assert_eq!(
        outcome.report.component("replication").unwrap().measured["standby"]["receiver"],
        false
    );
    assert_eq!(steward.metric("pg_replication_is_replica{target=\"main\"}"), Some(1.0));
}

/// Prints, asserts no time: a figure for the log.
#[tokio::test]
async fn a_thousand_tables_are_one_tick_like_any_other() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    client
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE public.t%s (id int)', i); END LOOP; END $$",
        )
        .await
        .unwrap();
    let steward = Steward::new(&database.url());
    let conn = steward.db.acquire(Purpose::Observe).await.unwrap();
    let mut collector = Collector::default();
    let mut ticks = Vec::new();
    for _ in 0..21 {
        ticks.push(collector.collect(&conn, &steward.watched, BOUND).await.unwrap().response);
    }
    let first = ticks.remove(0);
    ticks.sort();
    println!(
        "a tick over 1,000 tables: first {first:?}, then median {:?}, worst {:?}",
        ticks[10], ticks[19]
    );
}
