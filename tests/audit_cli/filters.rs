//! Each condition finds exactly its events, and every form that is none is refused.

use crate::harness::{Setup, Template, TestDatabase};
use crate::{Said, Trail};

/// Named by their requests, in the order of time: a to h.
const EVENTS: &str = "
    INSERT INTO steward.audit_logs (created_at, request_id, source, action, user_id, actor, resource_type, resource_id, ip_address)
    VALUES ('2026-11-01 00:00Z', 'a', 'application', 'user.login', 'ann', 'web', 'session', NULL, '10.0.0.7'),
           ('2026-11-01 12:00Z', 'b', 'application', 'user.logout', 'ann', 'web', 'session', NULL, '10.0.0.8'),
           ('2026-11-02 00:00Z', 'c', 'trigger', 'update', 'bob', 'app', 'public.users', '42', '10.1.0.7'),
           ('2026-11-02 12:00Z', 'd', 'trigger', 'update', NULL, 'app', 'public.users', '42/7', '2001:db8::1'),
           ('2026-11-03 00:00Z', 'e', 'pgsteward', 'retention.purge', NULL, 'job:retention', 'table', 'public.users', NULL),
           ('2026-11-03 12:00Z', 'f', 'application', 'usher.seat', 'Ann', 'web', 'seat', '%', '10.0.0.0/24'),
           (clock_timestamp() - interval '90 minutes', 'g', 'application', 'user.login', 'bob', 'web', NULL, NULL, NULL),
           (clock_timestamp() - interval '10 minutes', 'h', 'application', 'user_login', 'bob', 'web', NULL, NULL, NULL)";

fn requests(said: Said) -> String {
    said.succeeded()
        .lines()
        .iter()
        .map(|event| event["request_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn each_filter_finds_exactly_its_events() {
    let trail = Trail::new().await;
    trail.client.batch_execute(EVENTS).await.unwrap();
    let table: &[(&[&str], &str)] = &[
        (&[], "abcdefgh"),
        (&["--user", "ann"], "ab"),
        (&["--user", "nobody"], ""),
        (&["--actor", "app"], "cd"),
        (&["--actor", "job:retention"], "e"),
        (&["--action", "user.login"], "ag"),
        (&["--action", "user.*"], "abg"),
        (&["--action", "us*"], "abfgh"),
        (&["--action", "user_*"], "h"),
        (&["--action", "u%*"], ""),
        (&["--resource", "public.users"], "cd"),
        (&["--resource", "public.users/42"], "c"),
        (&["--resource", "public.users/42/7"], "d"),
        (&["--resource", "seat/%"], "f"),
        (&["--source", "pgsteward"], "e"),
        (&["--source", "trigger"], "cd"),
        (&["--source", "application"], "abfgh"),
        (&["--ip", "10.0.0.7"], "a"),
        (&["--ip", "10.0.0.0/24"], "abf"),
        (&["--ip", "10.9.9.9/8"], "abcf"),
        (&["--ip", "2001:db8::/32"], "d"),
        (&["--request", "g"], "g"),
        (&["--since", "2026-11-02", "--until", "2026-11-03"], "cd"),
        (&["--since", "2026-11-02T12:00:00Z", "--until", "2026-11-03T12:00:00.000001Z"], "def"),
        (&["--since", "2026-11-02T13:00:00+01:00", "--until", "2026-11-03"], "d"),
        (&["--since", "2h"], "gh"),
        (&["--since", "2h", "--until", "30m"], "g"),
        (&["--since", "2026-11-01", "--until", "15m", "--user", "bob"], "cg"),
        (
            &["--user", "ann", "--action", "user.*", "--ip", "10.0.0.8", "--source", "application"],
            "b",
        ),
    ];
    for (arguments, wanted) in table {
        let exported = requests(trail.audit(&[&["export"], *arguments].concat()));
        assert_eq!(exported, *wanted, "export {arguments:?}");
        let listed = trail.audit(&[&["list", "--json"], *arguments].concat()).succeeded();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.out).unwrap();
        let listed: String = listed
            .iter()
            .rev()
            .map(|event| event["request_id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, *wanted, "list {arguments:?}, newest first");
    }
}

#[tokio::test]
async fn what_was_written_after_the_beginning_of_an_export_is_not_in_it() {
    let trail = Trail::new().await;
    trail.client.batch_execute(EVENTS).await.unwrap();
    let later = "UPDATE steward.audit_logs SET created_at = clock_timestamp() + interval '1 hour' WHERE request_id = 'a'";
    trail.client.batch_execute(later).await.unwrap();
    assert_eq!(requests(trail.audit(&["export"])), "bcdefgh");
    assert_eq!(requests(trail.audit(&["export", "--until", "9999-12-31"])), "bcdefgha");
    let listed = trail.audit(&["list"]).succeeded();
    assert_eq!(listed.out.lines().count(), 9, "{listed:?}");
}

#[tokio::test]
async fn actions_too_many_to_count_are_found_by_their_beginning_too() {
    let trail = Trail::new().await;
    let many = "INSERT INTO steward.audit_logs (request_id, source, action)
                SELECT CASE WHEN i % 500 = 0 THEN 'x' ELSE '-' END, 'application',
                       CASE WHEN i % 500 = 0 THEN 'seldom.' ELSE 'often.' END || i FROM generate_series(1, 1500) i";
    trail.client.batch_execute(many).await.unwrap();
    assert_eq!(requests(trail.audit(&["export", "--action", "seldom.*"])), "xxx");
}

#[test]
fn bad_forms_are_told_and_refused() {
    // Nothing listens there: who asks wrongly is told before anybody is asked.
    let setup = Setup::new().database("postgresql:///nothing?host=/nonexistent");
    for (arguments, found) in [
        (["--user", ""], "empty"),
        (["--actor", ""], "empty"),
        (["--request", ""], "empty"),
        (["--action", ""], "\"\""),
        (["--action", "*"], "\"*\""),
        (["--action", "a*b"], "\"a*b\""),
        (["--resource", ""], "\"\""),
        (["--resource", "/7"], "\"/7\""),
        (["--resource", "vm/"], "\"vm/\""),
        (["--ip", "10.0.0"], "\"10.0.0\""),
        (["--ip", "10.0.0.0/33"], "\"10.0.0.0/33\""),
        (["--ip", "localhost"], "\"localhost\""),
        (["--since", "yesterday"], "\"yesterday\""),
        (["--since", "2026-02-30"], "\"2026-02-30\""),
        (["--until", "2026-11-27T10:00:00"], "\"2026-11-27T10:00:00\""),
        (["--until", "5y"], "\"5y\""),
    ] {
        for command in ["list", "export"] {
            let said = Said::of(setup.command(&[&["audit", command], &arguments[..]].concat()));
            said.refused(
                64,
                &[&format!("found {found}").replace("found empty", "found an empty"), "wanted "],
            );
        }
    }
    let said = |arguments: &[&str]| Said::of(setup.command(&[&["audit"], arguments].concat()));
    said(&["list", "--source", "me"]).refused(64, &["me", "pgsteward", "application", "trigger"]);
    for limit in ["0", "10001", "-1", "many"] {
        assert_eq!(said(&["list", "--limit", limit]).code, Some(64), "{limit}");
    }
    said(&["list", "--before", "2026-11-27"])
        .refused(64, &["found \"2026-11-27\"", "wanted TIME,ID"]);
    said(&["export", "--format", "xml"]).refused(64, &["xml", "ndjson", "csv"]);
    said(&["export", "--force"]).refused(64, &["--output"]);
    said(&["export"]).refused(69, &["database main"]);
}

#[tokio::test]
async fn times_the_wrong_way_round_missing_tables_and_what_row_security_hides_are_told() {
    let mut trail = Trail::new().await;
    for command in ["list", "export"] {
        let said = trail.audit(&[command, "--since", "1h", "--until", "2h"]);
        said.refused(64, &["found --since", "wanted the first before the second"]);
    }
    trail.client.batch_execute(EVENTS).await.unwrap();
    let role = trail.database.role("auditor", "").await;
    let grant = format!(
        "GRANT USAGE ON SCHEMA steward TO {0}; GRANT SELECT ON steward.audit_logs TO {0};
         CREATE POLICY ann ON steward.audit_logs FOR SELECT TO {0} USING (user_id = 'ann')",
        role.name
    );
    trail.client.batch_execute(&grant).await.unwrap();
    let said = Said::of(Setup::new().database(&role.url).command(&["audit", "export"])).succeeded();
    assert!(said.err.contains("row security is on for this role"), "{said:?}");
    assert_eq!(requests(said), "ab");
    trail.client.batch_execute("DROP POLICY ann ON steward.audit_logs").await.unwrap();

    let empty = TestDatabase::create(Template::Empty).await;
    for command in ["list", "export"] {
        let said = Said::of(Setup::new().database(&empty.url()).command(&["audit", command]));
        said.refused(69, &["pgsteward migrate up"]);
    }
    let said = trail.audit(&["list", "--user", "nobody"]).succeeded();
    assert!(said.out.is_empty() && said.err.contains("no such event"), "{said:?}");
    assert_eq!(trail.audit(&["list", "--user", "nobody", "--json"]).succeeded().out, "[]\n");
}
