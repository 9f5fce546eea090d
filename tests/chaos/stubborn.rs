//! Jobs that ignore their cancel.

use crate::deaths::UNHEARD;
use crate::harness::Daemon;
use crate::stage::{
    Stage, close_accounts, effect, gone, job, outcome, running, setup, wait_outcome, wait_sql,
};

/// Goes on, whatever it is told, as long as there is a row.
const STUBBORN: &str = "
    CREATE TABLE public.stubborn (why text);
    INSERT INTO public.stubborn VALUES ('until it is gone');
    CREATE FUNCTION public.go_on() RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            WHILE EXISTS (SELECT FROM public.stubborn) LOOP
                BEGIN
                    PERFORM pg_sleep(0.05);
                EXCEPTION WHEN query_canceled THEN
                    NULL;
                END;
            END LOOP;
        END $$;";

#[tokio::test]
async fn one_that_ignores_its_cancel_is_terminated_and_the_job_goes_on() {
    let stage = Stage::new().await;
    stage.client.batch_execute(STUBBORN).await.unwrap();
    let sql = format!("{UNHEARD}; {}; SELECT public.go_on()", effect("tick"));
    let jobs = job("tick", &sql, "retries = 3").replace("timeout = \"60s\"", "timeout = \"1s\"");
    let daemon = Daemon::spawn(stage.setup(&jobs)).await;
    let run = running(&stage.client, "tick").await;
    wait_outcome(&stage.client, &run, "timed_out timeout").await;
    let row =
        format!("SELECT concat_ws(' ', attempts, error) FROM steward.job_runs WHERE id = '{run}'");
    let row = stage.client.text(&row).await;
    let proven = "1 over its timeout of 1 s; its statement ignored the cancel, and its session was terminated";
    assert!(row.starts_with(proven), "{row}");
    stage.client.batch_execute("DELETE FROM public.stubborn").await.unwrap();
    wait_sql(
        &stage.client,
        "SELECT count(*) FROM steward.job_runs WHERE job = 'tick' AND state = 'succeeded'",
        |runs| runs > 0,
    )
    .await;
    assert_eq!(daemon.metric("pgsteward_jobs_quarantined").await, Some(0.0));
    let account = close_accounts(&stage.client, vec![daemon], &["tick"]).await.remove(0);
    assert!(account.count("timed_out") > 0);
}

/// A role that may not terminate: nothing is proven. Its transaction holds the fence, so its row cannot
/// be ended before it has; nothing new is begun, and nobody else waits for it.
#[tokio::test]
async fn one_that_cannot_be_ended_keeps_its_job_waiting_and_no_other() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("plain", "").await;
    let sql = format!(
        "{STUBBORN}
         GRANT SELECT, INSERT ON public.effects TO {role};
         GRANT SELECT ON public.stubborn TO {role};
         GRANT ALL ON SCHEMA steward TO {role};
         GRANT ALL ON ALL FUNCTIONS IN SCHEMA steward TO {role};
         REVOKE EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend(int, bigint) FROM PUBLIC;
         DO $$ DECLARE t regclass; BEGIN
            FOR t IN SELECT oid::regclass FROM pg_class
                      WHERE relnamespace = 'steward'::regnamespace AND relkind IN ('r', 'p')
            LOOP EXECUTE format('ALTER TABLE %s OWNER TO {role}', t); END LOOP; END $$",
        role = role.name
    );
    stage.client.batch_execute(&sql).await.unwrap();
    let sql = format!("{UNHEARD}; {}; SELECT public.go_on()", effect("tick"));
    let tick = job("tick", &sql, "").replace("timeout = \"60s\"", "timeout = \"1s\"");
    let jobs = [tick, job("other", &effect("other"), "catch_up = \"all\"")].concat();
    let daemon = Daemon::spawn(setup(&role.url, &jobs)).await;
    // On a busy machine, one before it may have been out of time before it began.
    let line = daemon.wait_log("it may still run").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let run = line["run_id"].as_str().unwrap().to_owned();
    assert_eq!(
        (line["job"].as_str(), line["outcome"].as_str()),
        (Some("tick"), Some("timed_out")),
        "{line}"
    );
    daemon.wait_log("its end is written when that has ended").await;
    daemon.wait_metric("pgsteward_jobs_quarantined", |jobs| jobs == 1.0).await;
    // Instants that come due meanwhile are accounted for, and begin nothing; other jobs run, for
    // longer than a lease lasts, and the lease is kept.
    let skipped = format!(
        "SELECT coalesce(sum(m.missed_count), 0) FROM steward.job_runs m JOIN steward.job_runs r USING (job)
          WHERE r.id = '{run}' AND m.reason = 'overlap' AND m.due_at > r.due_at"
    );
    let before = stage.client.number(&skipped).await;
    wait_sql(&stage.client, &skipped, |instants| instants >= before + 8).await;
    let on_time = "SELECT extract(epoch FROM max(started_at - due_at))::int FROM steward.job_runs WHERE job = 'other'";
    assert!(stage.client.number(on_time).await < 4, "the other job waited");
    assert!(!daemon.log().contains("could not be renewed in time"), "{}", daemon.log());
    assert_eq!(outcome(&stage.client, &run).await, "running");
    let working = "SELECT min(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgsteward/job%'
                    AND datname = current_database() AND query LIKE '%go_on%' AND state = 'active' HAVING count(*) = 1";
    let backend = stage.client.number(working).await;

    stage.client.batch_execute("DELETE FROM public.stubborn").await.unwrap();
    gone(&stage.client, &[backend]).await;
    wait_outcome(&stage.client, &run, "timed_out timeout").await;
    daemon.wait_metric("pgsteward_jobs_quarantined", |jobs| jobs == 0.0).await;
    let accounts = close_accounts(&stage.client, vec![daemon], &["tick", "other"]).await;
    assert!(
        accounts[0].count("timed_out") >= 1 && accounts[0].count("succeeded") >= 1,
        "{accounts:#?}"
    );
}
