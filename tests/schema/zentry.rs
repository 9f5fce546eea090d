//! The bundled set's own rules, its functions and its sample data.

use super::{Place, lines, refused};

const SAMPLE: &str = include_str!("../../packaging/demo/zentry_sample.sql");
const ADA: &str = "00000000-0000-4000-8000-00000000000a";
const BOB: &str = "00000000-0000-4000-8000-00000000000b";

/// Two users with 100 and 0 credits, a project and a running machine of the first.
async fn small() -> Place {
    let place = Place::migrated().await;
    place
        .client()
        .await
        .batch_execute(&format!(
            "INSERT INTO users (id, email, username, credits, password_hash) VALUES
                 ('{ADA}', 'Ada@example.com', 'ada', 100, 'hash'), ('{BOB}', 'bob@example.com', 'bob', 0, 'hash');
             INSERT INTO projects (id, user_id, name) VALUES ('{ADA}', '{ADA}', 'shop');
             INSERT INTO vms (id, project_id, user_id, name, status, region, image, vcpus, memory_mb, disk_gb, hourly_price, started_at)
                 VALUES ('{ADA}', '{ADA}', '{ADA}', 'web', 'running', 'eu', 'debian', 2, 4096, 40, 0.05, now() - interval '10 hours')"
        ))
        .await
        .unwrap();
    place
}

#[tokio::test]
async fn rows_that_cannot_be_true_are_refused() {
    let place = small().await;
    let client = place.client().await;
    let vm = "INSERT INTO vms (project_id, user_id, name, region, image, vcpus, memory_mb, disk_gb, hourly_price, status, deleted_at) VALUES";
    let bill = format!(
        "INSERT INTO billing_records (user_id, type, amount, status, paid_at, period_start, period_end) VALUES ('{ADA}',"
    );
    for (sql, constraint) in [
        (
            "INSERT INTO users (email, username) VALUES ('ADA@EXAMPLE.COM', 'new')".to_owned(),
            "users_email_key",
        ),
        (
            "INSERT INTO users (email, username) VALUES ('new@example.com', 'ADA')".to_owned(),
            "users_username_key",
        ),
        (
            "INSERT INTO users (email, username) VALUES ('nobody', 'n')".to_owned(),
            "users_email_format_check",
        ),
        (
            "INSERT INTO users (email, username) VALUES ('n@example.com', ' n')".to_owned(),
            "users_username_length_check",
        ),
        ("UPDATE users SET status = 'suspended'".to_owned(), "users_active_check"),
        ("UPDATE users SET role = 'root'".to_owned(), "users_role_check"),
        ("UPDATE users SET credits = credits - 101".to_owned(), "users_credits_check"),
        ("UPDATE users SET total_spent = -1".to_owned(), "users_total_spent_check"),
        ("UPDATE users SET currency = 'usd'".to_owned(), "users_currency_check"),
        ("UPDATE users SET preferences = '[]'".to_owned(), "users_preferences_object_check"),
        (
            format!("INSERT INTO projects (user_id, name) VALUES ('{ADA}', 'SHOP')"),
            "projects_user_id_name_key",
        ),
        (
            format!("INSERT INTO projects (user_id, name) VALUES ('{ADA}', '')"),
            "projects_name_length_check",
        ),
        (format!("DELETE FROM users WHERE id = '{ADA}'"), "projects_user_id_fkey"),
        (
            format!("{vm} ('{ADA}', '{BOB}', 'x', 'eu', 'd', 1, 512, 10, 1, 'pending', NULL)"),
            "vms_project_id_user_id_fkey",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'WEB', 'eu', 'd', 1, 512, 10, 1, 'pending', NULL)"),
            "vms_project_id_name_key",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'x', 'eu', 'd', 0, 512, 10, 1, 'pending', NULL)"),
            "vms_vcpus_check",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'x', 'eu', 'd', 1, 512, 10, -1, 'pending', NULL)"),
            "vms_hourly_price_check",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'x', 'eu', 'd', 1, 512, 10, 1, 'running', NULL)"),
            "vms_running_check",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'x', 'eu', 'd', 1, 512, 10, 1, 'deleted', NULL)"),
            "vms_deleted_check",
        ),
        (
            format!("{vm} ('{ADA}', '{ADA}', 'x', 'eu', 'd', 1, 512, 10, 1, 'sleeping', NULL)"),
            "vms_status_check",
        ),
        (
            format!("{bill} 'charge', -1, 'pending', NULL, NULL, NULL)"),
            "billing_records_amount_check",
        ),
        (format!("{bill} 'charge', 1, 'paid', NULL, NULL, NULL)"), "billing_records_paid_check"),
        (format!("{bill} 'usage', 1, 'pending', NULL, NULL, NULL)"), "billing_records_usage_check"),
        (
            format!("{bill} 'charge', 1, 'pending', NULL, now(), now())"),
            "billing_records_period_check",
        ),
        (
            format!(
                "INSERT INTO vm_metrics (vm_id, cpu_percent, memory_percent) VALUES ('{ADA}', 101, 1)"
            ),
            "vm_metrics_cpu_percent_check",
        ),
        (
            format!(
                "INSERT INTO vm_state_transitions (vm_id, from_status, to_status) VALUES ('{ADA}', 'error', 'error')"
            ),
            "vm_state_transitions_change_check",
        ),
    ] {
        assert_eq!(refused(&client, &sql).await.1, constraint, "{sql}");
    }
}

#[tokio::test]
async fn a_charge_takes_all_or_nothing_and_once_per_reference() {
    let place = small().await;
    let client = place.client().await;
    let charge = |rest: &str| format!("SELECT charge_user_credits('{ADA}', {rest})");
    assert_eq!(client.text(&charge(&format!("30.5, 'hosting', 'r1', '{ADA}'"))).await, "69.5000");
    assert_eq!(client.text(&charge("30.5, 'hosting', 'r1'")).await, "69.5000");
    for (call, code) in [
        (charge("70"), "23514"),
        (charge("0"), "22023"),
        (charge("-5"), "22023"),
        (charge("'NaN'"), "22023"),
        (charge("'infinity'"), "22023"),
        (charge("NULL"), "22023"),
        (charge(&format!("1, vm_id => '{BOB}'")), "P0002"),
        ("SELECT charge_user_credits(gen_random_uuid(), 1)".to_owned(), "P0002"),
    ] {
        assert_eq!(refused(&client, &call).await.0, code, "{call}");
    }
    assert_eq!(
        client.text(&format!("SELECT add_user_credits('{ADA}', 0.5, reference => 't1')")).await,
        "70.0000"
    );
    assert_eq!(
        client.text(&format!("SELECT add_user_credits('{ADA}', 0.5, reference => 't1')")).await,
        "70.0000"
    );
    let booked = lines(
        &client,
        "SELECT type, status, amount, project_id IS NOT NULL FROM billing_records ORDER BY created_at, type",
    )
    .await;
    assert_eq!(booked, ["charge | paid | 30.5000 | t", "top_up | paid | 0.5000 | f"]);
    assert_eq!(
        client.text(&format!("SELECT total_spent FROM users WHERE id = '{ADA}'")).await,
        "30.5000"
    );
    assert_eq!(
        lines(&client, &format!("SELECT * FROM get_user_spending('{ADA}')")).await,
        ["USD | charge | paid | 1 | 30.5000", "USD | top_up | paid | 1 | 0.5000"]
    );
    assert_eq!(
        lines(
            &client,
            &format!(
                "SELECT * FROM get_user_spending('{ADA}', until_at => now() - interval '1 h')"
            )
        )
        .await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn concurrent_charges_never_overdraw_nor_book_twice() {
    let place = small().await;
    let mut charges = tokio::task::JoinSet::new();
    for i in 0..8 {
        let client = place.client().await;
        // The same reference twice each, 30 of 100 credits: three fit.
        let sql = format!("SELECT charge_user_credits('{ADA}', 30, reference => 'r{}')", i / 2);
        charges.spawn(async move { client.batch_execute(&sql).await.is_ok() });
    }
    // Six calls of three references are answered, and both of the fourth refused.
    let answers = charges.join_all().await;
    assert_eq!(answers.iter().filter(|accepted| **accepted).count(), 6);
    let client = place.client().await;
    let balance = format!("SELECT credits || ' ' || total_spent FROM users WHERE id = '{ADA}'");
    assert_eq!(client.text(&balance).await, "10.0000 90.0000");
    assert_eq!(client.number("SELECT count(*) FROM billing_records").await, 3);
}

#[tokio::test]
async fn usage_is_billed_once_per_machine_and_period() {
    let place = small().await;
    let client = place.client().await;
    let call = "SELECT bill_vm_usage(date_trunc('hour', now()) - interval '20 hours', date_trunc('hour', now()))";
    assert_eq!(client.number(call).await, 1);
    assert_eq!(client.number(call).await, 0);
    // From its start on, not from the period's.
    let odd = "SELECT count(*) FROM billing_records WHERE quantity NOT BETWEEN 8.9 AND 10.1 OR amount <> round(quantity * 0.05, 4)";
    assert_eq!(client.number(odd).await, 0);
    assert_eq!(refused(&client, "SELECT bill_vm_usage(now(), now())").await.0, "22023");
    client.batch_execute("UPDATE billing_records SET status = 'void'").await.unwrap();
    assert_eq!(client.number(call).await, 1, "what was voided can be billed again");
}

#[tokio::test]
async fn samples_come_in_batches() {
    let place = small().await;
    let client = place.client().await;
    let batch = format!(
        r#"SELECT record_vm_metrics('[{{"vm_id": "{ADA}", "cpu_percent": 5, "memory_percent": 6}},
             {{"vm_id": "{ADA}", "cpu_percent": 7, "memory_percent": 8, "created_at": "2001-01-01T00:00:00Z", "network_rx_bytes": 9}}]')"#
    );
    assert_eq!(client.number(&batch).await, 2);
    assert_eq!(client.number("SELECT count(*) FROM vm_metrics_default").await, 1);
    assert_eq!(refused(&client, "SELECT record_vm_metrics('{}')").await.0, "22023");
    assert_eq!(refused(&client, "SELECT record_vm_metrics('[{}]')").await.0, "23502");
}

#[tokio::test]
async fn states_updates_and_statistics_follow() {
    let place = small().await;
    let client = place.client().await;
    client
        .batch_execute(
            "BEGIN; SET LOCAL steward.user_id = 'user-7'; UPDATE vms SET status = 'error', error = 'disk'; COMMIT;
                        UPDATE vms SET status = 'error'; UPDATE vms SET memory_mb = 8192",
        )
        .await
        .unwrap();
    let history = lines(
        &client,
        "SELECT from_status, to_status, reason, changed_by = 'user-7' FROM vm_state_transitions ORDER BY created_at",
    )
    .await;
    assert_eq!(history, ["- | running | - | f", "running | error | disk | t"]);

    let changed = "SELECT updated_at > created_at FROM users WHERE username = 'bob'";
    client.batch_execute("UPDATE users SET full_name = full_name").await.unwrap();
    assert_eq!(client.text(changed).await, "f", "nothing changed");
    client.batch_execute("UPDATE users SET full_name = 'Bob'").await.unwrap();
    assert_eq!(client.text(changed).await, "t");

    client.batch_execute("REFRESH MATERIALIZED VIEW CONCURRENTLY user_statistics").await.unwrap();
    let row = lines(
        &client,
        &format!(
            "SELECT projects, vms, vms_running, hourly_cost, credits FROM user_statistics WHERE user_id = '{ADA}'"
        ),
    )
    .await;
    assert_eq!(row, ["1 | 1 | 0 | 0 | 100.0000"]);
    // Only what a refresh may rely on when it is skipped as unchanged.
    let unstable =
        "SELECT count(*) FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                      JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
                     WHERE r.ev_class = 'user_statistics'::regclass AND p.provolatile <> 'i'";
    assert_eq!(client.number(unstable).await, 0);
    assert_eq!(
        client.text("SELECT pg_get_viewdef('user_statistics'::regclass) ~* '(now|current_)'").await,
        "f"
    );
}

#[tokio::test]
async fn a_transition_is_recorded_for_a_role_that_may_not_write_the_history() {
    let mut place = small().await;
    let role = place.database.role("operator", "BYPASSRLS").await;
    place
        .client()
        .await
        .batch_execute(&format!("GRANT SELECT, UPDATE ON vms TO {}", role.name))
        .await
        .unwrap();
    let operator = super::connect(&role.url).await.unwrap();
    operator
        .batch_execute("CREATE TEMP TABLE vm_state_transitions (LIKE vms); UPDATE public.vms SET status = 'stopped'")
        .await
        .unwrap();
    let found = lines(
        &place.client().await,
        "SELECT to_status, changed_by FROM vm_state_transitions ORDER BY created_at DESC LIMIT 1",
    )
    .await;
    assert_eq!(found, [format!("stopped | {}", role.name)]);
}

#[tokio::test]
async fn secrets_of_users_stay_out_of_the_trail() {
    let place = small().await;
    let client = place.client().await;
    client.batch_execute("UPDATE users SET password_hash = 'other-hash', api_key_hash = 'key-hash'; UPDATE users SET last_login_at = now()").await.unwrap();
    let users = "FROM audit_logs WHERE resource_type = 'public.users'";
    assert_eq!(client.number(&format!("SELECT count(*) {users}")).await, 4);
    assert_eq!(client.number(&format!("SELECT count(*) {users} AND (new_values::text ~ 'hash\": \"[^[]' OR old_values::text ~ 'hash\": \"[^[]')")).await, 0);
}

#[tokio::test]
async fn sample_data_is_whole_and_comes_once() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let counts = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM projects), (SELECT count(*) FROM vms),
                         (SELECT count(*) FROM billing_records), (SELECT count(*) FROM vm_metrics),
                         (SELECT count(*) FROM vm_state_transitions), (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM user_statistics)";
    client.batch_execute(SAMPLE).await.unwrap();
    let first = lines(&client, counts).await;
    assert!(first[0].starts_with("300 | 450 | 600 | "), "{first:?}");
    for (what, least) in [
        ("vm_metrics", 30_000),
        ("vm_metrics WHERE created_at < now() - interval '60 days'", 1_000),
        ("audit_logs WHERE created_at < now() - interval '90 days'", 20),
        ("vms WHERE status = 'running'", 100),
        ("billing_records WHERE status = 'pending'", 100),
    ] {
        assert!(client.number(&format!("SELECT count(*) FROM {what}")).await >= least, "{what}");
    }
    let unpaid = "SELECT count(*) FROM users u WHERE total_spent <> coalesce((SELECT sum(amount) FROM billing_records b
                   WHERE b.user_id = u.id AND status = 'paid' AND type = 'usage'), 0)";
    assert_eq!(client.number(unpaid).await, 0);
    client.batch_execute(SAMPLE).await.unwrap();
    assert_eq!(lines(&client, counts).await, first);
}
