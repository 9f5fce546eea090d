//! Development servers: configured, as a fallback, and never in production.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{BOUND, Daemon, Setup, wait_for, wait_until};

/// A port where nothing listens: discard, which nobody serves any more.
const NOBODY: &str = "postgresql://u:p@127.0.0.1:9/d";

/// The pid in `postmaster.pid` of the development server.
fn postmaster(folder: &std::path::Path) -> Option<i32> {
    std::fs::read_to_string(folder.join("data/postmaster.pid"))
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

#[tokio::test]
async fn a_development_server_that_exits_is_restarted_and_stops_with_the_daemon() {
    let daemon = Daemon::spawn(Setup::new().config(&crate::quick("")).arg("--ephemeral")).await;
    let line = daemon.wait_log("throw-away PostgreSQL server started").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let folder = PathBuf::from(line["folder"].as_str().unwrap());
    wait_until("health is well", BOUND, async || daemon.get("/health/").await.status == 200).await;

    let first = postmaster(&folder).unwrap();
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    daemon.wait_log("development server exited, restarting it").await;
    daemon.wait_log("development server restarted").await;
    wait_for("another server runs", BOUND, async || {
        postmaster(&folder).filter(|pid| *pid != first)
    })
    .await;
    wait_until("health is well again", BOUND, async || {
        let health = daemon.get("/health/").await;
        health.status == 200
            && crate::metric(daemon.address(), "pgsteward_database_up").await == Some(1.0)
    })
    .await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert!(!folder.exists(), "it leaves its folder behind");
}

#[tokio::test]
async fn development_falls_back_and_production_never_does() {
    let config = crate::quick("");
    let setup = Setup::new().database(NOBODY).config(&config);
    let production = Daemon::launch(setup.clone());
    let development = Daemon::launch(setup.clone().env("ENVIRONMENT", "development"));
    let elsewhere =
        setup.clone().database("postgresql://u:p@db.invalid/d").env("ENVIRONMENT", "development");
    let elsewhere = Daemon::launch(elsewhere);
    development.wait_ready().await;
    development.wait_log("using a development server").await;
    for daemon in [&production, &elsewhere] {
        assert_eq!(daemon.get("/readyz").await.status, 503);
        assert!(!daemon.log().contains("development server"), "{}", daemon.log());
        assert_eq!(daemon.get("/livez").await.status, 200);
    }
    assert_eq!(development.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_during_the_fallback_is_a_stop() {
    let daemon = Daemon::launch(Setup::new().database(NOBODY).env("ENVIRONMENT", "development"));
    daemon.wait_status("/livez", 200).await;
    // A reload that nobody waits for must not make it deaf.
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.terminate().await.code(), Some(0));
}
