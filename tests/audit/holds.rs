//! `pgsteward audit hold …`, the built binary against a real server.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{BOUND, Setup, Template, TestClient, TestDatabase, wait_until};

fn hold(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(&[&["audit", "hold"], arguments].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// The standard output of a command that succeeded.
#[track_caller]
fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(&output.stdout)
}

#[track_caller]
fn refused(output: &Output, code: i32, expected: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(text(&output.stderr).contains(expected), "expected {expected:?}: {output:?}");
    assert_eq!(text(&output.stdout), "", "{output:?}");
}

async fn database() -> (TestDatabase, TestClient, Setup) {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url());
    (database, client, setup)
}

#[tokio::test]
async fn a_hold_is_placed_listed_and_released() {
    let (_database, client, setup) = database().await;
    let log = "INSERT INTO steward.audit_logs (created_at, action, user_id, resource_type, resource_id, source)
               SELECT '2026-01-01Z', 'x', 'u1', 'public.vms', '7/' || n, 'application' FROM generate_series(1, 3) n";
    client.batch_execute(log).await.unwrap();
    assert_eq!(stdout(&hold(&setup, &["list"])), "database main has no holds");
    let first = stdout(&hold(
        &setup,
        &["place", "--user", "u1", "--from", "2026-01-01", "--reason", "case 17"],
    ));
    let place = [
        "place",
        "--resource",
        "public.vms/7/2",
        "--until",
        "2026-01-02T00:00:00+01:00",
        "--reason",
        "b",
        "--json",
    ];
    let second: Value = serde_json::from_str(&stdout(&hold(&setup, &place))).unwrap();
    let second = second["id"].as_str().unwrap().to_owned();
    let table = stdout(&hold(&setup, &["list"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    for (line, wanted) in lines[1..].iter().zip([
        [first.as_str(), "  3  ", "user u1, from 2026-01-01T00:00:00Z", "case 17"],
        [second.as_str(), "  1  ", "resource public.vms/7/2, until 2026-01-01T23:00:00Z", "b"],
    ]) {
        assert!(wanted.iter().all(|part| line.contains(part)), "{wanted:?}: {line}");
    }

    let released = stdout(&hold(&setup, &["release", &first, "--reason", "closed"]));
    assert_eq!(released, format!("hold {first} is released"));
    refused(
        &hold(&setup, &["release", &first, "--reason", "again"]),
        64,
        "was released already, by cli:",
    );
    let unknown = "01a21a97-05e3-7685-9433-1c2e3e46558e";
    refused(
        &hold(&setup, &["release", unknown, "--reason", "none"]),
        64,
        &format!("there is no hold {unknown}"),
    );

    let listed: Value = serde_json::from_str(&stdout(&hold(&setup, &["list", "--json"]))).unwrap();
    assert_eq!(listed["holds"].as_array().unwrap().len(), 1, "{listed}");
    let one = &listed["holds"][0];
    assert_eq!(
        (&one["id"], &one["rows"], &one["more_rows"]),
        (&json!(second), &json!(1), &json!(false)),
        "{one}"
    );
    assert_eq!((&one["resource_id"], one.get("user_id")), (&json!("7/2"), None), "{one}");
    let all: Value =
        serde_json::from_str(&stdout(&hold(&setup, &["list", "--all", "--json"]))).unwrap();
    let (one, rows) = (&all["holds"][0], &all["holds"][0]["rows"]);
    assert!(one["released_by"].as_str().unwrap().starts_with("cli:") && rows.is_null(), "{one}");
    let trail = "SELECT string_agg(action || ' ' || resource_id, ', ' ORDER BY created_at) FROM steward.audit_logs
                  WHERE actor LIKE 'cli:%'";
    let wanted = format!(
        "audit.hold_placed {first}, audit.hold_placed {second}, audit.hold_released {first}"
    );
    assert_eq!(client.text(trail).await, wanted);
}

#[tokio::test]
async fn more_rows_than_the_limit_are_shown_with_a_plus() {
    let (_database, client, setup) = database().await;
    let log = "INSERT INTO steward.audit_logs (created_at, action, user_id, source)
               SELECT '2026-01-01Z', 'x', 'u1', 'application' FROM generate_series(1, 100001) n";
    client.batch_execute(log).await.unwrap();
    stdout(&hold(&setup, &["place", "--user", "u1", "--reason", "many"]));
    let table = stdout(&hold(&setup, &["list"]));
    assert!(table.contains("  100000+  "), "{table}");
}

#[tokio::test]
async fn placing_waits_for_a_purge_and_names_it() {
    let (_database, client, setup) = database().await;
    client.batch_execute("BEGIN; LOCK TABLE steward.audit_holds IN SHARE MODE").await.unwrap();
    let placing =
        std::thread::spawn(move || hold(&setup, &["place", "--user", "u1", "--reason", "late"]));
    // Each attempt shows its own start of waiting: the message appears before the second attempt.
    let since = "SELECT coalesce(min(waitstart)::text, '') FROM pg_locks
                  WHERE relation = 'steward.audit_holds'::regclass AND NOT granted";
    let mut seen = std::collections::BTreeSet::from([String::new()]);
    wait_until("it tries again", BOUND, async || {
        seen.insert(client.text(since).await);
        seen.len() == 3
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();
    let output = placing.join().unwrap();
    assert_eq!(stdout(&output).len(), 36);
    assert!(
        text(&output.stderr).contains("waiting for the transaction that purges the audit trail"),
        "{output:?}"
    );
}

#[tokio::test]
async fn invalid_arguments_are_refused_with_a_reason() {
    let (_database, client, setup) = database().await;
    for (arguments, wanted) in [
        (
            &["place", "--reason", "r"][..],
            "--user <ID>|--resource <TYPE[/ID]>|--from <INSTANT>|--until <INSTANT>",
        ),
        (&["place", "--user", "u"], "--reason <TEXT>"),
        (&["place", "--user", "u", "--reason", ""], "--reason"),
        (&["place", "--user", "", "--reason", "r"], "--user"),
        (&["place", "--resource", "/7", "--reason", "r"], "wanted TYPE or TYPE/ID"),
        (
            &["place", "--from", "yesterday", "--reason", "r"],
            "wanted an instant as 2026-01-31T18:00:00Z",
        ),
        (
            &["place", "--from", "2026-01-02", "--until", "2026-01-01", "--reason", "r"],
            "wanted the first before",
        ),
        (&["release", "7", "--reason", "r"], "<ID>"),
        (&["release", "01a21a97-05e3-7685-9433-1c2e3e46558e"], "--reason <TEXT>"),
        (&["list", "now"], "unexpected argument 'now'"),
    ] {
        refused(&hold(&setup, arguments), 64, wanted);
    }
    assert_eq!(client.number("SELECT count(*) FROM steward.audit_holds").await, 0);
    let nowhere = Setup::new().database("postgresql://127.0.0.1:1/none?connect_timeout=1");
    refused(&hold(&nowhere, &["list"]), 69, "database main:");
}
