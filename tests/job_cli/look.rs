//! `job list` and `job history`.

use crate::harness::{Daemon, Setup, Template, TestDatabase};
use crate::{EACH_SECOND, JOBS, job, json, listed, wait_run, wait_sql};

/// Another database, and a job for that only.
const ELSEWHERE: &str = "
[jobs.elsewhere]
sql = \"SELECT 4\"
databases = [\"other\"]
[databases.other]
url = \"postgresql:///nowhere\"
";

#[tokio::test]
async fn the_list_has_the_plan_and_what_became_of_it() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let config =
        format!("{JOBS}\n{EACH_SECOND}\n[jobs.then]\nsql = \"SELECT 3\"\nafter = [\"quick\"]\n");
    let config =
        config.replace("[database]", &format!("[databases.main]\nurl = {:?}", database.url()));
    let daemon = Daemon::spawn(Setup::new().config(&config)).await;
    let config = format!("{config}{ELSEWHERE}");
    let setup = Setup::new().config(&config);
    let main = ["--database", "main"];
    let with = |arguments: &[&str]| job(&setup, &[arguments, &main].concat());
    wait_sql(
        &client,
        "SELECT count(*) FROM steward.job_runs WHERE job = 'tick' AND state = 'succeeded'",
        |runs| runs >= 3,
    )
    .await;
    assert_eq!(with(&["run", "quick", "--wait"]).code, Some(0));
    assert_eq!(with(&["run", "wrong", "--wait"]).code, Some(4));
    wait_run(&client, "then", "succeeded").await;
    client.batch_execute("INSERT INTO steward.job_state (job) VALUES ('abandoned')").await.unwrap();

    let said = with(&["list"]);
    said.told(&[
        "job ",
        "state ",
        "next ",
        "p95",
        "abandoned",
        "not_configured",
        "on request",
        "after quick",
        "measured",
    ]);
    let line = |name: &str| {
        said.out.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    };
    assert!(line("retention ").contains(":17:00 CE"), "in the job's zone: {}", said.out);
    assert!(line("wrong ").contains("failed (sql)"), "{}", said.out);
    assert!(line("quick ").contains("succeeded") && line("quick ").contains(" ms"), "{}", said.out);
    assert_eq!(line("elsewhere "), "", "it is not for this database");
    assert!(said.out.lines().all(|line| line.chars().count() <= 120), "{}", said.out);

    let all = json(&setup, &[&["list"], &main[..]].concat());
    assert_eq!(all["ledger_error"], serde_json::Value::Null);
    assert!(all["leader"].as_str().is_some());
    let of = |name: &str| {
        all["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).cloned().unwrap()
    };
    let tick = of("tick");
    assert_eq!(
        (tick["work"].as_str(), tick["schedule"].as_str()),
        (Some("sql"), Some("@every 1s"))
    );
    assert_eq!(tick["next"].as_array().unwrap().len(), 5);
    assert!(
        tick["succeeded_total"].as_i64() >= Some(3) && tick["average_ms"].as_f64() > Some(0.0),
        "{tick}"
    );
    assert!(tick["p95_ms"].as_f64() >= Some(0.0));
    assert_eq!(of("retention")["timezone"], "Europe/Berlin");
    assert!(
        of("retention")["next"][0].as_str().unwrap().contains("T03:17:00+0"),
        "{}",
        of("retention")
    );
    assert_eq!(
        (of("vacuum")["state"].as_str(), of("vacuum")["next"].as_array().unwrap().len()),
        (Some("disabled"), 0)
    );
    assert_eq!(
        (of("wrong")["consecutive_failures"].as_i64(), of("wrong")["last"]["reason"].as_str()),
        (Some(1), Some("sql"))
    );
    assert_eq!(of("abandoned")["state"], "not_configured");

    with(&["list", "tick"]).told(&[
        "tick: ",
        "@every 1s, UTC",
        "average ",
        "p95 ",
        "totals",
        "0 in a row",
    ]);
    with(&["list", "wrong"]).told(&[
        "wrong: enabled",
        "it runs when it is asked for",
        "division by zero",
    ]);
    with(&["list", "tikc"]).refused(64, &["no job \"tikc\", did you mean \"tick\"?"]);
    job(&setup, &["list"]).refused(64, &["--database"]);
    with(&["run", "elsewhere"])
        .refused(64, &["elsewhere does not run on database main", "names other"]);

    assert_eq!(with(&["run", "endless"]).code, Some(0));
    let id = wait_run(&client, "endless", "running").await;
    with(&["list"]).told(&["endless: runs since ", &id]);
    assert_eq!(with(&["run", "endless"]).code, Some(0));
    with(&["list", "endless"]).told(&["endless: running", " waits since ", " by cli:"]);
    drop(daemon);
}

#[tokio::test]
async fn the_history_tells_each_run_and_each_range() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    assert_eq!(job(&setup, &["run", "wrong", "--here"]).code, Some(4));
    let insert = "
        INSERT INTO steward.job_runs (id, job, kind, due_at, last_due_at, missed_count, state, reason, finished_at)
        VALUES (gen_random_uuid(), 'wrong', 'missed', '2026-01-01 00:00Z', '2026-01-01 05:00Z', 6, 'skipped', 'misfire', now());
        INSERT INTO steward.job_runs (id, job, kind, due_at, state, actor, instance, attempts, fenced, started_at, finished_at, error)
        VALUES (gen_random_uuid(), 'wrong', 'scheduled', '2026-01-02 00:00Z', 'lost', 'schedule', 'host/1/abc', 2, false,
                '2026-01-02 00:00:01Z', '2026-01-02 00:00:03.5Z', E'gone\nand more')";
    client.batch_execute(insert).await.unwrap();

    let said = job(&setup, &["history", "wrong"]);
    said.told(&[
        "effect",
        "fenced",
        "at least once",
        "division by zero",
        "by cli:",
        "6 instants, to 2026-01-01 05:00:00 UTC; misfire",
    ]);
    assert!(
        said.out.contains("by schedule on host/1/abc; gone") && !said.out.contains("and more"),
        "{}",
        said.out
    );
    let order: Vec<&str> = said
        .out
        .lines()
        .filter_map(|line| {
            ["failed", "lost", "skipped"]
                .into_iter()
                .find(|state| line.split_whitespace().any(|word| word == *state))
        })
        .collect();
    assert_eq!(order, ["failed", "lost", "skipped"], "newest first: {}", said.out);

    let all = json(&setup, &["history", "wrong"]);
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!(all[1]["error"], "gone\nand more");
    assert_eq!(
        (all[1]["duration_ms"].as_i64(), all[1]["attempts"].as_i64()),
        (Some(2500), Some(2))
    );
    assert_eq!(
        (all[2]["missed_count"].as_i64(), all[2]["last_due_at"].as_str()),
        (Some(6), Some("2026-01-01T05:00:00Z"))
    );
    assert_eq!(json(&setup, &["history", "wrong", "--failed"]).as_array().unwrap().len(), 2);
    assert_eq!(json(&setup, &["history", "wrong", "--limit", "1"]).as_array().unwrap().len(), 1);
    assert_eq!(json(&setup, &["history", "quick"]).as_array().unwrap().len(), 0);
    job(&setup, &["history", "wrng"]).refused(64, &["did you mean \"wrong\"?"]);
    let said = job(&setup, &["history", "quick"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""));
    assert!(said.err.contains("no run of quick"), "{said:?}");
    job(&setup, &["history", "wrong", "--limit", "0"]).refused(64, &["0"]);
    // The ledger's own jobs may be looked at without being configured.
    let unconfigured = Setup::new().database(&database.url());
    assert_eq!(json(&unconfigured, &["history", "wrong"]).as_array().unwrap().len(), 3);
    assert_eq!(listed(&unconfigured, "wrong")["state"], "not_configured");
}
