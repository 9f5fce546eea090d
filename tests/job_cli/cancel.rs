//! `job cancel`.

use crate::harness::{Daemon, Setup, Template, TestDatabase};
use crate::{JOBS, WORKING, audited, job, json, wait_run, wait_sql};

#[tokio::test]
async fn a_run_is_cancelled_wherever_it_is() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let _daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'endless'", |rows| {
        rows == 1
    })
    .await;
    assert_eq!(job(&setup, &["run", "endless"]).code, Some(0));
    let runs = wait_run(&client, "endless", "running").await;
    wait_sql(&client, WORKING, |sessions| sessions == 1).await;
    let waits = json(&setup, &["run", "endless"])["run_id"].as_str().unwrap().to_owned();

    job(&setup, &["cancel", &waits]).told(&["of endless: taken out of the queue"]);
    let row = |id: &str| {
        format!(
            "SELECT state || ' ' || reason || ' ' || split_part(cancel_by, ':', 1) FROM steward.job_runs WHERE id = '{id}'"
        )
    };
    assert_eq!(client.text(&row(&waits)).await, "cancelled requested cli");
    assert_eq!(
        client
            .number("SELECT count(queued_run_id) FROM steward.job_state WHERE job = 'endless'")
            .await,
        0
    );

    let instance =
        client.text(&format!("SELECT instance FROM steward.job_runs WHERE id = '{runs}'")).await;
    job(&setup, &["cancel", &runs, "--wait"]).told(&[
        &instance,
        "is asked to cancel it",
        "of endless: cancelled",
        "the server confirmed",
    ]);
    assert_eq!(client.text(&row(&runs)).await, "cancelled requested cli");
    assert_eq!(client.number(WORKING).await, 0);

    job(&setup, &["cancel", &runs]).told(&["is over already: cancelled"]);
    assert_eq!(json(&setup, &["cancel", &runs])["state"], "cancelled");
    assert_eq!(
        audited(&client).await,
        format!("job.run endless, job.run endless, job.cancel {waits}, job.cancel {runs}")
    );
}

#[tokio::test]
async fn the_beginning_of_an_id_will_do_if_it_is_no_others() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let insert = "
        INSERT INTO steward.job_runs (id, job, kind, due_at, state, finished_at)
        SELECT ('01930000-000' || n || '-7000-8000-000000000000')::uuid, 'quick', 'scheduled', now() - n * interval '1 h',
               'succeeded', now() FROM generate_series(1, 3) n";
    client.batch_execute(insert).await.unwrap();
    job(&setup, &["cancel", "01930000-0002"])
        .told(&["run 01930000-0002-7000-8000-000000000000 of quick is over already: succeeded"]);
    let said = job(&setup, &["cancel", "01930000"]);
    said.refused(64, &["01930000 is the beginning of several runs"]);
    said.refused(
        64,
        &[
            "01930000-0001-7000",
            "01930000-0002-7000",
            "01930000-0003-7000",
            "quick, succeeded since",
        ],
    );
    job(&setup, &["cancel", "01940000"])
        .refused(64, &["has no run 01940000", "pgsteward job history"]);
    job(&setup, &["cancel", "01930000-0009-7000-8000-000000000000"])
        .refused(64, &["has no run 01930000-0009"]);
    job(&setup, &["cancel", "0193"]).refused(64, &["at least 8 digits"]);
    job(&setup, &["cancel", "quick-runs"]).refused(64, &["wanted the id of a run"]);
}
