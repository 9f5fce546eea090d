//! Signals, reloads, pauses, systemd, and what is written and shown on a good day.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::harness::{
    BOUND, Daemon, PrivateServer, Setup, Template, TestDatabase, http, wait_for, wait_until,
};
use crate::{
    REFRESH_SLOW, REFRESHING, SLOW_VIEW, each_second, metric, quick, succeed, wait_metric, wait_sql,
};

const ZENTRY: &str = "[migrations]\nsets = [\"zentry\"]\n";

#[tokio::test]
async fn rows_arrive_and_the_page_passes_promtool() {
    let database = TestDatabase::create(Template::Empty).await;
    let jobs: String = ["vacuum", "refresh", "retention", "partitions"].map(each_second).concat();
    let config = quick(&format!("{ZENTRY}{jobs}"));
    let daemon = Daemon::spawn(Setup::new().database(&database.url()).config(&config)).await;
    let client = database.client().await;
    for job in ["vacuum", "refresh", "retention", "partitions"] {
        let sql = format!(
            "SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND state = 'succeeded'"
        );
        wait_sql(&client, &sql, |runs| runs > 0).await;
    }
    wait_sql(&client, "SELECT count(DISTINCT component) FROM steward.system_health", |parts| {
        parts >= 8
    })
    .await;
    wait_sql(&client, "SELECT count(*) FROM steward.connection_metrics", |rows| rows > 0).await;
    assert_eq!(
        client
            .number("SELECT count(*) FROM steward.job_runs WHERE state IN ('failed', 'timed_out')")
            .await,
        0
    );
    wait_until("health is well", BOUND, async || {
        let health = daemon.get("/health/").await;
        health.status == 200 && health.json()["status"] == "healthy"
    })
    .await;
    let cli = Setup::new().database(&database.url()).config(ZENTRY);
    let health = succeed(&cli, &["health"]);
    assert!(
        health.starts_with("database main: healthy") && health.contains("\n  schema "),
        "{health}"
    );
    let stranger = TestDatabase::create(Template::Empty).await;
    let health = succeed(&Setup::new().database(&stranger.url()), &["health"]);
    assert!(!health.contains("\n  schema "), "nothing is said of what is not kept there: {health}");

    let page = daemon.get("/metrics").await.body;
    assert!(page.contains("\npg_stat_activity_connections{"), "{page}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian's package prometheus)");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(said, "");
    assert!(output.status.success(), "{}", output.status);
}

#[tokio::test]
async fn a_scrape_costs_the_server_no_statement() {
    let server = PrivateServer::start(&[("log_statement", "all"), ("log_connections", "on")]).await;
    // No measurement, no job, and no lease to renew for a while: what is left would be the scrapes'.
    let off: String = [
        "health-probe",
        "connection-metrics",
        "vacuum",
        "refresh",
        "retention",
        "partitions",
        "audit-seal",
    ]
    .map(|job| format!("[jobs.{job}]\nenabled = false\n"))
    .concat();
    let config = format!("[jobs]\nlease = \"5m\"\n{off}");
    let daemon = Daemon::spawn(Setup::new().database(&server.url()).config(&config)).await;
    wait_metric(&daemon, "pgsteward_leader", |value| value == 1.0).await;
    let file = server.ephemeral().socket_dir().join("server.log");
    // The observer listens, all the time and whoever scrapes, for what people ask of jobs.
    let listens = |line: &&str| line.contains("json_build_object( 'queued'");
    let lines =
        || std::fs::read_to_string(&file).unwrap().lines().filter(|line| !listens(line)).count();
    // The observer's first round ends with registering the jobs.
    wait_for("the first round is over", BOUND, async || {
        std::fs::read_to_string(&file).unwrap().contains("steward.job_state").then_some(())
    })
    .await;
    wait_until("the log is quiet", BOUND, async || {
        let before = lines();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        lines() == before
    })
    .await;
    let before = lines();
    for path in ["/metrics", "/health/", "/livez", "/readyz", "/healthz"] {
        for _ in 0..100 {
            http::get(daemon.address(), path).await;
        }
    }
    assert_eq!(lines(), before, "{}", std::fs::read_to_string(&file).unwrap());
}

#[tokio::test]
async fn sigterm_drains_and_a_second_signal_ends_it_at_once() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    client.batch_execute(SLOW_VIEW).await.unwrap();
    let mut daemon =
        Daemon::spawn(Setup::new().database(&database.url()).config(&quick(REFRESH_SLOW))).await;
    wait_sql(&client, REFRESHING, |sessions| sessions == 1).await;
    daemon.signal(Signal::TERM);
    // While the run has its grace, probes are answered.
    let unready = daemon.wait_status("/readyz", 503).await.body;
    assert!(unready.contains("[-]draining failed"), "{unready}");
    assert_eq!(daemon.get("/livez").await.status, 200);
    let begun = Instant::now();
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait_exit().await.code(), Some(128 + 2));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // The server sees to the rest, since nobody waits for the answer any more.
    wait_sql(&client, REFRESHING, |sessions| sessions == 0).await;
}

#[tokio::test]
async fn an_idle_daemon_ends_within_seconds_and_leaves_no_connection() {
    let database = TestDatabase::create(Template::Empty).await;
    let daemon = Daemon::spawn(Setup::new().database(&database.url()).config(&quick(""))).await;
    wait_metric(&daemon, "pgsteward_leader", |value| value == 1.0).await;
    let begun = Instant::now();
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let client = database.client().await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsteward/%' AND datname = current_database()";
    wait_sql(&client, sql, |sessions| sessions == 0).await;
}

#[tokio::test]
async fn sighup_takes_in_what_is_right_and_leaves_what_is_wrong() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    // Probes come rarely at first, so that a new schedule is seen to be followed at once.
    let slowly = crate::QUICK.replace(
        "[jobs.health-probe]\nschedule = \"@every 1s\"",
        "[jobs.health-probe]\nschedule = \"@every 1h\"",
    );
    let slowly = slowly.replace("[health]", "[health]\nstale_after = \"3h\"");
    assert!(slowly.contains("1h") && slowly.contains("3h"));
    let daemon = Daemon::spawn(Setup::new().database(&database.url()).config(&slowly)).await;
    let reloaded = "pgsteward_config_last_reload_successful";
    assert_eq!(metric(daemon.address(), reloaded).await, Some(1.0));

    daemon
        .rewrite_config(&quick(&each_second("vacuum")).replace("lease = \"5s\"", "lease = \"6s\""));
    daemon.signal(Signal::HUP);
    daemon.wait_log("configuration reloaded").await;
    let fixed = daemon.wait_log("\"key\":\"jobs.lease\"").await;
    assert!(fixed.contains("next start"), "{fixed}");
    wait_sql(
        &client,
        "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum' AND state = 'succeeded'",
        |runs| runs > 0,
    )
    .await;
    let probes = "pgsteward_job_runs_total job_name=\"health-probe\" outcome=\"succeeded\"";
    wait_metric(&daemon, probes, |value| value >= 4.0).await;

    daemon.rewrite_config("[jobs.vacuum]\nschedule = \"at dawn\"\n[jobs]\nlease = 3\n");
    daemon.signal(Signal::HUP);
    wait_metric(&daemon, reloaded, |value| value == 0.0).await;
    let line = daemon.wait_log("new configuration is invalid").await;
    assert!(line.contains("jobs.vacuum.schedule") && line.contains("jobs.lease"), "{line}");
    let count = "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum'";
    let before = client.number(count).await;
    wait_sql(&client, count, |runs| runs >= before + 2).await;

    daemon.rewrite_config(&quick(""));
    daemon.signal(Signal::HUP);
    wait_metric(&daemon, reloaded, |value| value == 1.0).await;
    let told =
        "FROM steward.audit_logs WHERE resource_type = 'configuration' AND resource_id = 'main'
                  AND actor LIKE 'instance:%' AND source = 'pgsteward'";
    wait_sql(&client, &format!("SELECT count(*) {told}"), |rows| rows >= 3).await;
    let told =
        format!("SELECT string_agg(action || ' ' || details, ', ' ORDER BY created_at) {told}");
    assert_eq!(
        client.text(&told).await,
        "config.reloaded {\"changed\": [\"health\", \"jobs\"]}, \
         config.rejected {\"keys\": [\"jobs.lease\", \"jobs.vacuum.schedule\"], \"problems\": 2}, \
         config.reloaded {\"changed\": [\"jobs\"]}"
    );
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn pausing_stops_every_job_by_the_database_and_by_the_local_file() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "state_dir = {:?}\n{}",
        folder.path().display().to_string(),
        quick(&each_second("vacuum"))
    );
    let setup = Setup::new().database(&database.url()).config(&config);
    let daemon = Daemon::spawn(setup.clone()).await;
    let succeeded =
        "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum' AND state = 'succeeded'";
    let skipped = "SELECT coalesce(sum(missed_count), 0) FROM steward.job_runs WHERE state = 'skipped' AND reason = 'paused'";
    wait_sql(&client, succeeded, |runs| runs > 0).await;

    let file = folder.path().join("PAUSE");
    let flag = |paused| match paused {
        true => drop(succeed(&setup, &["pause", "--all", "--reason", "fail-over"])),
        false => drop(succeed(&setup, &["resume", "--all"])),
    };
    let local = |paused| match paused {
        true => std::fs::write(&file, "").unwrap(),
        false => std::fs::remove_file(&file).unwrap(),
    };
    for set_paused in [&flag as &dyn Fn(bool), &local] {
        let before = client.number(skipped).await;
        set_paused(true);
        wait_metric(&daemon, "pgsteward_paused", |value| value == 1.0).await;
        let line = daemon.wait_log("all jobs are paused\"").await;
        assert!(line.contains("\"level\":\"warn\""), "{line}");
        wait_sql(&client, skipped, |runs| runs >= before + 2).await;
        let ran = client.number(succeeded).await;
        let before = client.number(skipped).await;
        wait_sql(&client, skipped, |runs| runs >= before + 2).await;
        assert_eq!(client.number(succeeded).await, ran, "a job ran while paused");
        set_paused(false);
        wait_metric(&daemon, "pgsteward_paused", |value| value == 0.0).await;
        wait_sql(&client, succeeded, |runs| runs > ran).await;
    }
    let audited = "SELECT string_agg(action, ' ' ORDER BY created_at) FROM steward.audit_logs WHERE action LIKE 'jobs.%'";
    assert_eq!(client.text(audited).await, "jobs.pause jobs.resume");
}

#[tokio::test]
async fn observe_mode_changes_nothing_of_the_users() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let sql = "
        CREATE TABLE public.events (id int PRIMARY KEY, at timestamptz NOT NULL) WITH (autovacuum_enabled = off);
        CREATE INDEX ON public.events (at);
        INSERT INTO public.events SELECT n, now() - interval '1 year' FROM generate_series(1, 5000) n;
        UPDATE public.events SET at = at;
        CREATE MATERIALIZED VIEW public.counted AS SELECT 1 AS id, count(*) FROM public.events;
        CREATE UNIQUE INDEX ON public.counted (id);
        DELETE FROM public.events WHERE id = 1";
    client.batch_execute(sql).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("001_mine.sql"), "CREATE TABLE public.mine (id int);")
        .unwrap();
    let jobs: String = ["vacuum", "retention"].map(each_second).concat();
    let config = format!(
        "mode = \"observe\"\n{}\n[migrations]\ndir = {:?}\n[retention.tables.\"public.events\"]\ncolumn = \"at\"\nkeep = \"30d\"\n\
         [refresh]\nviews = [\"public.counted\"]\n[jobs.refresh]\nschedule = \"@every 1s\"\n",
        quick(&jobs),
        folder.path().display().to_string()
    );
    let _daemon = Daemon::spawn(Setup::new().database(&database.url()).config(&config)).await;
    for job in ["vacuum", "retention", "refresh"] {
        let sql = format!(
            "SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND finished_at IS NOT NULL AND reason IS DISTINCT FROM 'overlap'"
        );
        wait_sql(&client, &sql, |runs| runs >= 2).await;
    }
    assert_eq!(client.number("SELECT count(*) FROM public.events").await, 4999);
    assert_eq!(client.number("SELECT count FROM public.counted").await, 5000, "refreshed");
    assert_eq!(client.text("SELECT to_regclass('public.mine')").await, "NULL");
    assert_eq!(
        client
            .number("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'events'")
            .await,
        0
    );
    wait_sql(&client, "SELECT count(*) FROM steward.system_health", |rows| rows > 0).await;
}

#[tokio::test]
async fn systemd_is_told_of_readiness_life_reload_and_the_end() {
    let database = TestDatabase::create(Template::Empty).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let setup = Setup::new()
        .database(&database.url())
        .config(&quick(""))
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::launch(setup);
    let next = async || {
        let mut buffer = [0; 512];
        let length = tokio::time::timeout(BOUND, manager.recv(&mut buffer))
            .await
            .expect("a datagram")
            .unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let wait = async |wanted: &str| {
        loop {
            let message = next().await;
            if message.starts_with(wanted) {
                return message;
            }
            assert!(message.starts_with("WATCHDOG=1"), "{message:?} instead of {wanted}");
        }
    };
    assert!(wait("READY=1").await.contains("STATUS="));
    assert_eq!(daemon.get("/readyz").await.status, 200, "told when it is so");
    let begun = Instant::now();
    for _ in 0..5 {
        wait("WATCHDOG=1").await;
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(600),
        "fed at half time, not all the time: {:?}",
        begun.elapsed()
    );
    daemon.signal(Signal::HUP);
    wait("RELOADING=1\nMONOTONIC_USEC=").await;
    wait("READY=1").await;
    daemon.signal(Signal::TERM);
    wait("STOPPING=1").await;
}

/// A daemon whose database is away is alive: its watchdog is fed, and it is not said to be ready.
#[tokio::test]
async fn the_watchdog_is_fed_while_it_retries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let setup = Setup::new()
        .database("postgresql://u:p@127.0.0.1:9/d")
        .config(&quick(""))
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::launch(setup);
    for _ in 0..10 {
        let mut buffer = [0; 512];
        let length = tokio::time::timeout(BOUND, manager.recv(&mut buffer))
            .await
            .expect("a datagram")
            .unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
    }
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_number_that_cannot_be_read_stops_no_job() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    client.batch_execute("DROP SEQUENCE steward.audit_losses").await.unwrap();
    let config = quick(&each_second("partitions"));
    let daemon = Daemon::spawn(Setup::new().database(&database.url()).config(&config)).await;
    let sql =
        "SELECT count(*) FROM steward.job_runs WHERE job = 'partitions' AND state = 'succeeded'";
    wait_sql(&client, sql, |runs| runs > 1).await;
    assert_eq!(metric(daemon.address(), "pgsteward_audit_lost_statements").await, None);
}
