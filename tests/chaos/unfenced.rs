//! Jobs that cannot be fenced, whose daemon dies at work: they run at least once, and never twice at a time.

use crate::account::Account;
use crate::harness::Daemon;
use crate::stage::{Stage, gone, job, outcome, running, settle, wait_outcome, wait_sql};

/// Commits a step, then works on, whether or not somebody still waits for it.
const STEPS: &str = "
    CREATE TABLE public.steps (pid int NOT NULL);
    CREATE PROCEDURE public.long_work() LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('client_connection_check_interval', '0', false);
            INSERT INTO public.steps VALUES (pg_backend_pid());
            COMMIT;
            PERFORM public.gate(1);
        END $$;
    CREATE TABLE public.kept (id int);";

#[tokio::test]
async fn killed_at_work_outside_a_transaction_the_job_waits_until_its_session_is_gone() {
    let stage = Stage::new().await;
    stage.client.batch_execute(STEPS).await.unwrap();
    let jobs = [
        job("steps", "CALL public.long_work()", "transaction = false"),
        job("vacuum-kept", "VACUUM public.kept", "transaction = false"),
    ]
    .concat();
    let gate = stage.close(1).await;
    let keeper = stage.database.client().await;
    keeper.batch_execute("BEGIN; LOCK public.kept IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    let working = gate.reached().await;
    let waiting =
        "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE datname = current_database()
                    AND query LIKE 'VACUUM public.kept%' AND wait_event_type = 'Lock'";
    wait_sql(&stage.client, waiting, |pid| pid != 0).await;
    let vacuuming = stage.client.number(waiting).await;
    let (steps, vacuum) =
        (running(&stage.client, "steps").await, running(&stage.client, "vacuum-kept").await);
    let noted = format!(
        "SELECT count(*) FROM steward.job_runs WHERE id = '{steps}' AND NOT fenced AND backend_pid = {working}"
    );
    assert_eq!(stage.client.number(&noted).await, 1, "who works for it is known before it begins");

    first.kill().await;
    gone(&stage.client, &[vacuuming]).await;
    keeper.batch_execute("COMMIT").await.unwrap();
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    wait_outcome(&stage.client, &steps, "lost lease_expired").await;
    wait_outcome(&stage.client, &vacuum, "lost lease_expired").await;
    second.wait_metric("pgsteward_jobs_quarantined", |jobs| jobs == 1.0).await;
    // The other one, whose session is gone, goes on; this one's instants are skipped.
    settle(&stage.client, &["vacuum-kept"]).await;
    let skipped = format!(
        "SELECT coalesce(sum(m.missed_count), 0) FROM steward.job_runs m JOIN steward.job_runs r USING (job)
          WHERE r.id = '{steps}' AND m.reason = 'overlap' AND m.last_due_at > r.finished_at"
    );
    wait_sql(&stage.client, &skipped, |instants| instants >= 1).await;
    assert_eq!(
        stage.client.number("SELECT count(*) FROM public.steps").await,
        1,
        "nothing runs beside it"
    );

    gate.open().await;
    gone(&stage.client, &[working]).await;
    second.wait_log("the job may run again").await;
    settle(&stage.client, &["steps"]).await;
    assert_eq!(second.terminate().await.code(), Some(0));
    assert_eq!(outcome(&stage.client, &steps).await, "lost lease_expired");
    for job in ["steps", "vacuum-kept"] {
        let account = Account::read(&stage.client, job, 1).await;
        Account { fenced: false, ..account }.check();
    }
}
