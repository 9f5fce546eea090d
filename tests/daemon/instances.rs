//! Several daemons over one database.

use rustix::process::Signal;

use crate::harness::{
    BOUND, Daemon, Setup, Template, TestClient, TestDatabase, connect, wait_until,
};
use crate::{REFRESH_SLOW, REFRESHING, SLOW_VIEW, each_second, metric, quick, wait_sql};

async fn observes(daemon: &Daemon) -> bool {
    metric(daemon.address(), "pgsteward_leader").await == Some(1.0)
}

/// The place of the only observer among them, once there is exactly one.
async fn observer(daemons: &[Daemon]) -> usize {
    let mut found = None;
    wait_until("exactly one observes", BOUND, async || {
        let mut observers = Vec::new();
        for (at, daemon) in daemons.iter().enumerate() {
            if observes(daemon).await {
                observers.push(at);
            }
        }
        found = observers.first().copied();
        observers.len() == 1
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn started_at_once_they_migrate_once_fire_once_and_one_observes() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let config = quick(&format!("[migrations]\nsets = [\"zentry\"]\n{}", each_second("vacuum")));
    // Each by a role of its own, so that the server tells them apart.
    let mut daemons = Vec::new();
    let mut roles = Vec::new();
    for name in ["one", "two", "three"] {
        let role = database.role(name, "SUPERUSER").await;
        daemons.push(Daemon::launch(Setup::new().database(&role.url).config(&config)));
        roles.push(role.name);
    }
    for daemon in &daemons {
        daemon.wait_ready().await;
        assert_eq!(
            metric(daemon.address(), "pgsteward_migrations_pending set=\"zentry\"").await,
            Some(0.0)
        );
    }
    let client = database.client().await;
    let sql = "SELECT string_agg(set_name || '/' || version, ' ' ORDER BY set_name, version) FROM steward.schema_migrations";
    assert_eq!(
        client.text(sql).await,
        "steward/1 steward/2 steward/3 steward/4 steward/5 steward/6 zentry/1 zentry/2 zentry/3"
    );

    let observing = observer(&daemons).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum'", |runs| {
        runs >= 3
    })
    .await;
    assert_eq!(client.number("SELECT count(DISTINCT instance) FROM steward.job_runs").await, 1);
    for (at, daemon) in daemons.iter().enumerate() {
        let fired = metric(daemon.address(), "pgsteward_job_runs_total job_name=\"vacuum\"").await;
        assert_eq!(
            fired.is_some_and(|runs| runs > 0.0),
            at == observing,
            "daemon {at} fired {fired:?}"
        );
        let page = daemon.get("/metrics").await.body;
        assert_eq!(
            page.contains("\npg_stat_activity_connections{"),
            at == observing,
            "the server's numbers once, not thrice"
        );
    }
    for (at, role) in roles.iter().enumerate().filter(|(at, _)| *at != observing) {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        wait_until(&format!("stand-by {at} holds one connection"), BOUND, async || {
            client.number(&sql).await == 1
        })
        .await;
    }
}

async fn two_on_the_slow_view(database: &TestDatabase) -> (Vec<Daemon>, usize, TestClient) {
    let client = database.client().await;
    client.batch_execute(SLOW_VIEW).await.unwrap();
    let setup = Setup::new().database(&database.url()).config(&quick(REFRESH_SLOW));
    let daemons = vec![Daemon::spawn(setup.clone()).await, Daemon::spawn(setup).await];
    let observing = observer(&daemons).await;
    wait_sql(&client, REFRESHING, |sessions| sessions == 1).await;
    (daemons, observing, client)
}

#[tokio::test]
async fn the_observer_killed_another_takes_over_within_the_lease() {
    let database = TestDatabase::create(Template::Empty).await;
    let (mut daemons, observing, client) = two_on_the_slow_view(&database).await;
    let run = client
        .text("SELECT id FROM steward.job_runs WHERE job = 'refresh' AND state = 'running'")
        .await;

    daemons.swap_remove(observing).kill().await;
    let until = client.text("SELECT expires_at FROM steward.leases WHERE name = 'observer'").await;
    observer(&daemons).await;
    // By the server's clock: not before the lease ended, and soon after.
    let sql = format!(
        "SELECT extract(epoch FROM acquired_at - '{until}'::timestamptz) * 1000 FROM steward.leases"
    );
    let late_ms: f64 = client.text(&sql).await.parse().unwrap();
    assert!((0.0..4000.0).contains(&late_ms), "taken over {late_ms} ms after the lease ended");
    assert_eq!(client.number("SELECT epoch FROM steward.leases").await, 2);

    let sql =
        format!("SELECT concat_ws(' ', state, reason) FROM steward.job_runs WHERE id = '{run}'");
    wait_until("the dead run is recorded as lost", BOUND, async || {
        client.text(&sql).await == "lost lease_expired"
    })
    .await;
    let sql = format!(
        "SELECT count(*) FROM steward.job_runs WHERE job = 'refresh' AND state = 'running' AND id <> '{run}'"
    );
    wait_sql(&client, &sql, |runs| runs == 1).await;
    wait_sql(&client, REFRESHING, |sessions| sessions == 1).await;
}

#[tokio::test]
async fn an_observer_that_stops_leaves_at_once_and_says_how_its_run_ended() {
    let database = TestDatabase::create(Template::Empty).await;
    let (mut daemons, observing, client) = two_on_the_slow_view(&database).await;
    let run = client
        .text("SELECT id FROM steward.job_runs WHERE job = 'refresh' AND state = 'running'")
        .await;
    let stopping = daemons.swap_remove(observing);
    let log = stopping.log();
    assert_eq!(stopping.terminate().await.code(), Some(0), "{log}");
    let sql = format!(
        "SELECT concat_ws('|', state, reason, error) FROM steward.job_runs WHERE id = '{run}'"
    );
    let ended = client.text(&sql).await;
    assert_eq!(
        ended,
        "cancelled|shutdown|the daemon shut down; its statement was cancelled, and the server confirmed that"
    );
    let left = "SELECT extract(epoch FROM expires_at - clock_timestamp()) > 0 AND epoch = 1 FROM steward.leases";
    assert_eq!(client.text(left).await, "f", "the lease was given up");
    observer(&daemons).await;
}

/// The lease is lost, the daemon is not: frozen for longer than its lease, it finds another in its
/// place, stands by, and the run that was taken from it ends.
#[tokio::test]
async fn an_observer_that_slept_stands_by_when_it_wakes() {
    let database = TestDatabase::create(Template::Empty).await;
    let setup = Setup::new().database(&database.url()).config(&quick(""));
    let daemons = vec![Daemon::spawn(setup.clone()).await, Daemon::spawn(setup).await];
    let first = observer(&daemons).await;
    daemons[first].signal(Signal::STOP);
    wait_until("the other takes over", BOUND, async || observes(&daemons[1 - first]).await).await;
    daemons[first].signal(Signal::CONT);
    wait_until("the first one stands by", BOUND, async || !observes(&daemons[first]).await).await;
    assert!(observes(&daemons[1 - first]).await);
    assert_eq!(daemons[first].get("/livez").await.status, 200);
    let client = connect(&database.url()).await.unwrap();
    assert_eq!(client.number("SELECT epoch FROM steward.leases").await, 2);
}
