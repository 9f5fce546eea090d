//! What the tables refuse.

use super::{Place, refused};

const RUN: &str = "INSERT INTO steward.job_runs (id, job, kind, due_at, state";

#[tokio::test]
async fn the_ledger_refuses_rows_that_contradict_themselves() {
    let place = Place::migrated().await;
    let client = place.client().await;
    for (row, constraint) in [
        (", started_at) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', now())", "job_runs_queued_check"),
        (") VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'running')", "job_runs_running_check"),
        (
            ", started_at, lease_until) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'running', now(), now())",
            "job_runs_running_check",
        ),
        (") VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'succeeded')", "job_runs_ended_check"),
        (
            ", finished_at) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'skipped', now())",
            "job_runs_skipped_check",
        ),
        (") VALUES (gen_random_uuid(), 'j', 'manual', now(), 'queued')", "job_runs_manual_check"),
        (
            ", finished_at, reason) VALUES (gen_random_uuid(), 'j', 'missed', now(), 'skipped', now(), 'away')",
            "job_runs_missed_check",
        ),
        (
            ", finished_at, reason, last_due_at, missed_count)
             VALUES (gen_random_uuid(), 'j', 'missed', now(), 'skipped', now(), 'away', now() - interval '1 s', 3)",
            "job_runs_missed_check",
        ),
        (
            ", last_due_at, missed_count) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', now(), 1)",
            "job_runs_missed_check",
        ),
        (") VALUES (gen_random_uuid(), 'j', 'sometimes', now(), 'queued')", "job_runs_kind_check"),
        (
            ", finished_at) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'resting', now())",
            "job_runs_state_check",
        ),
        (") VALUES (gen_random_uuid(), '', 'scheduled', now(), 'queued')", "job_runs_job_check"),
        (", epoch) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', 0)", "job_runs_epoch_check"),
        (", attempts) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', -1)", "job_runs_attempts_check"),
        (", backend_pid) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', 1)", "job_runs_backend_check"),
        (
            ", backend_start) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', now())",
            "job_runs_backend_check",
        ),
        (
            ", reason, last_due_at, missed_count) VALUES (gen_random_uuid(), 'j', 'missed', now(), 'queued', 'r', now(), 1)",
            "job_runs_missed_check",
        ),
        (
            ", finished_at, reason, last_due_at, missed_count)
             VALUES (gen_random_uuid(), 'j', 'missed', now(), 'skipped', now(), 'away', now(), 0)",
            "job_runs_missed_check",
        ),
        (
            ", rows_affected) VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'queued', -1)",
            "job_runs_rows_affected_check",
        ),
    ] {
        let sql = format!("{RUN}{row}");
        assert_eq!(refused(&client, &sql).await, ("23514".to_owned(), constraint.to_owned()), "{sql}");
    }
    assert_eq!(client.number("SELECT count(*) FROM steward.job_runs").await, 0);
}

#[tokio::test]
async fn the_row_of_a_job_refuses_what_contradicts_itself() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client.batch_execute("INSERT INTO steward.job_state (job) VALUES ('j'), ('*')").await.unwrap();
    for (change, constraint) in [
        ("running_run_id = gen_random_uuid() WHERE job = 'j'", "job_state_running_check"),
        ("running_since = now() WHERE job = 'j'", "job_state_running_check"),
        (
            "running_run_id = gen_random_uuid(), running_since = now() WHERE job = '*'",
            "job_state_all_check",
        ),
        ("paused_by = 'ann' WHERE job = 'j'", "job_state_paused_check"),
        ("paused_at = now() WHERE job = '*'", "job_state_paused_check"),
        ("succeeded_total = -1 WHERE job = 'j'", "job_state_succeeded_total_check"),
        ("failed_total = -1 WHERE job = 'j'", "job_state_failed_total_check"),
        ("skipped_total = -1 WHERE job = 'j'", "job_state_skipped_total_check"),
        ("consecutive_failures = -1 WHERE job = 'j'", "job_state_consecutive_failures_check"),
        ("job = '' WHERE job = 'j'", "job_state_job_check"),
    ] {
        let sql = format!("UPDATE steward.job_state SET {change}");
        assert_eq!(
            refused(&client, &sql).await,
            ("23514".to_owned(), constraint.to_owned()),
            "{sql}"
        );
    }
    let right = "UPDATE steward.job_state SET running_run_id = gen_random_uuid(), running_since = now() WHERE job = 'j'";
    client.batch_execute(right).await.unwrap();
}

#[tokio::test]
async fn an_instant_is_claimed_once_and_a_job_runs_and_waits_once() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let at = "'2026-01-01 00:00:00+00'";
    client
        .batch_execute(&format!(
            "{RUN}, instance, started_at, lease_until)
                  VALUES (gen_random_uuid(), 'j', 'scheduled', {at}, 'running', 'i', now(), now());
             {RUN}, finished_at, reason, last_due_at, missed_count)
                  VALUES (gen_random_uuid(), 'j', 'missed', '2025-01-01', 'skipped', now(), 'away', '2025-02-01', 31);
             {RUN}, actor) VALUES (gen_random_uuid(), 'other', 'manual', {at}, 'queued', 'token:ops')"
        ))
        .await
        .unwrap();
    let again = format!("{RUN}) VALUES (gen_random_uuid(), 'j', 'scheduled', {at}, 'queued')");
    assert_eq!(
        refused(&client, &again).await,
        ("23505".to_owned(), "job_runs_job_due_at_key".to_owned())
    );
    let overlap = format!(
        "{RUN}, instance, started_at, lease_until)
              VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'running', 'i2', now(), now())"
    );
    assert_eq!(
        refused(&client, &overlap).await,
        ("23505".to_owned(), "job_runs_running_key".to_owned())
    );
    let waiting = format!("{RUN}) VALUES (gen_random_uuid(), 'j', 'chained', now(), 'queued')");
    client.batch_execute(&waiting).await.unwrap();
    let queue = format!(
        "{RUN}, actor) VALUES (gen_random_uuid(), 'j', 'manual', now() + interval '1 s', 'queued', 'ann')"
    );
    assert_eq!(
        refused(&client, &queue).await,
        ("23505".to_owned(), "job_runs_queued_key".to_owned())
    );
    // Ended, it makes way.
    client
        .batch_execute("UPDATE steward.job_runs SET state = 'succeeded', finished_at = now() WHERE state = 'running'")
        .await
        .unwrap();
    client.batch_execute(&overlap).await.unwrap();
}

#[tokio::test]
async fn a_lease_s_renewal_needs_no_index_entry() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client
        .batch_execute(&format!(
            "{RUN}, instance, started_at, lease_until)
                  VALUES (gen_random_uuid(), 'j', 'scheduled', now(), 'running', 'i', now(), now());
             INSERT INTO steward.leases (name, holder, expires_at) VALUES ('observer', 'i', now() + interval '1 min')"
        ))
        .await
        .unwrap();
    // Within one transaction the counters can be read at once.
    client.batch_execute("BEGIN").await.unwrap();
    for _ in 0..5 {
        client
            .batch_execute(
                "UPDATE steward.job_runs SET lease_until = clock_timestamp();
                 UPDATE steward.leases SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + interval '1 min'",
            )
            .await
            .unwrap();
    }
    for table in ["job_runs", "leases"] {
        let hot =
            format!("SELECT pg_stat_get_xact_tuples_hot_updated('steward.{table}'::regclass)");
        assert_eq!(client.number(&hot).await, 5, "{table}");
    }
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn monitoring_rows_are_checked() {
    let place = Place::migrated().await;
    let client = place.client().await;
    client
        .batch_execute(
            "INSERT INTO steward.system_health (instance, component, status, reason, latency_ms, details)
                  VALUES ('i', 'connectivity', 'healthy', 'ok', 0.4, '{}');
             INSERT INTO steward.connection_metrics (instance, interval_seconds, samples, max_connections,
                    reserved_connections, total_min, total_avg, total_max)
                  VALUES ('i', 15, 15, 100, 3, 1, 2.5, 4);
             INSERT INTO steward.audit_seals (number, kind, epoch, xid_from, id_from, xid_below, id_below, row_count, first_at,
                    last_at, root, head, algorithm, sealed_at, sealed_by)
                  VALUES (1, 'rows', '1/1', '3', gen_random_uuid(), '9', gen_random_uuid(), 4, now(), now(), sha256('a'),
                    sha256('b'), 1, now(), 't')",
        )
        .await
        .unwrap();
    let seal = |number: u32, previous: &str, head: &str, root: &str, from: u32| {
        format!(
            "INSERT INTO steward.audit_seals (number, kind, epoch, xid_from, id_from, xid_below, id_below, row_count, first_at,
                    last_at, root, previous, head, algorithm, sealed_at, sealed_by)
                  VALUES ({number}, 'rows', '1/1', '{from}', gen_random_uuid(), '20', gen_random_uuid(), 0, now(), now(), {root},
                    {previous}, {head}, 1, now(), 't')"
        )
    };
    let purge = |root: &str, cutoff: &str| {
        format!(
            "INSERT INTO steward.audit_seals (number, kind, epoch, row_count, root, cutoff, previous, head, algorithm,
                    sealed_at, sealed_by)
                  VALUES (2, 'purge', '1/1', 0, {root}, {cutoff}, sha256('b'), sha256('c'), 1, now(), 't')"
        )
    };
    let leaves = |bytes: &str| {
        format!("INSERT INTO steward.audit_leaves (seal, leaves) VALUES (1, {bytes})")
    };
    let hold = |columns: &str, values: &str| {
        format!(
            "INSERT INTO steward.audit_holds (id, reason, placed_by, {columns}) VALUES (gen_random_uuid(), 'r', 'p', {values})"
        )
    };
    for (sql, code, object) in [
        (
            "INSERT INTO steward.system_health (instance, component, status, reason) VALUES ('i', 'c', 'fine', 'ok')"
                .to_owned(),
            "23514",
            "system_health_status_check",
        ),
        (
            "INSERT INTO steward.audit_logs (action, source) VALUES ('', 'application')".to_owned(),
            "23514",
            "audit_logs_action_check",
        ),
        (
            "INSERT INTO steward.audit_logs (action, source) VALUES ('a', 'hearsay')".to_owned(),
            "23514",
            "audit_logs_source_check",
        ),
        (seal(2, "NULL", "sha256('c')", "sha256('r')", 9), "23514", "audit_seals_genesis_check"),
        (seal(1, "sha256('b')", "sha256('c')", "sha256('r')", 9), "23514", "audit_seals_genesis_check"),
        (seal(2, "sha256('b')", "sha256('c')", "'short'", 9), "23514", "audit_seals_root_check"),
        (seal(2, "sha256('b')", "sha256('c')", "NULL", 9), "23514", "audit_seals_shape_check"),
        (seal(2, "sha256('b')", "sha256('c')", "sha256('r')", 21), "23514", "audit_seals_range_check"),
        (seal(2, "sha256('b')", "sha256('b')", "sha256('r')", 9), "23505", "audit_seals_head_key"),
        (purge("sha256('r')", "now()"), "23514", "audit_seals_shape_check"),
        (purge("NULL", "NULL"), "23514", "audit_seals_shape_check"),
        (leaves("''"), "23514", "audit_leaves_leaves_check"),
        (leaves("'no leaf'"), "23514", "audit_leaves_leaves_check"),
        (hold("placed_at", "now()"), "23514", "audit_holds_scope_check"),
        (hold("resource_id, user_id", "'1', 'u'"), "23514", "audit_holds_resource_check"),
        (hold("begins_at, ends_at", "now(), now()"), "23514", "audit_holds_time_check"),
        (hold("user_id, released_at", "'u', now()"), "23514", "audit_holds_released_check"),
    ] {
        assert_eq!(refused(&client, &sql).await, (code.to_owned(), object.to_owned()), "{sql}");
    }
    client.batch_execute(&seal(2, "sha256('b')", "sha256('c')", "sha256('r')", 9)).await.unwrap();
    client.batch_execute(&leaves("decode(repeat('00', 112), 'hex')")).await.unwrap();
    let fork = refused(&client, &seal(3, "sha256('b')", "sha256('d')", "sha256('r')", 10)).await;
    assert_eq!(fork, ("23505".to_owned(), "audit_seals_previous_key".to_owned()));
}
