//! What an outage leaves: a full record of itself, whatever dies with the database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harness::{BOUND, Daemon, PrivateServer, Setup, TestClient, wait_until};
use pgsteward::health::spool::{Limits, Place, Record, Spool, Table};
use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;

/// Measures each second and holds a lease that an outage outlives.
const QUICK: &str = r#"
[database]
connect_timeout = "2s"
[jobs]
lease = "5s"
[jobs.health-probe]
schedule = "@every 1s"
[jobs.connection-metrics]
schedule = "@every 1s"
"#;
const LIMITS: Limits = Limits { max_bytes: 1 << 30, max_age: Duration::from_secs(30 * 86_400) };

/// A server that can be killed, with the schema in it.
struct House {
    server: PrivateServer,
    state: tempfile::TempDir,
}

impl House {
    async fn migrated() -> House {
        let house =
            House { server: PrivateServer::start(&[]).await, state: tempfile::tempdir().unwrap() };
        let up = house.setup("").command(&["migrate", "up"]);
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        house
    }

    /// Without a state_dir.
    fn forgetful(&self) -> Setup {
        Setup::new().database(&self.server.url()).config(QUICK)
    }

    fn setup(&self, more: &str) -> Setup {
        let config =
            format!("state_dir = {:?}\n{QUICK}\n{more}", self.state.path().display().to_string());
        Setup::new().database(&self.server.url()).config(&config)
    }

    fn folder(&self) -> PathBuf {
        self.state.path().join("spool/main")
    }

    fn segments(&self) -> usize {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        entries
            .filter(|entry| {
                entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "spool")
            })
            .count()
    }
}

/// A series of the metrics page, all of its labels alike.
async fn metric(daemon: &Daemon, series: &str) -> f64 {
    let page = daemon.get("/metrics").await;
    let value = page
        .body
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

const WAITING: &str = "pgsteward_spool_records{target=\"main\"}";
const PROBES: &str =
    "pgsteward_job_runs_total{job_name=\"health-probe\",outcome=\"succeeded\",target=\"main\"}";

async fn wait_waiting(daemon: &Daemon, wanted: impl Fn(f64) -> bool) {
    wait_until("so many rows wait", BOUND, async || wanted(metric(daemon, WAITING).await)).await;
}

/// Waits until as many rows of the daemon's own connectivity are written as it has probed.
async fn every_probe_is_written(daemon: &Daemon, client: &TestClient) {
    let sql = format!(
        "SELECT count(*) FROM steward.system_health WHERE component = 'connectivity' AND instance LIKE '%/{}/%'",
        daemon.pid()
    );
    let mut last = String::new();
    let settled = wait_until("every probe has its row", BOUND * 2, async || {
        let before = metric(daemon, PROBES).await;
        let rows = client.number(&sql).await as f64;
        let after = metric(daemon, PROBES).await;
        last = format!("{before} probes before, {rows} rows, {after} probes after");
        before == rows && rows == after && metric(daemon, WAITING).await == 0.0
    });
    if tokio::time::timeout(BOUND, settled).await.is_err() {
        panic!("{last}\n{}", daemon.log());
    }
}

fn instant(at: DateTime<Utc>) -> String {
    format!("'{}'", at.to_rfc3339())
}

/// Holds the rows of an outage against what they must be, by their own tables.
async fn expect_record(client: &TestClient, killed: DateTime<Utc>, restarted: DateTime<Utc>) {
    let (killed, restarted) = (instant(killed), instant(restarted));
    let during =
        format!("created_at BETWEEN {killed} AND {restarted} AND component = 'connectivity'");
    let reasons = format!(
        "SELECT string_agg(DISTINCT status || ' ' || reason, ',') FROM steward.system_health WHERE {during}"
    );
    let reasons = client.text(&reasons).await;
    let known = ["unhealthy refused", "unhealthy connection_lost", "unhealthy starting_up"];
    assert!(reasons.split(',').all(|reason| known.contains(&reason)), "{reasons}");
    let late = format!(
        "SELECT count(*) FROM steward.system_health WHERE {during} AND recorded_at < {restarted}"
    );
    assert_eq!(
        client.number(&late).await,
        0,
        "rows that say they were written while the server was dead"
    );
    let doubled = "SELECT count(*) FROM (SELECT FROM steward.system_health GROUP BY instance, created_at, component
                                         HAVING count(*) > 1) AS doubled";
    assert_eq!(client.number(doubled).await, 0, "one row for each component of a probe");
    in_order(client).await;
}

/// What was measured earlier was not written later, by each instance.
async fn in_order(client: &TestClient) {
    // Rows of one instant have no order among themselves, and may be in two transactions.
    let sql = "
        SELECT count(*)
          FROM (SELECT recorded_at < lag(recorded_at)
                         OVER (PARTITION BY instance ORDER BY created_at, recorded_at) AS late
                  FROM steward.system_health) AS rows
         WHERE late";
    assert_eq!(client.number(sql).await, 0);
}

/// From a kill to a restart, under a running daemon.
async fn an_outage_is_recorded(house: &mut House, setup: Setup, place: &str) -> Daemon {
    let daemon = Daemon::spawn(setup).await;
    let samples = "SELECT count(*) FROM steward.connection_metrics";
    let client = house.server.client().await;
    wait_until("samples are written", BOUND, async || client.number(samples).await > 0).await;
    assert_eq!(metric(&daemon, WAITING).await, 0.0);
    drop(client);

    house.server.kill().await;
    let killed = Utc::now();
    // It outlives the lease: then this instance no longer believes that it observes.
    daemon.wait_log("the observer's lease could not be renewed").await;
    let waiting = metric(&daemon, WAITING).await;
    wait_waiting(&daemon, |rows| rows >= waiting + 3.0).await;
    let told = daemon.wait_log("measurements cannot be written").await;
    assert!(told.contains(place), "{told}");
    assert!(metric(&daemon, "pgsteward_spool_bytes{target=\"main\"}").await > 1_000.0);
    let oldest = metric(&daemon, "pgsteward_spool_oldest_timestamp_seconds{target=\"main\"}").await;
    assert!((oldest - killed.timestamp() as f64).abs() < 10.0, "{oldest}");

    let restarted = Utc::now();
    house.server.restart().await;
    let client = house.server.client().await;
    every_probe_is_written(&daemon, &client).await;
    expect_record(&client, killed, restarted).await;
    // A probe each second: the longest time without one is a matter of the machine, not of the
    // outage.
    let during = format!("created_at BETWEEN {} AND {}", instant(killed), instant(restarted));
    let seconds = (restarted - killed).num_seconds();
    let rows = client
        .number(&format!("SELECT count(*) FROM steward.system_health WHERE {during} AND component = 'connectivity'"))
        .await;
    assert!(rows * 3 >= seconds, "{rows} rows of {seconds} seconds");
    let replayed = "pgsteward_spool_replayed_total{table=\"system_health\",target=\"main\"}";
    assert!(metric(&daemon, replayed).await >= rows as f64);
    let over = daemon.wait_log("measurements of the outage from").await;
    assert!(over.contains("were written"), "{over}");
    let page = daemon.get("/metrics").await;
    assert!(!page.body.contains("pgsteward_rows_dropped_total{"), "{}", page.body);
    assert!(!page.body.contains("pgsteward_spool_oldest_timestamp_seconds{"), "none waits");
    // Of the interval that the outage broke off, too.
    let broken = format!(
        "SELECT count(*) FROM steward.connection_metrics WHERE recorded_at > {}",
        instant(restarted)
    );
    wait_until("samples go on", BOUND, async || client.number(&broken).await > 1).await;
    assert_eq!(daemon.log().matches("measurements cannot be written").count(), 1, "said once");
    daemon
}

#[tokio::test]
async fn an_outage_leaves_a_full_record_of_itself() {
    let mut house = House::migrated().await;
    let (setup, folder) = (house.setup(""), house.folder());
    an_outage_is_recorded(&mut house, setup, &folder.display().to_string()).await;
    assert_eq!(house.segments(), 0);
}

/// Down and up, each once, at the instant of its measurement and not at that of the writing; the
/// lease is lost between.
#[tokio::test]
async fn an_outage_is_told_in_the_audit_trail() {
    let mut house = House::migrated().await;
    let client = house.server.client().await;
    let daemon = Daemon::spawn(house.setup("")).await;
    let sick = "SELECT count(*) FROM steward.system_health WHERE component = 'schema'
                   AND created_at = (SELECT max(created_at) FROM steward.system_health) AND status = 'healthy'";
    wait_until("it is observed", BOUND, async || client.number(sick).await == 1).await;
    drop(client);
    let before = Utc::now();
    house.server.kill().await;
    daemon.wait_log("the observer's lease could not be renewed").await;
    daemon.signal(Signal::HUP);
    daemon.wait_log("configuration reloaded").await;
    let restarted = Utc::now();
    house.server.restart().await;

    let client = house.server.client().await;
    let told = "FROM steward.audit_logs WHERE action = 'health.changed'
                 AND 'unhealthy' IN (old_values ->> 'status', new_values ->> 'status')";
    let rows = format!("SELECT count(*) {told}");
    wait_until("the trail tells of both", BOUND, async || client.number(&rows).await >= 2).await;
    every_probe_is_written(&daemon, &client).await;
    let turns = format!(
        "SELECT string_agg(concat_ws(' ', new_values ->> 'status' = 'unhealthy', new_values -> 'components' ? 'connectivity',
                           created_at < {restarted}, created_at > {before},
                           actor LIKE 'instance:%/{pid}/%' AND resource_id = 'main' AND source = 'pgsteward',
                           left(id::text, 13) = left(steward.uuid_v7(created_at)::text, 13)), ', ' ORDER BY created_at) {told}",
        restarted = instant(restarted),
        before = instant(before),
        pid = daemon.pid()
    );
    assert_eq!(client.text(&turns).await, "t t t t t t, f f f t t t");
    let reloads = format!(
        "SELECT string_agg(concat_ws(' ', details, created_at BETWEEN {} AND {}), ', ')
           FROM steward.audit_logs WHERE action = 'config.reloaded' AND resource_id = 'main'",
        instant(before),
        instant(restarted)
    );
    assert_eq!(
        client.text(&reloads).await,
        "{\"changed\": []} t",
        "it had waited for the database"
    );
    let chain = "SELECT count(*) FROM (SELECT old_values -> 'status' = lag(new_values -> 'status') OVER (ORDER BY created_at) AS follows
                                         FROM steward.audit_logs WHERE action = 'health.changed') AS rows WHERE NOT follows";
    assert_eq!(client.number(chain).await, 0);
    assert!(
        metric(&daemon, "pgsteward_spool_replayed_total{table=\"audit_logs\",target=\"main\"}")
            .await
            >= 1.0
    );
}

#[tokio::test]
async fn without_a_state_dir_memory_holds_it() {
    let mut house = House::migrated().await;
    let setup = house.forgetful();
    an_outage_is_recorded(&mut house, setup, "in memory").await;
}

/// No file may grow: what a full disk does, for root too.
#[tokio::test]
async fn a_full_state_dir_is_survived() {
    let mut house = House::migrated().await;
    let setup = house.setup("").shell("trap '' XFSZ && ulimit -f 0");
    let daemon = an_outage_is_recorded(&mut house, setup, "in memory").await;
    let told = daemon.wait_log("this folder cannot be used").await;
    assert!(told.contains("File too large"), "{told}");
}

#[tokio::test]
async fn a_daemon_killed_in_the_outage_leaves_its_rows_to_the_next() {
    let mut house = House::migrated().await;
    let first = Daemon::spawn(house.setup("")).await;
    let client = house.server.client().await;
    let rows = "SELECT count(*) FROM steward.system_health";
    wait_until("rows are written", BOUND, async || client.number(rows).await > 10).await;
    drop(client);
    house.server.kill().await;
    let killed = Utc::now();
    wait_waiting(&first, |rows| rows >= 13.0).await;
    let (probes, waiting) = (metric(&first, PROBES).await, metric(&first, WAITING).await);
    let first_pid = first.pid();
    first.kill().await;

    let second = Daemon::launch(house.setup(""));
    second.wait_status("/livez", 200).await;
    wait_waiting(&second, |rows| rows >= waiting + 2.0).await;
    // And one that is told to stop, which says nothing of losing any.
    let second_pid = second.pid();
    let second_probes = metric(&second, PROBES).await;
    let status = second.terminate().await;
    assert!(status.success(), "{status}");

    let third = Daemon::launch(house.setup(""));
    third.wait_status("/livez", 200).await;
    wait_waiting(&third, |rows| rows > waiting + 2.0).await;
    let restarted = Utc::now();
    house.server.restart().await;
    let client = house.server.client().await;
    every_probe_is_written(&third, &client).await;
    expect_record(&client, killed, restarted).await;
    for (pid, probes) in [(first_pid, probes), (second_pid, second_probes)] {
        let sql = format!(
            "SELECT count(*) FROM steward.system_health WHERE component = 'connectivity' AND instance LIKE '%/{pid}/%'"
        );
        let rows = client.number(&sql).await as f64;
        // One may have ended between the page and the signal.
        assert!(
            rows == probes || rows == probes + 1.0,
            "{rows} rows of {probes} probes of process {pid}"
        );
    }
    third.wait_log("measurements of an earlier run wait").await;
    assert_eq!(house.segments(), 0);
}

#[tokio::test]
async fn a_stop_in_an_outage_without_a_state_dir_says_what_it_loses() {
    let mut house = House::migrated().await;
    let mut daemon = Daemon::spawn(house.forgetful()).await;
    house.server.kill().await;
    wait_waiting(&daemon, |rows| rows > 1.0).await;
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait_exit().await.success());
    daemon.wait_log("kept in memory and end with the process").await;
}

/// Opening it for writing waits for a reader that never comes, as a disk that hangs would.
#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_the_probes_nor_the_stop() {
    let mut house = House::migrated().await;
    std::fs::create_dir_all(house.folder()).unwrap();
    let lock = house.folder().join("lock");
    assert!(std::process::Command::new("mkfifo").arg(&lock).status().unwrap().success());
    let mut daemon = Daemon::spawn(house.setup("")).await;
    let client = house.server.client().await;
    let rows = "SELECT count(*) FROM steward.system_health";
    wait_until("rows are written past it", BOUND, async || client.number(rows).await > 20).await;
    drop(client);
    house.server.kill().await;
    let probes = metric(&daemon, PROBES).await;
    wait_until("it measures on", BOUND, async || metric(&daemon, PROBES).await > probes + 3.0)
        .await;
    assert_eq!(daemon.get("/health/").await.status, 503);
    let lost =
        "pgsteward_rows_dropped_total{reason=\"disk\",table=\"system_health\",target=\"main\"}";
    wait_until("what is lost is counted", BOUND, async || metric(&daemon, lost).await > 0.0).await;
    daemon.wait_log("the disk of state_dir does not answer").await;
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait_exit().await.success());
}

/// The second finds the folder taken, and keeps its rows in memory.
#[tokio::test]
async fn each_instance_leaves_its_own_record() {
    let mut house = House::migrated().await;
    let observer = Daemon::spawn(house.setup("")).await;
    let other = Daemon::spawn(house.setup("")).await;
    let client = house.server.client().await;
    for daemon in [&observer, &other] {
        every_probe_is_written(daemon, &client).await;
    }
    drop(client);
    house.server.kill().await;
    let killed = Utc::now();
    for daemon in [&observer, &other] {
        wait_waiting(daemon, |rows| rows >= 3.0).await;
    }
    other.wait_log("another process has this folder").await;
    let restarted = Utc::now();
    house.server.restart().await;
    let client = house.server.client().await;
    for daemon in [&observer, &other] {
        every_probe_is_written(daemon, &client).await;
    }
    expect_record(&client, killed, restarted).await;
    let during = format!("created_at BETWEEN {} AND {}", instant(killed), instant(restarted));
    let instances =
        format!("SELECT count(DISTINCT instance) FROM steward.system_health WHERE {during}");
    assert_eq!(client.number(&instances).await, 2);
}

/// A row as an earlier process would have left it.
fn row(number: i64, at: DateTime<Utc>, change: impl FnOnce(&mut serde_json::Value)) -> Record {
    let mut body = json!({
        "id": Uuid::now_v7(), "created_at": at, "instance": "earlier/1/0", "component": "connectivity",
        "status": "unhealthy", "reason": "refused", "message": format!("number {number}"), "latency_ms": null,
        "details": { "number": number },
    });
    change(&mut body);
    Record { at, table: Table::SystemHealth, body: body.to_string().into_bytes() }
}

fn open(state: &Path) -> Spool {
    let spool = Spool::open(Some(state), "main", LIMITS);
    assert_ne!(spool.place(), Place::Memory);
    spool
}

#[tokio::test]
async fn a_daemon_killed_while_it_writes_them_doubles_nothing() {
    const ROWS: i64 = 30_000;
    let house = House::migrated().await;
    let client = house.server.client().await;
    // Three days, of which the first ones have no partition any more.
    let begun = Utc::now() - TimeDelta::days(3);
    let step = TimeDelta::days(3) / i32::try_from(ROWS).unwrap();
    let mut spool = open(house.state.path());
    let mut at = begun;
    for number in 0..ROWS {
        spool.append(row(number, at, |_| {}));
        at += step;
    }
    drop(spool);

    let written = "SELECT count(*) FROM steward.system_health WHERE instance = 'earlier/1/0'";
    let mut kills = 0;
    loop {
        let daemon = Daemon::launch(house.setup(""));
        let before = client.number(written).await;
        wait_until("more are written", BOUND, async || {
            client.number(written).await > before.min(ROWS - 1)
        })
        .await;
        let rows = client.number(written).await;
        if kills == 3 || rows == ROWS {
            wait_until("all are written", BOUND * 2, async || {
                metric(&daemon, WAITING).await == 0.0 && client.number(written).await == ROWS
            })
            .await;
            // What the one before it had written was sent again, and nobody took offence.
            let page = daemon.get("/metrics").await;
            assert!(!page.body.contains("pgsteward_rows_dropped_total{"), "{}", daemon.log());
            break;
        }
        daemon.kill().await;
        assert!(house.segments() > 0, "the first kill met it at work");
        kills += 1;
    }
    assert!(kills > 0);
    let numbers = "SELECT concat_ws(' ', count(DISTINCT details->>'number'), count(*), count(DISTINCT created_at))
                     FROM steward.system_health WHERE instance = 'earlier/1/0'";
    assert_eq!(client.text(numbers).await, format!("{ROWS} {ROWS} {ROWS}"));
    in_order(&client).await;
    assert_eq!(house.segments(), 0);
}

#[tokio::test]
async fn what_the_server_refuses_is_dropped_alone() {
    const ROWS: i64 = 1_500;
    let house = House::migrated().await;
    let client = house.server.client().await;
    let now = Utc::now();
    let mut spool = open(house.state.path());
    // Without a partition, and past its retention, past the age of the spool, or not to come for
    // weeks.
    for (days, number) in [(50, -2), (20, -1), (-20, -3)] {
        spool.append(row(number, now - TimeDelta::days(days), |_| {}));
    }
    let begun = now - TimeDelta::seconds(2 * ROWS);
    for number in 0..ROWS {
        let at = begun + TimeDelta::seconds(number);
        spool.append(match number {
            // A CHECK, a character that text cannot hold, and a body of another make.
            3 | 777 => row(number, at, |body| body["status"] = "excellent".into()),
            778 => row(number, at, |body| body["message"] = "zero \0 byte".into()),
            1_100 => Record { body: b"{\"id\":1}".to_vec(), ..row(number, at, |_| {}) },
            _ => row(number, at, |_| {}),
        });
    }
    drop(spool);
    let more = "[spool]\nmax_age = \"7d\"\n";
    let daemon = Daemon::spawn(house.setup(more)).await;
    let written = "SELECT count(*) FROM steward.system_health WHERE instance = 'earlier/1/0'";
    wait_until("the others are written", BOUND, async || client.number(written).await == ROWS - 4)
        .await;
    every_probe_is_written(&daemon, &client).await;
    for (reason, rows) in [("refused", 3.0), ("damaged", 1.0), ("age", 2.0), ("future", 1.0)] {
        let series = format!(
            "pgsteward_rows_dropped_total{{reason=\"{reason}\",table=\"system_health\",target=\"main\"}}"
        );
        assert_eq!(metric(&daemon, &series).await, rows, "{reason}\n{}", daemon.log());
    }
    daemon.wait_log("dropped measurements that the server refuses while it accepts others").await;
    in_order(&client).await;
}

/// An obstacle of the whole table is not the rows' fault: they wait until it is removed.
#[tokio::test]
async fn rows_wait_for_what_can_be_mended() {
    let house = House::migrated().await;
    let client = house.server.client().await;
    let daemon = Daemon::spawn(house.setup("")).await;
    every_probe_is_written(&daemon, &client).await;
    for (obstruct, repair) in [
        ("RENAME COLUMN message TO words", "RENAME COLUMN words TO message"),
        ("RENAME TO elsewhere", ""),
        ("ADD CONSTRAINT never CHECK (false) NOT VALID", "DROP CONSTRAINT never"),
        ("ENABLE ALWAYS TRIGGER refuse", "DISABLE TRIGGER refuse"),
    ] {
        let refuse = "
            CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN RAISE EXCEPTION 'no rows today'; END $$;
            CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON steward.system_health
                FOR EACH STATEMENT EXECUTE FUNCTION public.refuse();
            ALTER TABLE steward.system_health DISABLE TRIGGER refuse;";
        if obstruct.contains("TRIGGER") {
            client.batch_execute(refuse).await.unwrap();
        }
        client
            .batch_execute(&format!("ALTER TABLE steward.system_health {obstruct}"))
            .await
            .unwrap();
        wait_waiting(&daemon, |rows| rows >= 20.0).await;
        let repair = match repair {
            "" => "ALTER TABLE steward.elsewhere RENAME TO system_health".to_owned(),
            repair => format!("ALTER TABLE steward.system_health {repair}"),
        };
        client.batch_execute(&repair).await.unwrap();
        every_probe_is_written(&daemon, &client).await;
    }
    in_order(&client).await;
    expect_none_dropped(&daemon).await;
    for line in [REFUSES, ACCEPTS] {
        let count = daemon.log().matches(line).count();
        assert_eq!(count, 4, "one line for each cause: {line}\n{}", daemon.log());
    }
}

const REFUSES: &str = "table accepts no measurements";
const ACCEPTS: &str = "table accepts measurements again";

async fn expect_none_dropped(daemon: &Daemon) {
    let page = daemon.get("/metrics").await;
    assert!(
        !page.body.contains("pgsteward_rows_dropped_total{"),
        "{}\n{}",
        page.body,
        daemon.log()
    );
}

/// The name of today's partition and its bounds.
async fn today(client: &TestClient, table: &str) -> (String, String) {
    let sql = format!(
        "SELECT format('steward.%I', c.relname) || '|' || pg_get_expr(c.relpartbound, c.oid)
           FROM pg_class c
          WHERE c.relname = '{table}_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"
    );
    let found = client.text(&sql).await;
    let (name, bounds) = found.split_once('|').unwrap();
    (name.to_owned(), bounds.to_owned())
}

/// The detached table keeps its name, so no partition can be made in its place: the rows wait.
#[tokio::test]
async fn rows_wait_for_a_detached_partition_and_other_tables_go_on() {
    let house = House::migrated().await;
    let client = house.server.client().await;
    let daemon = Daemon::spawn(house.setup("")).await;
    every_probe_is_written(&daemon, &client).await;
    let (partition, bounds) = today(&client, "system_health").await;
    let detach = format!("ALTER TABLE steward.system_health DETACH PARTITION {partition}");
    client.batch_execute(&detach).await.unwrap();
    wait_waiting(&daemon, |rows| rows >= 40.0).await;
    let log = daemon.wait_log(REFUSES).await;
    assert!(log.contains("attach, rename or drop it"), "{log}");
    let samples = "SELECT count(*) FROM steward.connection_metrics";
    let before = client.number(samples).await;
    wait_until("samples go on", BOUND, async || client.number(samples).await > before + 2).await;

    let blamed = |line: &&str| {
        ["job failed", "connection-metrics", "system_health"].iter().all(|part| line.contains(part))
    };
    let log = daemon.log();
    assert_eq!(log.lines().find(blamed), None, "another table's fault is no failure of this job");

    let attach = format!("ALTER TABLE steward.system_health ATTACH PARTITION {partition} {bounds}");
    client.batch_execute(&attach).await.unwrap();
    every_probe_is_written(&daemon, &client).await;
    in_order(&client).await;
    expect_none_dropped(&daemon).await;
    daemon.wait_log(ACCEPTS).await;
    for line in [REFUSES, ACCEPTS] {
        assert_eq!(daemon.log().matches(line).count(), 1, "{line}\n{}", daemon.log());
    }
}

/// Out of the way, the old partition is replaced at once, without a wait for the job `partitions`.
#[tokio::test]
async fn a_missing_partition_is_made() {
    let house = House::migrated().await;
    let client = house.server.client().await;
    let daemon = Daemon::spawn(house.setup("[jobs.partitions]\nenabled = false\n")).await;
    every_probe_is_written(&daemon, &client).await;
    for table in ["system_health", "connection_metrics"] {
        let (partition, _) = today(&client, table).await;
        let remove = format!(
            "ALTER TABLE steward.{table} DETACH PARTITION {partition};
             ALTER TABLE {partition} RENAME TO former_{table}"
        );
        client.batch_execute(&remove).await.unwrap();
    }
    for table in ["system_health", "connection_metrics"] {
        let rows = format!("SELECT count(*) FROM steward.{table}");
        wait_until("rows are written again", BOUND, async || client.number(&rows).await > 0).await;
    }
    let former = "INSERT INTO steward.system_health SELECT * FROM steward.former_system_health";
    client.batch_execute(former).await.unwrap();
    every_probe_is_written(&daemon, &client).await;
    expect_none_dropped(&daemon).await;
    daemon.wait_log("made missing partitions for measurements").await;
    assert!(!daemon.log().contains(REFUSES), "{}", daemon.log());
}
