//! The role that `pgsteward role` prints: its SQL runs, and it is enough.

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Daemon, Setup, Template, TestDatabase, http, wait_until};

const BOUND: std::time::Duration = harness::BOUND;

/// Runs `pgsteward role` and returns what it prints.
fn printed(args: &[&str]) -> (String, Option<i32>) {
    let mut all = vec!["role"];
    all.extend_from_slice(args);
    let output = Setup::new().command(&all);
    (String::from_utf8(output.stdout).expect("UTF-8"), output.status.code())
}

#[tokio::test]
async fn the_printed_role_is_enough_to_keep_an_application_s_database() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let admin = database.client().await;
    // An application that was there before, with an owner of its own.
    let owner = database.role("owner", "").await;
    let steward = format!("{}_steward", owner.name);
    admin
        .batch_execute(&format!(
            "CREATE TABLE public.events (at timestamptz NOT NULL, body text);
             CREATE INDEX ON public.events (at);
             INSERT INTO public.events SELECT now() - n * interval '1 day', 'x' FROM generate_series(1, 100) n;
             ALTER TABLE public.events OWNER TO {0}",
            owner.name
        ))
        .await
        .expect("the application's table");
    let (sql, code) = printed(&[
        "--user",
        &steward,
        "--for-database",
        database.name(),
        "--owner",
        &owner.name,
        "--schema",
        "public",
    ]);
    assert_eq!(code, Some(0));
    admin.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?} in:\n{sql}"));
    admin
        .batch_execute(&format!("ALTER ROLE {steward} PASSWORD 'known'"))
        .await
        .expect("a password");

    let url = harness::server().url_as(&steward, "known", database.name());
    let config = "[retention.tables.\"public.events\"]\ncolumn = \"at\"\nkeep = \"30d\"\n\
                  [jobs.retention]\nschedule = \"@every 1s\"\n[jobs.vacuum]\nschedule = \"@every 1s\"\n";
    let daemon = Daemon::spawn(Setup::new().database(&url).config(config)).await;
    for job in ["partitions", "retention", "vacuum"] {
        let sql = format!(
            "SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND state = 'succeeded'"
        );
        wait_until(&format!("{job} succeeds"), BOUND, async || admin.number(&sql).await > 0).await;
    }
    assert_eq!(
        admin
            .number("SELECT count(*) FROM public.events WHERE at < now() - interval '30 days'")
            .await,
        0
    );
    wait_until("all is healthy", BOUND, async || {
        http::get(daemon.address(), "/health/").await.json()["status"] == "healthy"
    })
    .await;

    assert_eq!(daemon.terminate().await.code(), Some(0));
    let clean = format!("DROP OWNED BY {steward} CASCADE; DROP ROLE {steward}");
    admin.batch_execute(&clean).await.expect("the role goes as it came");
}

#[tokio::test]
async fn the_bundled_set_can_belong_to_the_application_s_owner() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let admin = database.client().await;
    let owner = database.role("owner", "").await;
    let steward = format!("{}_steward", owner.name);
    let (sql, _) =
        printed(&["--user", &steward, "--for-database", database.name(), "--owner", &owner.name]);
    let sql = format!(
        "{sql}\nALTER ROLE {steward} PASSWORD 'known'; GRANT USAGE, CREATE ON SCHEMA public TO {}",
        owner.name
    );
    admin.batch_execute(&sql).await.expect("the roles");
    let url = harness::server().url_as(&steward, "known", database.name());
    let config = format!("[migrations]\nsets = [\"zentry\"]\nrole = \"{}\"\n", owner.name);
    let setup = Setup::new().database(&url).config(&config);
    let output = setup.command(&["migrate", "up"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let owners = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tableowner <> ";
    assert_eq!(
        admin.number(&format!("{owners}'{}'", owner.name)).await,
        0,
        "every table is the owner's"
    );
    admin
        .batch_execute(&format!(
            "SET ROLE {}; INSERT INTO public.users (email, username) VALUES ('a@example.com', 'a'); RESET ROLE",
            owner.name
        ))
        .await
        .expect("the owner can use its tables");
    let events = "SELECT count(*) FROM steward.audit_logs WHERE resource_type = 'public.users'";
    assert_eq!(admin.number(events).await, 1, "and they are audited");
    let clean = format!("DROP OWNED BY {steward}, {} CASCADE; DROP ROLE {steward}", owner.name);
    admin.batch_execute(&clean).await.expect("the roles go as they came");
}

#[tokio::test]
async fn a_part_is_printed_alone_and_names_are_quoted() {
    let (sql, code) = printed(&["--job", "refresh", "--user", "we\"ird", "--owner", "o'wner"]);
    assert_eq!(code, Some(0));
    assert!(
        sql.contains("\"we\"\"ird\"") && sql.contains("o''wner") && !sql.contains("CREATE ROLE"),
        "{sql}"
    );
    for job in ["vacuum", "refresh"] {
        let (sql, _) = printed(&["--job", job]);
        for grant in ["GRANT pg_maintain TO \"pgsteward\"", "GRANT \"app_owner\" TO \"pgsteward\""]
        {
            assert!(sql.contains(grant), "{job} by itself lacks {grant}: {sql}");
        }
    }
    let (_, code) = printed(&["--user", ""]);
    assert_eq!(code, Some(64));
}
