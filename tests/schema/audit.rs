//! The trail: it tells what happened, hides what it must, and never fails the application.

use super::{Place, lines, refused};

const TRAIL: &str = "SELECT action, resource_id, old_values, new_values FROM steward.audit_logs
                      WHERE source = 'trigger' ORDER BY created_at, id";

/// Both sets applied, and a trail that begins now.
pub async fn begun() -> Place {
    let place = Place::migrated().await;
    place.client().await.batch_execute("TRUNCATE steward.audit_logs").await.unwrap();
    place
}

async fn audited() -> Place {
    let place = begun().await;
    place
        .client()
        .await
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, name text, secret text, seen timestamptz);
             SELECT steward.audit_table('item', ignore => '{seen}', redact => '{secret}');
             TRUNCATE steward.audit_logs",
        )
        .await
        .unwrap();
    place
}

#[tokio::test]
async fn rows_are_recorded_with_what_changed_and_without_secrets() {
    let place = audited().await;
    let client = place.client().await;
    for sql in [
        "INSERT INTO item VALUES (1, 'one', 's1', now())",
        "UPDATE item SET seen = now() + interval '1 hour'",
        "UPDATE item SET name = 'uno', secret = 's2'",
        "UPDATE item SET name = 'uno'",
        "UPDATE item SET name = 'none' WHERE false",
        "INSERT INTO item (id, name) VALUES (1, 'x'), (2, 'two') ON CONFLICT (id) DO UPDATE SET name = 'ein'",
        "DELETE FROM item WHERE id = 1",
        "TRUNCATE item",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let expected = [
        r#"insert | 1 | - | {"id": 1, "name": "one", "secret": "[redacted]"}"#,
        r#"update | 1 | {"name": "one", "secret": "[redacted]"} | {"name": "uno", "secret": "[redacted]"}"#,
        r#"insert | 2 | - | {"id": 2, "name": "two", "secret": "[redacted]"}"#,
        r#"update | 1 | {"name": "uno"} | {"name": "ein"}"#,
        r#"delete | 1 | {"id": 1, "name": "ein", "secret": "[redacted]"} | -"#,
        "truncate | - | - | -",
    ];
    let mut found = lines(&client, TRAIL).await;
    // The two of the upsert are written by two triggers of one statement, in either order.
    found[2..4].sort();
    assert_eq!(found, expected);
    let whole =
        lines(&client, "SELECT a::text FROM steward.audit_logs a WHERE a::text ~ 's[12]'").await;
    assert_eq!(whole, Vec::<String>::new(), "a secret in the trail");
}

#[tokio::test]
async fn old_and_new_belong_together_even_when_the_key_moves() {
    let place = audited().await;
    let client = place.client().await;
    client
        .batch_execute("INSERT INTO item SELECT i, 'n' || i FROM generate_series(1, 2000) i")
        .await
        .unwrap();
    client.batch_execute("UPDATE item SET id = id + 10000, name = name || '!'").await.unwrap();
    let torn = "SELECT count(*) FROM steward.audit_logs
                 WHERE action = 'update' AND ((new_values ->> 'id')::int <> (old_values ->> 'id')::int + 10000
                    OR new_values ->> 'name' <> (old_values ->> 'name') || '!' OR resource_id <> old_values ->> 'id')";
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs WHERE action = 'update'").await,
        2000
    );
    assert_eq!(client.number(torn).await, 0);
}

#[tokio::test]
async fn a_plan_made_for_one_row_serves_many() {
    let place = audited().await;
    let client = place.client().await;
    client
        .batch_execute("INSERT INTO item SELECT i, 'n' FROM generate_series(1, 20000) i")
        .await
        .unwrap();
    for id in 1..=10 {
        client.batch_execute(&format!("UPDATE item SET name = 'm' WHERE id = {id}")).await.unwrap();
    }
    // A nested loop kept from the single rows would compare 400 million pairs.
    client
        .batch_execute("SET statement_timeout = '25s'; UPDATE item SET name = 'k'")
        .await
        .unwrap();
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs WHERE action = 'update'").await,
        20_010
    );
}

#[tokio::test]
async fn one_subtransaction_per_statement_not_per_row() {
    let place = audited().await;
    let client = place.client().await;
    // Ids are taken one after the other; an idle cluster would show exactly 2 (transaction and block).
    client.batch_execute("BEGIN").await.unwrap();
    let before = client.number("SELECT pg_current_xact_id()::text").await;
    client
        .batch_execute("INSERT INTO item SELECT i, 'n' FROM generate_series(1, 500) i")
        .await
        .unwrap();
    let subtransactions = client
        .number("SELECT count(DISTINCT xmin::text) FROM steward.audit_logs WHERE xmin::text::bigint <> pg_current_xact_id()::text::bigint")
        .await;
    assert_eq!(subtransactions, 1);
    assert_eq!(client.number("SELECT count(DISTINCT xid::text) FROM steward.audit_logs").await, 1);
    assert_eq!(client.number("SELECT min(xid::text) FROM steward.audit_logs").await, before);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs").await,
        0,
        "it goes with its transaction"
    );
}

#[tokio::test]
async fn malformed_settings_never_fail_the_statement() {
    let place = audited().await;
    let client = place.client().await;
    let settings = [
        ("steward.user_id", "x".repeat(5000)),
        ("steward.ip", "nonsense".to_owned()),
        ("steward.ip", "10.0.0.1, 10.0.0.2".to_owned()),
        ("steward.user_agent", "y".repeat(9000)),
        ("steward.request_id", "''\"; DROP TABLE item".to_owned()),
        ("request.jwt.claims", "{broken".to_owned()),
        ("request.jwt.claims", "[1, 2]".to_owned()),
        ("request.jwt.claims", "\"text\"".to_owned()),
        ("request.jwt.claims", r#"{"sub": {"nested": 1}}"#.to_owned()),
        ("request.headers", "not json".to_owned()),
        ("request.headers", "null".to_owned()),
    ];
    for (id, (name, value)) in settings.iter().enumerate() {
        client.execute("SELECT set_config($1, $2, false)", &[name, value]).await.unwrap();
        client
            .batch_execute(&format!(
                "INSERT INTO item (id) VALUES ({id}); SELECT steward.log_audit_event('tried')"
            ))
            .await
            .unwrap();
    }
    let wanted = i64::try_from(settings.len()).unwrap();
    assert_eq!(
        client
            .number("SELECT count(*) FROM steward.audit_logs WHERE source = 'trigger' AND new_values IS NOT NULL")
            .await,
        wanted
    );
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs WHERE source = 'application'").await,
        wanted
    );
    assert_eq!(client.number("SELECT max(length(user_id)) FROM steward.audit_logs").await, 256);
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs WHERE details ->> 'ip_address' = 'nonsense'").await,
        2
    );
}

#[tokio::test]
async fn who_acts_is_taken_from_the_application_or_postgrest() {
    let place = audited().await;
    let client = place.client().await;
    client
        .batch_execute(
            r#"BEGIN; SET LOCAL steward.user_id = 'user-1'; SET LOCAL steward.ip = '2001:db8::1'; SET LOCAL steward.request_id = 'r1';
               INSERT INTO item (id) VALUES (1); COMMIT;
               BEGIN; SET LOCAL request.jwt.claims = '{"sub": "user-2"}';
               SET LOCAL request.headers = '{"user-agent": "curl", "x-forwarded-for": "203.0.113.9"}';
               INSERT INTO item (id) VALUES (2); COMMIT;
               INSERT INTO item (id) VALUES (3);
               BEGIN; SET LOCAL request.jwt.claims = '{broken'; INSERT INTO item (id) VALUES (4); COMMIT"#,
        )
        .await
        .unwrap();
    let found = lines(
        &client,
        "SELECT resource_id, user_id, host(ip_address), user_agent, request_id, details FROM steward.audit_logs ORDER BY created_at",
    )
    .await;
    assert_eq!(
        found,
        [
            "1 | user-1 | 2001:db8::1 | - | r1 | -",
            r#"2 | user-2 | - | curl | - | {"forwarded_for": "203.0.113.9"}"#,
            "3 | - | - | - | - | -",
            r#"4 | - | - | - | - | {"jwt_claims": "malformed"}"#,
        ]
    );
}

#[tokio::test]
async fn the_role_in_force_is_recorded_beside_the_login() {
    let place = audited().await;
    place.client().await.batch_execute("GRANT INSERT ON item TO service_role").await.unwrap();
    let client = place.acting_as("service_role").await;
    client.batch_execute("INSERT INTO public.item (id) VALUES (1)").await.unwrap();
    let login = client.text("SELECT session_user").await;
    let found =
        lines(&place.client().await, "SELECT actor, session_user_name FROM steward.audit_logs")
            .await;
    assert_eq!(found, [format!("service_role | {login}")]);
}

#[tokio::test]
async fn an_unreachable_trail_costs_the_event_not_the_statement() {
    let place = audited().await;
    let client = place.client().await;
    client.batch_execute("INSERT INTO item (id) VALUES (1)").await.unwrap();
    // A column is gone: the event stays, without values.
    client
        .batch_execute(
            "ALTER TABLE steward.audit_logs RENAME COLUMN old_values TO elsewhere; DELETE FROM item;
                        ALTER TABLE steward.audit_logs RENAME COLUMN elsewhere TO old_values",
        )
        .await
        .unwrap();
    let kept = client
        .text("SELECT details ->> 'sqlstate' FROM steward.audit_logs WHERE action = 'delete'")
        .await;
    assert_eq!(kept, "42703");
    // The table is gone: the loss is counted, also when the transaction rolls back.
    let losses = "SELECT last_value FROM steward.audit_losses";
    assert_eq!(client.number(losses).await, 0);
    for sql in [
        "ALTER TABLE steward.audit_logs RENAME TO hidden_logs",
        "INSERT INTO item (id) VALUES (2)",
        "BEGIN; INSERT INTO item (id) VALUES (3); ROLLBACK",
        "ALTER TABLE steward.hidden_logs RENAME TO audit_logs",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    assert_eq!(client.text("SELECT string_agg(id::text, ',') FROM item").await, "2");
    assert_eq!(client.number(losses).await, 2);
    // No partition takes the row.
    client
        .batch_execute(
            "BEGIN;
             DO $$ DECLARE part regclass; BEGIN
                 FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'steward.audit_logs'::regclass LOOP
                     EXECUTE format('ALTER TABLE steward.audit_logs DETACH PARTITION %s', part);
                 END LOOP;
             END $$;
             UPDATE item SET name = 'x'; ROLLBACK",
        )
        .await
        .unwrap();
    assert_eq!(client.number(losses).await, 3);
}

#[tokio::test]
async fn a_lock_on_the_trail_holds_the_application_up_for_seconds_at_most() {
    let place = audited().await;
    let (client, other) = (place.client().await, place.client().await);
    other
        .batch_execute("BEGIN; LOCK TABLE steward.audit_logs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    client
        .batch_execute("SET statement_timeout = '20s'; INSERT INTO item (id) VALUES (1)")
        .await
        .unwrap();
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(client.number("SELECT count(*) FROM item").await, 1);
    assert_eq!(client.number("SELECT last_value FROM steward.audit_losses").await, 1);
    // The session's own setting is as before.
    assert_eq!(client.text("SHOW lock_timeout").await, "0");
}

#[tokio::test]
async fn a_renamed_secret_is_hidden_with_all_the_rest() {
    let place = audited().await;
    let client = place.client().await;
    client
        .batch_execute("INSERT INTO item VALUES (1, 'one', 's1'); ALTER TABLE item RENAME secret TO pass;
                        UPDATE item SET pass = 's2', name = 'uno'; ALTER TABLE item RENAME id TO number; UPDATE item SET name = 'due'")
        .await
        .unwrap();
    assert_eq!(
        client
            .number("SELECT count(*) FROM steward.audit_logs a WHERE a::text ~ 's[12]|uno|due'")
            .await,
        0
    );
    let last = lines(&client, "SELECT resource_id, new_values, details ? 'redaction' FROM steward.audit_logs ORDER BY created_at DESC LIMIT 1").await;
    assert_eq!(last, [r#"1 | {"name": "[redacted]"} | t"#]);
    // Said anew, it goes on as before; a column added later needs nothing.
    client
        .batch_execute(
            "SELECT steward.audit_table('item', redact => '{pass}'); ALTER TABLE item ADD COLUMN colour text;
                        UPDATE item SET colour = 'red', pass = 's3'",
        )
        .await
        .unwrap();
    let last = lines(
        &client,
        "SELECT resource_id, new_values FROM steward.audit_logs ORDER BY created_at DESC LIMIT 1",
    )
    .await;
    assert_eq!(last, [r#"1 | {"pass": "[redacted]", "colour": "red"}"#]);
}

#[tokio::test]
async fn large_values_are_cut_and_say_so() {
    let place = audited().await;
    let client = place.client().await;
    client
        .batch_execute(
            "INSERT INTO item (id, name) SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 10000) i;
             SELECT steward.log_audit_event('big', details => (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 10000) i))",
        )
        .await
        .unwrap();
    let found = lines(
        &client,
        "SELECT new_values ->> 'name' ~ ' … \\[cut: 320000 characters\\]$', new_values -> 'id', details ->> '[cut]'
           FROM steward.audit_logs ORDER BY created_at",
    )
    .await;
    assert_eq!(found, ["t | 1 | -", "- | - | array of 360000 bytes"]);
}

#[tokio::test]
async fn keys_of_several_columns_none_at_all_and_replicas() {
    let place = begun().await;
    let client = place.client().await;
    client
        .batch_execute(
            "CREATE TABLE pair (b text, a int, v int, PRIMARY KEY (a, b)); SELECT steward.audit_table('pair');
             CREATE TABLE bag (v int, w int); SELECT steward.audit_table('bag');
             INSERT INTO pair VALUES ('x', 7, 1); UPDATE pair SET v = 2;
             INSERT INTO bag VALUES (1, 1); UPDATE bag SET v = 2",
        )
        .await
        .unwrap();
    let found = lines(&client, TRAIL).await;
    assert_eq!(found[1], r#"update | 7/x | {"v": 1} | {"v": 2}"#);
    assert_eq!(found[3], r#"update | - | {"v": 1, "w": 1} | {"v": 2, "w": 1}"#);
    // What a replica's session writes is recorded like anything else.
    let admin = place.database.client().await;
    admin
        .batch_execute("SET session_replication_role = replica; DELETE FROM public.bag")
        .await
        .unwrap();
    assert_eq!(lines(&client, TRAIL).await.len(), 5);
    client
        .batch_execute("SELECT steward.unaudit_table('bag'); INSERT INTO bag VALUES (3, 3)")
        .await
        .unwrap();
    assert_eq!(lines(&client, TRAIL).await.len(), 5);
}

#[tokio::test]
async fn what_cannot_be_audited_is_refused() {
    let place = audited().await;
    let client = place.client().await;
    for (sql, code) in [
        ("SELECT steward.audit_table('item', redact => '{secrets}')", "42703"),
        ("SELECT steward.audit_table('item', ignore => '{nope}')", "42703"),
        ("SELECT steward.audit_table('public.user_statistics')", "42809"),
        ("SELECT steward.audit_table('steward.job_runs')", "42809"),
        ("SELECT steward.audit_table(NULL)", "42809"),
        ("SELECT steward.log_audit_event('')", "22023"),
        ("SELECT steward.log_audit_event(NULL)", "22023"),
    ] {
        assert_eq!(refused(&client, sql).await.0, code, "{sql}");
    }
    // The owner of a table chooses the casts that run in the trigger: not as superuser.
    let admin = place.database.client().await;
    admin.batch_execute("ALTER FUNCTION steward.audit_row() OWNER TO CURRENT_USER").await.unwrap();
    assert_eq!(refused(&admin, "SELECT steward.audit_table('public.item')").await.0, "42501");
}

#[tokio::test]
async fn one_call_logs_an_event() {
    let place = begun().await;
    let client = place.client().await;
    let id = client
        .text(
            "SELECT steward.log_audit_event('user.login', user_id => 'user-123', resource_type => 'session', resource_id => 's-9',
                    old_values => '{\"a\": 1}', new_values => '{\"a\": 2}', ip_address => '192.0.2.1', user_agent => 'app',
                    request_id => 'q', details => '{\"mfa\": true}')",
        )
        .await;
    assert_eq!(id.as_bytes()[14], b'7', "version 7: {id}");
    let row = lines(
        &client,
        "SELECT id, user_id, action, resource_type, resource_id, old_values, new_values, host(ip_address), user_agent,
                request_id, source, details FROM steward.audit_logs",
    )
    .await;
    let expected = format!(
        r#"{id} | user-123 | user.login | session | s-9 | {{"a": 1}} | {{"a": 2}} | 192.0.2.1 | app | q | application | {{"mfa": true}}"#
    );
    assert_eq!(row, [expected]);
    client
        .batch_execute(
            "SELECT steward.log_audit_event('x', ip_address => 'unknown', details => '[1]')",
        )
        .await
        .unwrap();
    let details =
        "SELECT details FROM steward.audit_logs WHERE action = 'x' AND ip_address IS NULL";
    assert_eq!(client.text(details).await, r#"{"details": [1], "ip_address": "unknown"}"#);
}
