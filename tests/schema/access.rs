//! Who can see and call what: nobody but the owner, whatever a platform's defaults give away.

use super::{Place, lines, refused};

#[tokio::test]
async fn api_roles_see_and_call_nothing() {
    let place = Place::migrated().await;
    let owner = place.client().await;
    owner.batch_execute(include_str!("../../packaging/demo/zentry_sample.sql")).await.unwrap();
    let relations = lines(
        &owner,
        "SELECT quote_ident(relname) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')",
    )
    .await;
    assert!(relations.len() >= 11);
    for role in ["anon", "authenticated"] {
        let client = place.acting_as(role).await;
        for relation in &relations {
            for sql in [
                format!("SELECT count(*) FROM public.{relation}"),
                format!("DELETE FROM public.{relation}"),
                format!("TRUNCATE public.{relation}"),
            ] {
                let (code, _) = refused(&client, &sql).await;
                // 42809: a view cannot be truncated, whoever asks. 0A000: nor a materialized one written.
                assert!(
                    ["42501", "42809", "0A000", "55000"].contains(&code.as_str()),
                    "{role}: {sql}: {code}"
                );
            }
            let (code, _) =
                refused(&client, &format!("SELECT count(*) FROM public.{relation}")).await;
            assert_eq!(code, "42501", "{role} reads {relation}");
        }
        for sql in [
            "SELECT count(*) FROM steward.audit_logs",
            "SELECT steward.log_audit_event('forged')",
            "SELECT steward.audit_table('public.users')",
            "SELECT public.charge_user_credits(gen_random_uuid(), 1)",
            "SELECT public.get_user_spending(gen_random_uuid())",
        ] {
            assert_eq!(refused(&client, sql).await.0, "42501", "{role}: {sql}");
        }
    }
    // Supabase's backend role keeps what the platform gave it.
    let backend = place.acting_as("service_role").await;
    assert_eq!(backend.number("SELECT count(*) FROM public.users").await, 300);
}

#[tokio::test]
async fn a_mistaken_grant_shows_no_rows() {
    let place = Place::migrated().await;
    let owner = place.client().await;
    owner
        .batch_execute(
            "INSERT INTO users (email, username) VALUES ('a@example.com', 'a');
             INSERT INTO vm_metrics (vm_id, cpu_percent, memory_percent) VALUES (gen_random_uuid(), 1, 2);
             GRANT USAGE ON SCHEMA steward TO anon;
             GRANT SELECT ON ALL TABLES IN SCHEMA steward TO anon;
             GRANT SELECT ON users, vm_metrics, vm_metrics_default TO anon;
             SELECT steward.ensure_partitions('vm_metrics', 'month', 4)",
        )
        .await
        .unwrap();
    assert!(owner.number("SELECT count(*) FROM steward.audit_logs").await > 0);
    let anon = place.acting_as("anon").await;
    let partition = owner.text("SELECT tableoid::regclass FROM vm_metrics").await;
    for table in ["public.users", "public.vm_metrics", "steward.audit_logs", "steward.job_runs"] {
        assert_eq!(anon.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(refused(&anon, &format!("SELECT FROM public.{partition}")).await.0, "42501");
}

#[tokio::test]
async fn row_security_is_on_everywhere() {
    let place = Place::migrated().await;
    let open = lines(
        &place.client().await,
        "SELECT oid::regclass FROM pg_class
          WHERE relnamespace IN ('steward'::regnamespace, 'public'::regnamespace)
            AND relkind IN ('r', 'p') AND NOT relrowsecurity",
    )
    .await;
    assert_eq!(open, Vec::<String>::new());
}

#[tokio::test]
async fn a_monitoring_role_reads_with_a_grant_alone_but_not_the_trail() {
    let mut place = Place::migrated().await;
    let role = place.database.role("monitor", "").await;
    let admin = place.database.client().await;
    admin
        .batch_execute(&format!(
            "GRANT pg_monitor TO {0}; GRANT USAGE ON SCHEMA steward TO {0};
             GRANT SELECT ON steward.system_health, steward.job_runs, steward.audit_logs TO {0};
             INSERT INTO steward.system_health (instance, component, status, reason) VALUES ('i', 'c', 'healthy', 'ok');
             INSERT INTO steward.audit_logs (action, source) VALUES ('a', 'application')",
            role.name
        ))
        .await
        .unwrap();
    let client = super::connect(&role.url).await.unwrap();
    assert_eq!(client.number("SELECT count(*) FROM steward.system_health").await, 1);
    assert_eq!(client.number("SELECT count(*) FROM steward.audit_logs").await, 0);
}

#[tokio::test]
async fn functions_are_nobody_s_and_look_where_they_should() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let ours =
        "FROM pg_proc p WHERE p.pronamespace IN ('steward'::regnamespace, 'public'::regnamespace)";
    assert!(client.number(&format!("SELECT count(*) {ours}")).await >= 15);
    let callable = format!(
        "SELECT p.oid::regprocedure {ours} AND (
             has_function_privilege('anon', p.oid, 'EXECUTE') OR has_function_privilege('authenticated', p.oid, 'EXECUTE')
             OR p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))"
    );
    assert_eq!(lines(&client, &callable).await, Vec::<String>::new());
    // The catalog first, a temporary schema last; a body that was parsed at creation needs no path.
    let unpinned = format!(
        "SELECT p.oid::regprocedure {ours} AND p.prosqlbody IS NULL AND NOT coalesce(
             (SELECT bool_or(c ~ '^search_path=pg_catalog,( public,)? pg_temp$') FROM unnest(p.proconfig) c), false)"
    );
    assert_eq!(lines(&client, &unpinned).await, Vec::<String>::new());
    let parsed = format!("SELECT count(*) {ours} AND p.prosqlbody IS NOT NULL AND p.prosecdef");
    assert_eq!(client.number(&parsed).await, 0, "a path may still be set inside of what they call");
}

#[tokio::test]
async fn views_over_the_trail_read_as_whoever_asks() {
    let mut place = Place::migrated().await;
    let role = place.database.role("reader", "").await;
    let owner = place.client().await;
    let grants =
        format!("GRANT SELECT ON public.audit_logs, public.system_health TO {}", role.name);
    owner.batch_execute(&grants).await.unwrap();
    let version = owner.number("SELECT current_setting('server_version_num')").await;
    let client = super::connect(&role.url).await.unwrap();
    if version >= 150_000 {
        assert_eq!(refused(&client, "SELECT count(*) FROM audit_logs").await.0, "42501");
    } else {
        // Before 15 a view reads as its owner: the GRANT was the whole protection.
        let all = owner.number("SELECT count(*) FROM steward.audit_logs").await;
        assert_eq!(client.number("SELECT count(*) FROM audit_logs").await, all);
    }
    owner.batch_execute("SELECT steward.log_audit_event('seen', user_id => 'u1')").await.unwrap();
    assert_eq!(owner.text("SELECT user_id FROM audit_logs WHERE action = 'seen'").await, "u1");
}
