//! Optimize, clean-up and migrations on request.

use serde_json::json;

use crate::harness::{BOUND, wait_until};
use crate::{House, problem};

#[tokio::test]
async fn optimize_plans_and_does_what_is_needed() {
    let house = House::open().await;
    let client = house.db.client().await;
    client
        .batch_execute(
            "CREATE TABLE public.worn (n int) WITH (autovacuum_enabled = off);
             INSERT INTO public.worn SELECT generate_series(1, 20000); DELETE FROM public.worn WHERE n % 2 = 0;
             CREATE TABLE public.other (n int) WITH (autovacuum_enabled = off);
             INSERT INTO public.other SELECT generate_series(1, 20000); DELETE FROM public.other WHERE n % 2 = 0",
        )
        .await
        .unwrap();
    wait_until("statistics", BOUND, async || {
        client.number("SELECT pg_stat_get_dead_tuples('public.worn'::regclass)").await >= 10_000
            && client.number("SELECT pg_stat_get_dead_tuples('public.other'::regclass)").await
                >= 10_000
    })
    .await;
    let plan = house
        .send("operator", "POST", "/health/database/optimize", "{\"dry_run\":true}")
        .await
        .json();
    let of = |name: &str| {
        plan["plan"].as_array().unwrap().iter().find(|one| one["object"] == name).cloned()
    };
    let worn = of("public.worn").unwrap();
    assert_eq!((&worn["vacuum"], &worn["skipped"]), (&json!(true), &json!(null)), "{plan}");
    assert!(of("public.user_statistics").is_some_and(|view| view["refresh"] == true), "{plan}");
    let run =
        house.done("operator", "/health/database/optimize", "{\"tables\":[\"public.worn\"]}").await;
    assert_eq!((&run["job"], &run["state"]), (&json!("vacuum"), &json!("succeeded")), "{run}");
    assert_eq!(run["detail"]["public.worn"]["vacuum"], true, "{run}");
    assert_eq!(run["detail"].as_object().unwrap().len(), 1, "only what was named: {run}");
    let both = house.send("operator", "POST", "/health/database/optimize", "{}").await;
    assert_eq!(
        (both.status, both.json()["runs"].as_array().unwrap().len()),
        (202, 2),
        "{}",
        both.body
    );
    wait_until("both have ended", BOUND, async || {
        let jobs = house.get("viewer", "/jobs").await;
        jobs["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|job| job["running"].is_null() && job["queued"].is_null())
    })
    .await;
    let prefer = [("prefer", "respond-async; x=1, Wait = \"25\"; y")];
    let both =
        house.send_with("operator", "POST", "/health/database/optimize", &prefer, "{}").await;
    let runs = both.json()["runs"].as_array().unwrap().clone();
    let ended: Vec<_> =
        runs.iter().map(|run| (run["job"].as_str(), run["state"].as_str())).collect();
    let (vacuum, refresh) = (Some("vacuum"), Some("refresh"));
    assert_eq!(
        (both.status, ended),
        (200, vec![(vacuum, Some("succeeded")), (refresh, Some("succeeded"))])
    );
    // Who mistypes a name hears of it.
    let named = "{\"tables\":[\"no.such\",\"public.users_pkey\",\"public.projects\"]";
    let plan = house
        .send(
            "operator",
            "POST",
            "/health/database/optimize",
            &format!("{named},\"dry_run\":true}}"),
        )
        .await;
    let why: Vec<_> =
        plan.json()["plan"].as_array().unwrap().iter().map(|one| one["skipped"].clone()).collect();
    assert_eq!(
        why,
        ["table does not exist", "it is not a table", "it needs nothing"],
        "{}",
        plan.body
    );
    let run = house.done("operator", "/health/database/optimize", &format!("{named}}}")).await;
    assert_eq!(run["detail"]["no.such"]["skipped"], "table does not exist", "{run}");
    for body in ["{\"tables\":[]}", "{\"tables\":[\"worn\"]}", "{\"dryrun\":true}"] {
        let answer = house.send("operator", "POST", "/health/database/optimize", body).await;
        assert_eq!(
            problem(&answer),
            (400, "invalid_request".to_owned()),
            "{body}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn clean_up_previews_lengthens_and_shortens_by_the_rules() {
    let house = House::open().await;
    let client = house.db.client().await;
    client
        .batch_execute(
            "INSERT INTO steward.audit_logs (created_at, action, source) VALUES
                (now() - interval '100 days', 'old', 'application'), (now() - interval '50 days', 'newer', 'application')",
        )
        .await
        .unwrap();
    let plan = house.send("operator", "POST", "/health/cleanup", "{\"dry_run\":true}").await.json();
    let tables = plan["tables"].as_array().unwrap();
    let trail = tables.iter().find(|table| table["table"] == "steward.audit_logs").unwrap();
    assert_eq!(
        (&trail["rows_due"], &trail["keep_days"], &trail["problem"]),
        (&json!(1), &json!(90.0), &json!(null))
    );
    let instant = |table: &serde_json::Value| {
        chrono::DateTime::parse_from_rfc3339(table["cutoff"].as_str().unwrap()).is_ok()
    };
    assert!(tables.len() >= 4 && tables.iter().all(instant), "{plan}");

    let clean = async |role: &str, body: serde_json::Value| {
        let answer = house.send(role, "POST", "/health/cleanup", &body.to_string()).await;
        if answer.status == 202 { (202, String::new()) } else { problem(&answer) }
    };
    let short = json!({ "retention_days": 40, "tables": ["steward.audit_logs"] });
    assert_eq!(
        clean("operator", short.clone()).await,
        (403, "shorter_retention_requires_admin".to_owned())
    );
    let answer = house.send("admin", "POST", "/health/cleanup", &short.to_string()).await;
    assert_eq!(problem(&answer), (422, "shorter_retention_requires_force".to_owned()));
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    assert!(text("remedy").contains("force") && !text("detail").contains("force"), "{body}");
    let below = json!({ "retention_days": 10, "tables": ["steward.audit_logs"], "force": true });
    assert_eq!(clean("admin", below).await, (422, "below_min_keep".to_owned()));
    let unknown = json!({ "tables": ["public.users"] });
    assert_eq!(clean("admin", unknown).await, (422, "not_under_retention".to_owned()));
    assert_eq!(
        clean("admin", json!({ "retention_days": 0 })).await,
        (400, "invalid_request".to_owned())
    );

    let left = "SELECT string_agg(action, ' ' ORDER BY created_at) FROM steward.audit_logs WHERE action IN ('old', 'newer')";
    let longer = json!({ "retention_days": 200, "tables": ["steward.audit_logs"] }).to_string();
    let run = house.done("operator", "/health/cleanup", &longer).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(client.text(left).await, "old newer");
    let run = house.done("operator", "/health/cleanup", "{}").await;
    assert_eq!(
        (&run["state"], &run["detail"]["steward.audit_logs"]["rows"]),
        (&json!("succeeded"), &json!(1)),
        "{run}"
    );
    assert!(run["detail"]["steward.audit_logs"]["oldest_left"].is_string(), "{run}");
    assert_eq!(client.text(left).await, "newer");
    let short = json!({ "retention_days": 40, "tables": ["steward.audit_logs"], "force": true })
        .to_string();
    let run = house.done("admin", "/health/cleanup", &short).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(client.text("SELECT coalesce(string_agg(action, ' '), 'none') FROM steward.audit_logs WHERE action IN ('old', 'newer')").await, "none");
    let planned = house.get("viewer", "/health/retention").await;
    assert!(
        planned["tables"].as_array().unwrap().iter().all(|table| table["next_run_at"].is_string()),
        "{planned}"
    );
}

#[tokio::test]
async fn pending_migrations_are_shown_with_their_sql_and_applied() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[migrations]\nsets = [\"zentry\"]\ndir = {:?}\n", folder.path());
    let db = crate::TestDatabase::create(crate::Template::Migrated).await;
    let config = format!(
        "{}{}{config}",
        crate::QUICK.replace("[migrations]\nsets = [\"zentry\"]\n", ""),
        crate::tokens()
    );
    let daemon =
        crate::Daemon::spawn(crate::Setup::new().database(&db.url()).config(&config)).await;
    daemon.wait_ready().await;
    let house = House { daemon, db };
    assert_eq!(house.get("viewer", "/health/database/migrations").await["state"], "ready");
    std::fs::write(
        folder.path().join("001_thing.sql"),
        "CREATE TABLE public.thing (id int PRIMARY KEY);",
    )
    .unwrap();
    let plan = house
        .send("admin", "POST", "/health/database/migrations", "{\"dry_run\":true}")
        .await
        .json();
    let pending = plan["pending"].as_array().unwrap();
    assert_eq!(
        (pending.len(), &pending[0]["set"], &pending[0]["version"]),
        (1, &json!("app"), &json!(1)),
        "{plan}"
    );
    assert!(pending[0]["sql"].as_str().unwrap().contains("CREATE TABLE public.thing"));
    let client = house.db.client().await;
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'thing'";
    assert_eq!(client.number(there).await, 0, "a dry run changes nothing");
    let run = house.done("admin", "/health/database/migrations", "{}").await;
    assert_eq!(
        (&run["state"], &run["actor"]),
        (&json!("succeeded"), &json!("token:admin")),
        "{run}"
    );
    assert_eq!(run["detail"]["applied"], json!(["app/001_thing"]), "{run}");
    assert_eq!(client.number(there).await, 1);
    assert_eq!(
        client
            .text("SELECT applied_by FROM steward.schema_migrations WHERE set_name = 'app'")
            .await,
        "token:admin"
    );
    std::fs::write(folder.path().join("002_wrong.sql"), "SELECT secret_of_ours FROM nowhere;")
        .unwrap();
    let run = house.done("admin", "/health/database/migrations", "{}").await;
    assert_eq!(run["state"], "failed", "{run}");
    assert!(!run.to_string().contains("secret_of_ours"), "what is in the file is not told: {run}");
    assert!(run["error"].as_str().unwrap().contains("002_wrong.sql"), "{run}");
    let id = run["id"].as_str().unwrap();
    let cancel = house.send("operator", "POST", &format!("/runs/{id}/cancel"), "").await;
    assert_eq!(problem(&cancel), (409, "already_finished".to_owned()), "{}", cancel.body);
    assert_eq!(house.get("viewer", &format!("/runs/{id}")).await["state"], "failed");
}
