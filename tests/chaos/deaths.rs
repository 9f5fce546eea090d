//! The daemon is killed in each phase of a run, and another takes over.

use crate::account::Account;
use crate::harness::{BOUND, Daemon, Proxy, wait_until};
use crate::stage::{
    Stage, by_way_of, close_accounts, effect, gone, job, outcome, running, settle, wait_outcome,
    wait_sql,
};

/// A row's end as it is written waits at gate `number`, for one job.
fn hold_end(job: &str, state: &str, number: i32) -> String {
    format!(
        "CREATE TRIGGER hold_{job} BEFORE UPDATE ON steward.job_runs FOR EACH ROW
           WHEN (NEW.job = '{job}' AND NEW.state = '{state}') EXECUTE FUNCTION public.gate_here({number});"
    )
}

/// The COMMIT of a job's success waits at gate `number`: the row that records it makes another, whose
/// constraint is put off until then, whatever the transaction has set before.
pub fn hold_commit(job: &str, number: i32) -> String {
    hold_at_commit(job, number, "1s")
}

/// The same, and it is committed even if nobody waits for the answer any more.
pub fn hold_commit_unheard(job: &str, number: i32) -> String {
    hold_at_commit(job, number, "0")
}

fn hold_at_commit(job: &str, number: i32, check_client: &str) -> String {
    format!(
        "CREATE CONSTRAINT TRIGGER hold_{job} AFTER INSERT ON public.commits DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW WHEN (NEW.job = '{job}') EXECUTE FUNCTION public.gate_here({number});
         CREATE FUNCTION public.note_{job}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                SET CONSTRAINTS public.hold_{job} DEFERRED;
                SET LOCAL client_connection_check_interval = '{check_client}';
                INSERT INTO public.commits VALUES (NEW.job);
                RETURN NEW;
            END $$;
         CREATE TRIGGER note_{job} BEFORE UPDATE ON steward.job_runs FOR EACH ROW
           WHEN (NEW.job = '{job}' AND NEW.state = 'succeeded') EXECUTE FUNCTION public.note_{job}();"
    )
}

/// The server goes on with what it was sent, though nobody waits for the answer.
pub const UNHEARD: &str = "SET LOCAL client_connection_check_interval = 0";

/// Five runs at once, each in another phase: before its effect, after it, where its success is
/// written, at a commit that the death prevents, and at a commit that comes after it.
#[tokio::test]
async fn killed_at_work_a_run_is_lost_unless_its_commit_was_on_its_way() {
    const JOBS: [&str; 5] = ["begun", "done", "written", "committing", "committed"];
    let stage = Stage::new().await;
    let jobs = [
        job("begun", &format!("SELECT public.gate(1); {}", effect("begun")), ""),
        job("done", &format!("{}; SELECT public.gate(2)", effect("done")), ""),
        job("written", &effect("written"), ""),
        job("committing", &effect("committing"), ""),
        job("committed", &effect("committed"), ""),
    ]
    .concat();
    let holds = [
        hold_end("written", "succeeded", 3),
        hold_commit("committing", 4),
        hold_commit_unheard("committed", 5),
    ]
    .concat();
    stage.client.batch_execute(&holds).await.unwrap();
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    first.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    let mut gates = Vec::new();
    for number in 1..=5 {
        gates.push(stage.close(number).await);
    }
    let mut pids = Vec::new();
    for gate in &gates {
        pids.push(gate.reached().await);
    }
    let mut runs = Vec::new();
    for job in JOBS {
        runs.push(running(&stage.client, job).await);
    }

    first.kill().await;
    gates.pop().unwrap().open().await;
    wait_outcome(&stage.client, &runs[4], "succeeded").await;
    // The server sees that its client is gone, and ends what waits.
    gone(&stage.client, &pids[..4]).await;
    for gate in gates {
        gate.open().await;
    }
    for run in &runs[..4] {
        wait_outcome(&stage.client, run, "lost lease_expired").await;
    }
    second
        .wait_metric("pgsteward_job_runs_total job_name=\"begun\" outcome=\"lost\"", |runs| {
            runs == 1.0
        })
        .await;
    assert_eq!(outcome(&stage.client, &runs[4]).await, "succeeded");
    for account in close_accounts(&stage.client, vec![second], &JOBS).await {
        assert_eq!(account.count("lost"), usize::from(account.job != "committed"), "{account:#?}");
    }
}

/// Side by side, since each mostly waits for a lease to pass.
#[tokio::test]
async fn killed_around_its_work_a_run_leaves_nothing_half_done() {
    tokio::join!(
        killed_before_its_claim_commits(),
        killed_before_its_work(),
        killed_while_a_failure_is_written()
    );
}

/// The instant is still due, and the next one runs it.
async fn killed_before_its_claim_commits() {
    let stage = Stage::new().await;
    let hold = "CREATE TRIGGER hold BEFORE INSERT ON steward.job_runs FOR EACH ROW
                  WHEN (NEW.job = 'tick') EXECUTE FUNCTION public.gate_here(1)";
    stage.client.batch_execute(hold).await.unwrap();
    let gate = stage.close(1).await;
    let jobs = job("tick", &effect("tick"), "catch_up = \"all\"");
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    let claiming = gate.reached().await;
    first.kill().await;
    gone(&stage.client, &[claiming]).await;
    assert_eq!(
        stage.client.number("SELECT count(*) FROM steward.job_runs WHERE job = 'tick'").await,
        0
    );
    gate.open().await;

    let second = Daemon::spawn(stage.setup(&jobs)).await;
    let account = close_accounts(&stage.client, vec![second], &["tick"]).await.remove(0);
    // Also what was due while the first one tried.
    assert_eq!(account.count("succeeded"), account.rows.len(), "{account:#?}");
}

/// The run is lost, without an effect.
async fn killed_before_its_work() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(stage.database.server().address()).await;
    let jobs = job("tick", &effect("tick"), "");
    let direct = stage.database.url_at(proxy.address());
    let first = Daemon::spawn(by_way_of(&stage.database.url(), &direct, &jobs)).await;
    settle(&stage.client, &["tick"]).await;
    proxy.blackhole().await;
    // The instant after it is skipped: the run has its slot for longer than it ever needs, and does nothing.
    let sql = "SELECT count(*) FROM steward.job_runs r JOIN steward.job_runs m USING (job)
                WHERE r.state = 'running' AND m.reason = 'overlap' AND m.due_at > r.due_at";
    wait_sql(&stage.client, sql, |runs| runs > 0).await;
    let run = running(&stage.client, "tick").await;
    first.kill().await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    wait_outcome(&stage.client, &run, "lost lease_expired").await;
    close_accounts(&stage.client, vec![second], &["tick"]).await;
}

/// The work has failed, and nobody could say so.
async fn killed_while_a_failure_is_written() {
    let stage = Stage::new().await;
    stage.client.batch_execute(&hold_end("tick", "failed", 1)).await.unwrap();
    let gate = stage.close(1).await;
    let jobs = job("tick", &format!("{}; SELECT 1/0", effect("tick")), "");
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    let writing = gate.reached().await;
    let run = running(&stage.client, "tick").await;
    first.kill().await;
    gone(&stage.client, &[writing]).await;
    gate.open().await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    wait_outcome(&stage.client, &run, "lost lease_expired").await;
    let account = close_accounts(&stage.client, vec![second], &["tick"]).await.remove(0);
    assert!(account.count("failed") > 0 && account.count("succeeded") == 0, "{account:#?}");
}

/// Each time its slots are taken, and no process is left that could free them.
#[tokio::test]
async fn killed_again_and_again_it_doubles_nothing() {
    let stage = Stage::new().await;
    let jobs: String = ["one", "two"]
        .map(|name| job(name, &format!("{}; SELECT pg_sleep(0.3)", effect(name)), ""))
        .concat();
    for _ in 0..2 {
        let daemon = Daemon::spawn(stage.setup(&jobs)).await;
        let before = stage.client.number("SELECT count(*) FROM public.effects").await;
        wait_until("it works", BOUND, async || {
            stage.client.number("SELECT count(*) FROM public.effects").await >= before + 2
        })
        .await;
        running(&stage.client, "two").await;
        daemon.kill().await;
    }
    let last = Daemon::spawn(stage.setup(&jobs)).await;
    let accounts: Vec<Account> = close_accounts(&stage.client, vec![last], &["one", "two"]).await;
    assert!(accounts.iter().all(|account| account.count("succeeded") >= 2), "{accounts:#?}");
}
