//! The way up: with no server, the wrong one, a silent one, or no port.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use crate::harness::{
    BOUND, Daemon, PrivateServer, Proxy, Setup, Template, TestDatabase, server, wait_for,
    wait_until,
};
use crate::{each_second, metric, quick, reason, wait_reason, wait_sql};

#[tokio::test]
async fn without_a_server_it_lives_says_why_and_comes_up_by_itself() {
    let mut server = PrivateServer::start(&[]).await;
    server.stop().await;
    let url = server.url_at(server.address(), "postgres");
    let daemon = Daemon::launch(Setup::new().database(&url).config(&quick("")));

    assert_eq!(daemon.wait_status("/livez", 200).await.body, "ok");
    let wanted = "[-]connected:main failed: starting: connecting, last error refused";
    wait_until("/readyz names the reason", BOUND, async || {
        let answer = daemon.get("/readyz").await;
        answer.status == 503 && answer.body.contains(wanted)
    })
    .await;
    wait_reason(&daemon, "refused").await;
    assert_eq!(daemon.get("/health/").await.status, 503);
    assert_eq!(metric(daemon.address(), "pgsteward_database_up").await, Some(0.0));
    assert_eq!(
        metric(daemon.address(), "pgsteward_database_down kind=\"refused\"").await,
        Some(1.0)
    );
    assert_eq!(daemon.get("/livez").await.status, 200);

    server.restart().await;
    daemon.wait_ready().await;
    wait_until("health recovers", BOUND, async || daemon.get("/health/").await.status == 200).await;
    assert_eq!(metric(daemon.address(), "pgsteward_database_up").await, Some(1.0));
    // The outage was told, and not once for each attempt.
    let log = daemon.log();
    let told = log.lines().filter(|line| line.contains("cannot work with the database")).count();
    assert!((1..=3).contains(&told), "told {told} times:\n{log}");
}

#[tokio::test]
async fn what_refuses_us_is_named() {
    let database = TestDatabase::create(Template::Empty).await;
    let password = server().password.clone();
    let table = [
        ("auth", server().url_as("postgres", "wrong-password", database.name())),
        ("unknown_database", server().url("no_such_database")),
        ("tls", format!("{}?sslmode=require", database.tcp_url())),
    ];
    let daemons: Vec<(&str, Daemon)> = table
        .into_iter()
        .map(|(kind, url)| (kind, Daemon::launch(Setup::new().database(&url).config(&quick("")))))
        .collect();
    for (kind, daemon) in &daemons {
        let wanted = format!("connecting, last error {kind}");
        wait_until(&wanted, BOUND, async || {
            let answer =
                crate::http::try_request(daemon.address(), "GET", "/readyz", &[], "").await;
            answer.is_ok_and(|answer| answer.status == 503 && answer.body.contains(&wanted))
        })
        .await;
        wait_reason(daemon, kind).await;
        daemon.wait_log(&format!("\"kind\":\"{kind}\"")).await;
        assert_eq!(daemon.get("/livez").await.status, 200, "{kind}");
        let log = daemon.log();
        assert!(
            !log.contains(&password) && !log.contains("wrong-password"),
            "a password in the log:\n{log}"
        );
    }
}

/// What `check --connect` tells a person before the daemon is started at all.
#[tokio::test]
async fn check_names_what_refuses_us_too() {
    let database = TestDatabase::create(Template::Empty).await;
    let table = [
        (
            server().url_as("postgres", "wrong-password", database.name()),
            69,
            "password authentication failed",
        ),
        (server().url("no_such_database"), 69, "no_such_database"),
        (database.url(), 0, ""),
    ];
    for (url, code, words) in table {
        let output = Setup::new().database(&url).command(&["check", "--connect"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(words) && !error.contains("wrong-password"), "{error}");
    }
    // The second address is tried too.
    let config = format!("[database]\ndirect_url = {:?}\n", server().url("no_such_database"));
    let output =
        Setup::new().database(&database.url()).config(&config).command(&["check", "--connect"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("direct_url") && error.contains("no_such_database"), "{error}");
}

#[tokio::test]
async fn a_peer_that_accepts_and_stays_silent_is_waited_for_within_bounds() {
    // The kernel accepts for it.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("postgresql://u:p@{}/d", silent.local_addr().unwrap());
    let daemon = Daemon::launch(Setup::new().database(&url).config(&quick("")));
    let wanted = "connecting, last error unreachable";
    wait_until(wanted, BOUND, async || {
        let answer = crate::http::try_request(daemon.address(), "GET", "/readyz", &[], "").await;
        answer.is_ok_and(|answer| answer.body.contains(wanted))
    })
    .await;
    wait_reason(&daemon, "unreachable").await;
    assert_eq!(daemon.get("/livez").await.status, 200);
    assert_eq!(daemon.terminate().await.code(), Some(0), "it ends while it waits for an answer");
}

/// A connection that was good and goes silent keeps no round: nothing on the wire tells that the
/// peer is gone.
#[tokio::test]
async fn a_server_that_goes_silent_stops_no_round() {
    let database = TestDatabase::create(Template::Empty).await;
    let proxy = Proxy::start(server().address()).await;
    let daemon =
        Daemon::spawn(Setup::new().database(&database.url_at(proxy.address())).config(&quick("")))
            .await;
    wait_until("it observes", BOUND, async || {
        metric(daemon.address(), "pgsteward_leader").await == Some(1.0)
    })
    .await;

    proxy.blackhole().await;
    wait_until("health tells", BOUND, async || daemon.get("/health/").await.status == 503).await;
    assert!(
        ["unreachable", "timeout", "connection_lost"].contains(&reason(&daemon).await.as_str())
    );
    let advanced = async || {
        metric(daemon.address(), "pgsteward_pipeline_last_iteration_timestamp_seconds")
            .await
            .unwrap()
    };
    // Longer than one call of a round may take, so that what moves it is a round after a silent one.
    let seen = advanced().await + 11.0;
    wait_until("the pipeline goes round", BOUND, async || advanced().await > seen).await;
    assert_eq!(daemon.get("/livez").await.status, 200);
    assert_eq!(
        metric(daemon.address(), "pgsteward_leader").await,
        Some(0.0),
        "a lease without renewal is not believed"
    );

    proxy.pass().await;
    wait_until("health recovers", BOUND, async || daemon.get("/health/").await.status == 200).await;
    wait_until("it observes", BOUND, async || {
        metric(daemon.address(), "pgsteward_leader").await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_ends_it_naming_address_and_owner() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Setup::new()
        .database("postgresql://u:p@127.0.0.1:9/d")
        .command(&["run", "--listen", &address]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(
        error.contains(&address) && error.contains(&format!("(pid {})", std::process::id())),
        "{error}"
    );
}

#[tokio::test]
async fn usage_and_configuration_have_exit_codes_of_their_own() {
    let setup = Setup::new().database("postgresql://u:p@127.0.0.1:9/d");
    assert_eq!(setup.command(&["run", "--no-such-option"]).status.code(), Some(64));
    let wrong = setup.clone().config("[jobs]\nlease = \"15\"\n[jobs.vacum]\nenabled = true\n");
    for command in ["run", "check"] {
        let output = wrong.command(&[command]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(
            error.contains("jobs.lease") && error.contains("jobs.vacum"),
            "all problems at once: {error}"
        );
    }
    let never = Setup::new().database("postgresql://u:p@127.0.0.1:9/d?sslmode=foo");
    for command in [&["run"][..], &["check"], &["check", "--connect"]] {
        let output = never.command(command);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{command:?}: {error}");
        assert!(
            error.contains("DATABASE_URL: database.url") && error.contains("sslmode"),
            "{command:?}: {error}"
        );
    }
}

/// Killed again and again on its way up and at work, at no chosen moment: what is left behind never
/// keeps the next one from starting.
#[tokio::test]
async fn killed_at_any_moment_the_next_start_works() {
    let database = TestDatabase::create(Template::Empty).await;
    let config =
        quick("[migrations]\nsets = [\"zentry\"]\n[jobs.vacuum]\nschedule = \"@every 1s\"\n");
    let setup = Setup::new().database(&database.url()).config(&config);
    for _ in 0..8 {
        let daemon = Daemon::launch(setup.clone());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..600))).await;
        daemon.kill().await;
    }
    let daemon = Daemon::spawn(setup).await;
    let client = database.client().await;
    let sql = "SELECT string_agg(set_name || '/' || version, ' ' ORDER BY set_name, version) FROM steward.schema_migrations";
    assert_eq!(
        client.text(sql).await,
        "steward/1 steward/2 steward/3 steward/4 steward/5 steward/6 zentry/1 zentry/2 zentry/3"
    );
    wait_for("a run of its own succeeds", BOUND, async || {
        let sql =
            "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum' AND state = 'succeeded'";
        (client.number(sql).await > 0).then_some(())
    })
    .await;
    wait_until("nothing runs that nobody runs", BOUND, async || {
        let sql = "SELECT count(*) FROM steward.job_runs WHERE state = 'running' AND lease_until < clock_timestamp()";
        client.number(sql).await == 0
    })
    .await;
    let mismatches = metric(daemon.address(), "pgsteward_schema_mismatches").await;
    assert_eq!(mismatches, Some(0.0));
}

#[tokio::test]
async fn what_passed_while_nobody_ran_it_is_told_in_words() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(&quick(&each_second("vacuum")));
    let daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum'", |runs| {
        runs > 0
    })
    .await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let passed = "SELECT extract(epoch FROM clock_timestamp() - max(due_at))::bigint
                    FROM steward.job_runs WHERE job = 'vacuum'";
    wait_sql(&client, passed, |seconds| seconds > 3).await;
    let daemon = Daemon::spawn(setup).await;
    let line = daemon.wait_log("instants passed that were not run").await;
    assert!(
        line.contains("nobody ran them when they were due")
            && line.contains("\"reason\":\"misfire\""),
        "{line}"
    );
}
