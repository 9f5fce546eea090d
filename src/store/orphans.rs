//! Runs that nobody ends any more: their process died, hung, or lost the database.
//!
//! Their lease passes, and whoever observes ends them as `lost`. A fenced one cannot commit after
//! that. Of one that is not fenced, the server process may still be at work: the job is put in
//! quarantine, and waits until that process is gone.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Conn, Error, TxOptions};

use super::runs::Backend;

/// A run whose lease passed without an end: its process died or lost the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedRun {
    pub id: Uuid,
    pub job: String,
    pub instance: String,
}

/// Ends runs whose lease has passed as `lost`, and frees their slots; where the server process of one
/// that is not fenced is known, the job waits until that is gone. The row lock comes first: a plain
/// UPDATE would pass a fenced transaction's KEY SHARE lock, and the dead run would commit after being
/// declared lost. A run that committed its effect has recorded its success with it, and is not here.
///
/// A lease far in the future was given before the clock was set back, and counts as passed.
pub async fn reap(conn: &mut Conn, bound: Duration) -> Result<Vec<OrphanedRun>, Error> {
    const SQL: &str = "
        WITH expired AS MATERIALIZED (
            SELECT id FROM steward.job_runs
             WHERE state = 'running'
               AND (lease_until < clock_timestamp() OR lease_until > clock_timestamp() + interval '10 minutes')
             ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED
        ), ended AS (
            UPDATE steward.job_runs r
               SET state = 'lost', reason = 'lease_expired', epoch = r.epoch + 1, lease_until = NULL,
                   finished_at = clock_timestamp(),
                   error = format('instance %s stopped renewing the lease of this run: it died, hung, or lost the database; %s',
                                  r.instance,
                                  CASE WHEN r.fenced IS FALSE
                                       THEN 'its statements were not in a transaction of ours: what they did stands, as a whole or in part'
                                       ELSE 'what it had committed stands, nothing can be committed any more' END)
              FROM expired WHERE r.id = expired.id
            RETURNING r.id, r.job, r.instance, r.fenced IS FALSE AND r.backend_pid IS NOT NULL AS suspect
        ), freed AS (
            UPDATE steward.job_state s
               SET running_run_id = NULL, running_since = NULL, last_state = 'lost',
                   last_finished_at = clock_timestamp(), consecutive_failures = s.consecutive_failures + 1,
                   failed_total = s.failed_total + 1,
                   quarantined_run_id = CASE WHEN ended.suspect THEN ended.id ELSE s.quarantined_run_id END
              FROM ended WHERE s.running_run_id = ended.id
        )
        SELECT id, job, coalesce(instance, '') FROM ended";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let rows = tx.rows("reap lost runs", SQL, &[]).await?;
            Ok(rows
                .iter()
                .map(|row| OrphanedRun { id: row.get(0), job: row.get(1), instance: row.get(2) })
                .collect())
        })
    })
    .await
}

/// Mends slots that name a run which is over, and runs that are under way or wait without being named by
/// a slot: rows were changed by hand. (A run under way without its slot would have every claim of its
/// job refused, and those of other jobs in the same transaction.) Ends what has waited for longer than
/// anybody would start it: its job is no longer configured anywhere. Returns how many jobs it mended.
pub async fn repair_slots(conn: &mut Conn, bound: Duration) -> Result<u64, Error> {
    const SUSPECTS: &str = "
        SELECT s.job FROM steward.job_state s
         WHERE s.running_run_id IS DISTINCT FROM
               (SELECT r.id FROM steward.job_runs r WHERE r.job = s.job AND r.state = 'running')
            OR s.queued_run_id IS DISTINCT FROM
               (SELECT r.id FROM steward.job_runs r WHERE r.job = s.job AND r.state = 'queued')";
    const LOCK: &str = "SELECT FROM steward.job_state WHERE job = ANY ($1) ORDER BY job FOR UPDATE";
    // A statement of its own, so that it sees what was committed while the lock was waited for.
    const MEND: &str = "
        UPDATE steward.job_state s
           SET (running_run_id, running_since) =
                   (SELECT r.id, r.started_at FROM steward.job_runs r WHERE r.job = s.job AND r.state = 'running'),
               queued_run_id = (SELECT r.id FROM steward.job_runs r WHERE r.job = s.job AND r.state = 'queued')
         WHERE s.job = ANY ($1)";
    const FORGOTTEN: &str = "
        WITH old AS MATERIALIZED (
            SELECT s.job, r.id
              FROM steward.job_state s JOIN steward.job_runs r ON r.job = s.job
             WHERE r.state = 'queued'
               AND (r.kind = 'manual' AND r.due_at < now() - interval '2 hours' OR r.due_at < now() - interval '8 days')
             ORDER BY s.job FOR UPDATE OF s SKIP LOCKED
        ), forgotten AS (
            UPDATE steward.job_runs r SET state = 'skipped', reason = 'expired', finished_at = clock_timestamp()
              FROM old WHERE r.id = old.id AND r.state = 'queued' RETURNING r.id
        )
        UPDATE steward.job_state s SET queued_run_id = NULL, skipped_total = s.skipped_total + 1
          FROM forgotten WHERE s.queued_run_id = forgotten.id";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            tx.execute("end runs that nobody starts", FORGOTTEN, &[]).await?;
            let suspects = tx.rows("look for slots of runs that are over", SUSPECTS, &[]).await?;
            if suspects.is_empty() {
                return Ok(0);
            }
            let jobs: Vec<&str> = suspects.iter().map(|row| row.get(0)).collect();
            tx.execute("lock jobs to mend", LOCK, &[(&jobs, Type::TEXT_ARRAY)]).await?;
            tx.execute("mend the slots of jobs", MEND, &[(&jobs, Type::TEXT_ARRAY)]).await
        })
    })
    .await
}

/// A job that waits for the server process of a former run to be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    pub job: String,
    pub run_id: Uuid,
    /// Absent when the run's row is gone: then nothing can be proven any more.
    pub backend: Option<Backend>,
}

/// The jobs in quarantine.
pub async fn quarantined_jobs(conn: &mut Conn, bound: Duration) -> Result<Vec<Quarantined>, Error> {
    const SQL: &str = "
        SELECT s.job, s.quarantined_run_id, r.backend_pid,
               (extract(epoch FROM r.backend_start) * 1000000)::bigint
          FROM steward.job_state s LEFT JOIN steward.job_runs r ON r.id = s.quarantined_run_id
         WHERE s.quarantined_run_id IS NOT NULL";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let rows = tx.rows("read the jobs in quarantine", SQL, &[]).await?;
            Ok(rows
                .iter()
                .map(|row| Quarantined {
                    job: row.get(0),
                    run_id: row.get(1),
                    backend: row
                        .get::<_, Option<i32>>(2)
                        .zip(row.get::<_, Option<i64>>(3))
                        .map(|(pid, start_us)| Backend { pid, start_us }),
                })
                .collect())
        })
    })
    .await
}

/// Ends a quarantine: the process is gone.
pub async fn release_quarantine(
    conn: &mut Conn,
    job: &str,
    run_id: Uuid,
    bound: Duration,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE steward.job_state SET quarantined_run_id = NULL WHERE job = $1 AND quarantined_run_id = $2";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            tx.execute("end a quarantine", SQL, &[(&job, Type::TEXT), (&run_id, Type::UUID)])
                .await?;
            Ok(())
        })
    })
    .await
}
