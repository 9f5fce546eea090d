//! Roles that may do little: what can run runs, what cannot says what to grant.

use crate::harness::{BOUND, Daemon, Setup, Template, TestDatabase, wait_until};
use crate::{each_second, metric, quick, wait_metric, wait_sql};

#[tokio::test]
async fn a_role_that_may_only_connect_is_served_health_and_told_what_it_lacks() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let role = database.role("guest", "").await;
    let daemon = Daemon::launch(Setup::new().database(&role.url).config(&quick("")));
    let line = daemon.wait_log("migrating failed").await;
    assert!(line.contains("GRANT CREATE ON DATABASE"), "{line}");
    let unready = daemon.wait_status("/readyz", 503).await.body;
    assert!(unready.contains("[-]migrations:main failed"), "{unready}");
    wait_metric(&daemon, "pgsteward_database_up", |value| value == 1.0).await;
    wait_until("it measures the server all the same", BOUND, async || {
        let components =
            daemon.get("/health/").await.json()["targets"]["main"]["components"].clone();
        components["connections"]["status"] != "null" && components["connections"].is_object()
    })
    .await;
    let client = database.client().await;
    assert_eq!(client.text("SELECT to_regnamespace('steward')").await, "NULL");
    assert_eq!(daemon.get("/livez").await.status, 200);
}

#[tokio::test]
async fn what_its_own_schema_allows_runs_and_the_rest_names_its_grant() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let role = database.role("steward", "").await;
    let client = database.client().await;
    let sql = format!(
        "GRANT CREATE ON DATABASE {} TO {};
         CREATE TABLE public.events (id int PRIMARY KEY, at timestamptz NOT NULL) WITH (autovacuum_enabled = off);
         CREATE INDEX ON public.events (at);
         INSERT INTO public.events SELECT n, now() - interval '1 year' FROM generate_series(1, 5000) n;
         ANALYZE public.events;
         DELETE FROM public.events WHERE id <= 2500;
         CREATE MATERIALIZED VIEW public.counted AS SELECT 1 AS id, count(*) FROM public.events;
         CREATE UNIQUE INDEX ON public.counted (id)",
        database.name(),
        role.name
    );
    client.batch_execute(&sql).await.unwrap();
    let jobs: String = ["vacuum", "retention", "partitions"].map(each_second).concat();
    let config = format!(
        "{}\n[retention.tables.\"public.events\"]\ncolumn = \"at\"\nkeep = \"30d\"\n\
         [refresh]\nviews = [\"public.counted\"]\n[jobs.refresh]\nschedule = \"@every 1s\"\n\
         [jobs.report]\nsql = \"SELECT 1\"\nrole = \"nobody here\"\n",
        quick(&jobs)
    );
    let daemon = Daemon::spawn(Setup::new().database(&role.url).config(&config)).await;
    let succeeded = |job: &str| {
        format!("SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND state = 'succeeded'")
    };
    wait_sql(&client, &succeeded("partitions"), |runs| runs > 0).await;
    wait_sql(&client, "SELECT count(*) FROM steward.system_health", |rows| rows > 0).await;

    // By version: a privilege since 17, ownership before.
    let maintain = "(GRANT MAINTAIN ON|ALTER (TABLE|MATERIALIZED VIEW) public)";
    for (job, grant) in
        [("vacuum", maintain), ("refresh", maintain), ("retention", "GRANT SELECT, DELETE ON")]
    {
        let sql = format!(
            "SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND concat(reason, error, detail) ~ '{grant}'"
        );
        wait_sql(&client, &sql, |runs| runs > 0).await;
    }
    let line = daemon.wait_log("which does not exist").await;
    assert!(line.contains("\"job\":\"report\"") && line.contains("CREATE ROLE"), "{line}");
    let wanted = format!("needs GRANT SELECT, DELETE ON \"public\".\"events\" TO {}", role.name);
    let told = "SELECT concat(reason, error, detail) FROM steward.job_runs
                 WHERE job = 'retention' AND concat(reason, error, detail) LIKE '%GRANT%' LIMIT 1";
    let told = client.text(told).await.replace("\\\"", "\"");
    assert!(told.contains(&wanted), "{wanted:?} is not in {told:?}");
    for (job, what) in [
        (
            "vacuum",
            "this role may not VACUUM 2 tables or materialized views, the largest is public.events",
        ),
        ("refresh", "this role may not refresh public.counted"),
        ("retention", "this role may not delete from public.events"),
        ("measurements", "sessions of other roles are hidden from this role"),
    ] {
        let line = daemon.wait_log(what).await;
        assert!(line.contains(job) && line.contains("remedy"), "said at start: {line}");
    }
    wait_until("the health names the job that may do nothing", BOUND, async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]["jobs"]["reason"]
            != "ok"
    })
    .await;
    assert_eq!(client.number("SELECT count(*) FROM public.events").await, 2500);
    assert_eq!(metric(daemon.address(), "pgsteward_database_up").await, Some(1.0));
    assert_eq!(daemon.get("/readyz").await.status, 200);

    client
        .batch_execute(&format!("GRANT SELECT, DELETE ON public.events TO {}", role.name))
        .await
        .unwrap();
    wait_sql(&client, "SELECT count(*) FROM public.events", |rows| rows == 0).await;
}

#[tokio::test]
async fn a_schema_that_another_role_planted_is_not_used_until_it_is_gone() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let (steward, mallory) =
        (database.role("steward", "").await, database.role("mallory", "").await);
    let client = database.client().await;
    let sql = format!(
        "GRANT CREATE ON DATABASE {} TO {}, {}",
        database.name(),
        steward.name,
        mallory.name
    );
    client.batch_execute(&sql).await.unwrap();
    // The table that a daemon writes first, with a trigger that would run as the daemon's role.
    let sql = format!(
        "CREATE SCHEMA steward;
         CREATE TABLE steward.leases (
             name text PRIMARY KEY, holder text NOT NULL, epoch bigint DEFAULT 1,
             acquired_at timestamptz DEFAULT now(), renewed_at timestamptz DEFAULT now(),
             expires_at timestamptz);
         CREATE TABLE steward.caught (role name);
         CREATE FUNCTION steward.run_as_caller() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO steward.caught VALUES (current_user); RETURN NEW; END';
         CREATE TRIGGER t BEFORE INSERT ON steward.leases
             FOR EACH ROW EXECUTE FUNCTION steward.run_as_caller();
         GRANT ALL ON SCHEMA steward TO {0}; GRANT ALL ON ALL TABLES IN SCHEMA steward TO {0}",
        steward.name
    );
    let planting = crate::harness::connect(&mallory.url).await.unwrap();
    planting.batch_execute(&sql).await.unwrap();

    let daemon = Daemon::launch(Setup::new().database(&steward.url).config(&quick("")));
    let line = daemon.wait_log("the schema steward is not trusted").await;
    assert!(line.contains(&format!("schema steward owned by {}", mallory.name)), "{line}");
    let unready =
        "[-]migrations:main failed: migration the schema steward failed: untrusted_schema";
    wait_until("/readyz names the schema", BOUND, async || {
        daemon.get("/readyz").await.body.contains(unready)
    })
    .await;
    wait_until("health has a reason of its own", BOUND, async || {
        let schema =
            daemon.get("/health/").await.json()["targets"]["main"]["components"]["schema"].clone();
        schema["status"] == "unhealthy" && schema["reason"] == "untrusted_schema"
    })
    .await;
    wait_metric(&daemon, "pgsteward_database_up", |value| value == 1.0).await;
    assert_eq!(client.number("SELECT count(*) FROM steward.caught").await, 0, "mallory's code ran");
    assert_eq!(client.text("SELECT to_regclass('steward.schema_migrations')").await, "NULL");

    client.batch_execute("DROP SCHEMA steward CASCADE").await.unwrap();
    daemon.wait_ready().await;
    wait_sql(&client, "SELECT count(*) FROM steward.leases", |rows| rows > 0).await;
}
