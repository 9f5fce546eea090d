//! Partitions are there before they are needed, and making them disturbs nobody.

use super::{Place, lines, refused};

const RESULT: &str = "SELECT created || ' ' || ahead_ready || ' ' || cardinality(problems) FROM";

#[tokio::test]
async fn tables_can_be_written_to_from_the_start_and_far_ahead() {
    let place = Place::migrated().await;
    let client = place.client().await;
    for (table, columns, values, last) in [
        (
            "steward.system_health",
            "instance, component, status, reason",
            "'i', 'c', 'healthy', 'ok'",
            "14 days",
        ),
        (
            "steward.connection_metrics",
            "instance, interval_seconds, samples, max_connections, reserved_connections, total_min, total_avg, total_max",
            "'i', 1, 1, 1, 1, 1, 1, 1",
            "14 days",
        ),
        ("steward.audit_logs", "action, source", "'a', 'pgsteward'", "3 months"),
        ("vm_metrics", "vm_id, cpu_percent, memory_percent", "gen_random_uuid(), 1, 1", "3 months"),
    ] {
        let sql = format!(
            "INSERT INTO {table} (created_at, {columns}) VALUES (now() + interval '{last}', {values})"
        );
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{table}: {error:?}"));
        let partition = client
            .text(&format!(
                "SELECT tableoid::regclass FROM {table} ORDER BY created_at DESC LIMIT 1"
            ))
            .await;
        assert!(!partition.ends_with("_default"), "{table}: {partition}");
    }
    // What only the daemon writes has no partition that would take anything.
    let stray =
        "INSERT INTO steward.system_health (created_at, instance, component, status, reason)
                      VALUES (now() + interval '40 days', 'i', 'c', 'healthy', 'ok')";
    assert_eq!(refused(&client, stray).await.0, "23514");
    client
        .batch_execute(
            "INSERT INTO steward.audit_logs (created_at, action, source) VALUES ('1999-01-01', 'a', 'application')",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn made_once_named_by_their_day_bounded_in_utc() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client
        .batch_execute("SET timezone = 'Asia/Kathmandu'; SET datestyle = 'SQL, DMY'")
        .await
        .unwrap();
    let call = format!("{RESULT} steward.ensure_partitions('steward.system_health', 'day', 20, 2)");
    assert_eq!(client.text(&call).await, "7 20 0");
    assert_eq!(client.text(&call).await, "0 20 0");
    client.batch_execute("SET timezone = 'UTC'; SET datestyle = 'ISO'").await.unwrap();
    let odd = lines(
        &client,
        r"SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
            FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
           WHERE h.inhparent = 'steward.system_health'::regclass
             AND pg_get_expr(c.relpartbound, c.oid) <> format('FOR VALUES FROM (%L) TO (%L)',
                 to_date(right(c.relname, 8), 'YYYYMMDD')::timestamptz, (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamptz)",
    )
    .await;
    assert_eq!(odd, Vec::<String>::new());
}

#[tokio::test]
async fn a_month_is_found_ready_when_it_begins() {
    let place = Place::migrated().await;
    let client = place.client().await;
    assert_eq!(
        client
            .text(&format!("{RESULT} steward.ensure_partitions('steward.audit_logs', 'month', 12)"))
            .await,
        "9 12 0"
    );
    assert_eq!(
        client
            .text(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = 'steward.audit_logs'::regclass"
            )
            .await,
        "14"
    );
}

#[tokio::test]
async fn rows_in_the_default_partition_are_told_not_moved() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client
        .batch_execute("INSERT INTO steward.audit_logs (created_at, action, source)
                             VALUES (date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '5 months', 'early', 'application')")
        .await
        .unwrap();
    // The fourth month is made, the fifth is in the way, the sixth is made but not counted: a gap.
    let call = "SELECT created || ' ' || ahead_ready || ' ' || array_to_string(problems, ',')
                  FROM steward.ensure_partitions('steward.audit_logs', 'month', 6)";
    let told = client.text(call).await;
    assert!(told.starts_with("2 4 steward.audit_logs_default holds rows of "), "{told}");
    assert_eq!(
        client
            .text("SELECT tableoid::regclass FROM steward.audit_logs WHERE action = 'early'")
            .await,
        "steward.audit_logs_default"
    );
}

#[tokio::test]
async fn a_partition_takes_owner_grants_and_row_security_over() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client
        .batch_execute("GRANT SELECT ON vm_metrics TO service_role WITH GRANT OPTION; GRANT INSERT ON vm_metrics TO PUBLIC;
                        REVOKE ALL ON vm_metrics FROM service_role; GRANT SELECT ON vm_metrics TO service_role WITH GRANT OPTION;
                        SELECT steward.ensure_partitions('vm_metrics', 'month', 4)")
        .await
        .unwrap();
    let newest = "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'vm_metrics'::regclass
                     AND inhrelid::regclass::text ~ '_p[0-9]+$'";
    let partition = client.text(newest).await;
    let rights = |table: &str| {
        format!(
            "SELECT r.rolname || ' ' || c.relrowsecurity || ' ' || string_agg(a::text, ' ' ORDER BY a::text)
               FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner CROSS JOIN LATERAL aclexplode(c.relacl) a
              WHERE c.oid = '{table}'::regclass GROUP BY c.relrowsecurity, r.rolname"
        )
    };
    assert_eq!(client.text(&rights(&partition)).await, client.text(&rights("vm_metrics")).await);
}

#[tokio::test]
async fn two_makers_at_once_make_each_once() {
    let place = Place::migrated().await;
    let (one, two) = (place.client().await, place.client().await);
    let call =
        "SELECT created FROM steward.ensure_partitions('steward.connection_metrics', 'day', 40)";
    let (a, b) = tokio::join!(one.number(call), two.number(call));
    // The second finds the first's as existing tables or as partitions; none is made twice, no error.
    assert_eq!(a + b, 26);
    assert_eq!(
        one.text(&format!(
            "{RESULT} steward.ensure_partitions('steward.connection_metrics', 'day', 40)"
        ))
        .await,
        "0 40 0"
    );
}

#[tokio::test]
async fn readers_and_writers_go_on_meanwhile() {
    let place = Place::migrated().await;
    let (reader, maker) = (place.client().await, place.client().await);
    // An open transaction that has read and written the table: ACCESS EXCLUSIVE would wait for it.
    reader
        .batch_execute(
            "BEGIN; SELECT count(*) FROM ONLY steward.audit_logs;
                        INSERT INTO steward.audit_logs (action, source) VALUES ('a', 'application')",
        )
        .await
        .unwrap();
    maker.batch_execute("SET lock_timeout = '2s'").await.unwrap();
    assert_eq!(
        maker
            .text(&format!("{RESULT} steward.ensure_partitions('steward.audit_logs', 'month', 4)"))
            .await,
        "1 4 0"
    );
    reader.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn bad_calls_say_what_is_wanted() {
    let mut place = Place::migrated().await;
    let client = place.client().await;
    for (call, code) in [
        ("('steward.leases', 'day', 1)", "42809"),
        ("('steward.audit_logs', 'week', 1)", "22023"),
        ("('steward.audit_logs', NULL, 1)", "22023"),
        ("('steward.audit_logs', 'month', 401)", "22023"),
        ("('steward.audit_logs', 'month', -1)", "22023"),
        ("(NULL, 'month', 1)", "42P01"),
    ] {
        assert_eq!(
            refused(&client, &format!("SELECT steward.ensure_partitions{call}")).await.0,
            code,
            "{call}"
        );
    }
    let role = place.database.role("helper", "").await;
    client
        .batch_execute(&format!(
            "GRANT USAGE ON SCHEMA steward TO {0}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA steward TO {0}",
            role.name
        ))
        .await
        .unwrap();
    let helper = super::connect(&role.url).await.unwrap();
    assert_eq!(
        refused(&helper, "SELECT steward.ensure_partitions('steward.audit_logs', 'month', 5)")
            .await
            .0,
        "42501"
    );
}
