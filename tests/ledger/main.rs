//! The fire ledger and the observer's lease on a real server: who may run what, and who may not.
//!
//! What keeps two instances from doing the same twice is a handful of statements. Each has tests that
//! fail when it is weakened; where that is not plain from the test's name, a comment says which
//! weakening is caught.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod claims;
mod endings;
mod fences;
mod leases;
mod orphans;
mod pooled;
mod ranges;
mod requests;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harness::{BOUND, Template, TestClient, TestDatabase};
use pgsteward::config::{self, JobName, Overlap, Pooler, Secret, SecretSource};
use pgsteward::db::{Conn, Database, Error, Kind, Purpose, Route, TxFuture, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::store::claims::{
    Cause, ClaimKind, ClaimRequest, ClaimResult, Claimer, Fire, MissedRange, Run, SkipReason,
    Verdict, claim,
};
use pgsteward::store::orphans::{OrphanedRun, reap};
use pgsteward::store::runs::{self, FinishedRun, RegisteredJob, RunResult, RunState};
use pgsteward::store::{pauses, requests as asks};
use pgsteward::telemetry::Metrics;
use uuid::Uuid;

const JOB: &str = "vacuum";
/// What stands before the dash is the schedule.
const SPEC: &str = "when-how";
/// As long as a lease may be; longer than any test.
const LEASE: Duration = Duration::from_secs(300);
const INSTANCE: &str = "here/1/one";

/// A migrated database with one job registered, that is accounted for up to two hours ago: whatever is due
/// in a test has come due by now.
struct Bench {
    database: TestDatabase,
    db: Arc<Database>,
    /// Of [`JOB`], in the beginning.
    watermark: DateTime<Utc>,
}

impl Bench {
    async fn new() -> Bench {
        let database = TestDatabase::create(Template::Migrated).await;
        let url = database.url();
        Bench::over(database, &url, Pooler::None).await
    }

    /// The same, reached by another way.
    async fn over(database: TestDatabase, url: &str, pooler: Pooler) -> Bench {
        let url = Some(SecretSource::Inline(Secret::new(url)));
        let config = config::Database { url, pooler, ..config::Database::default() };
        let db =
            Database::new("main", &config, 1, &Tasks::new(), &Arc::new(Metrics::new().unwrap()));
        let mut bench = Bench { database, db, watermark: DateTime::UNIX_EPOCH };
        let seen = bench.register(SPEC).await.watermark;
        bench.watermark = seen - TimeDelta::hours(2);
        bench.set_floor(0).await;
        bench
    }

    async fn conn(&self) -> Conn {
        self.db.connect(Purpose::Control, Route::Pooled).await.unwrap()
    }

    /// Past everything, to look and to meddle with.
    async fn client(&self) -> TestClient {
        self.database.client().await
    }

    async fn sql(&self, sql: &str) {
        self.client()
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn text(&self, sql: &str) -> String {
        self.client().await.text(sql).await
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client().await.number(sql).await
    }

    async fn register(&self, spec: &str) -> RegisteredJob {
        self.register_job(JOB, spec).await
    }

    async fn register_job(&self, job: &str, spec: &str) -> RegisteredJob {
        let jobs = [(JobName::new(job), spec.to_owned())];
        let mut rows = runs::register(&mut self.conn().await, &jobs, BOUND).await.unwrap();
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    }

    /// So many seconds after the watermark of the beginning.
    fn due(&self, seconds: i64) -> DateTime<Utc> {
        self.watermark + TimeDelta::seconds(seconds)
    }

    /// An instant to run.
    fn fire(&self, seconds: i64) -> Fire {
        Fire { due_at: self.due(seconds), cause: Cause::Scheduled, overlap: Overlap::Skip }
    }

    /// What is asked of the instant alone.
    fn only(&self, seconds: i64) -> ClaimKind {
        ClaimKind::Due { missed: Vec::new(), fire: Some(self.fire(seconds)) }
    }

    fn missed(&self, first: i64, last: i64, count: i32, reason: SkipReason) -> MissedRange {
        MissedRange { first: self.due(first), last: self.due(last), count, reason }
    }

    /// Asked by somebody who knows the job's row.
    async fn ask(&self, wanted: ClaimKind) -> ClaimRequest {
        let sql = format!("SELECT claimed_floor FROM steward.job_state WHERE job = '{JOB}'");
        let watermark = self.client().await.query_one(&sql, &[]).await.unwrap().get(0);
        ClaimRequest {
            job: JobName::new(JOB),
            spec_hash: SPEC.to_owned(),
            watermark,
            paused: false,
            kind: wanted,
        }
    }

    async fn claim(&self, ask: &ClaimRequest) -> ClaimResult {
        let claimer = Claimer { instance: INSTANCE, lease: LEASE };
        let mut answers =
            claim(&mut self.conn().await, claimer, std::slice::from_ref(ask), BOUND).await.unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].job, ask.job);
        answers.remove(0)
    }

    /// Asks, knowing the row, and says what came of it.
    async fn settle(&self, wanted: ClaimKind) -> Verdict {
        let answer = self.claim(&self.ask(wanted).await).await;
        assert_eq!(
            answer.run.is_some(),
            matches!(answer.verdict, Verdict::Run | Verdict::Queue),
            "{answer:?}"
        );
        answer.verdict
    }

    /// Records a range.
    async fn record(&self, missed: &[MissedRange]) -> Verdict {
        self.settle(ClaimKind::Due { missed: missed.to_vec(), fire: None }).await
    }

    /// A run of the instant, under way since then.
    async fn running(&self, seconds: i64) -> Run {
        let answer = self.claim(&self.ask(self.only(seconds)).await).await;
        assert_eq!((answer.verdict, answer.watermark), (Verdict::Run, self.due(seconds)));
        self.began(seconds).await;
        answer.run.unwrap()
    }

    /// A run of the instant, waiting behind the one under way.
    async fn queued(&self, seconds: i64) -> Uuid {
        let fire = Fire { overlap: Overlap::Queue, ..self.fire(seconds) };
        let answer = self
            .claim(&self.ask(ClaimKind::Due { missed: Vec::new(), fire: Some(fire) }).await)
            .await;
        assert_eq!(answer.verdict, Verdict::Queue);
        answer.run.unwrap().id
    }

    async fn finish(&self, run: Run, state: RunState) -> bool {
        runs::finish(&mut self.conn().await, &ended(run, state), BOUND, BOUND).await.unwrap()
    }

    async fn reap(&self) -> Vec<OrphanedRun> {
        reap(&mut self.conn().await, BOUND).await.unwrap()
    }

    /// One line per row: `state reason`, with how many instants it stands for.
    async fn states(&self) -> String {
        let sql = "SELECT coalesce(string_agg(concat_ws(' ', state, reason, 'x' || missed_count), ', ' ORDER BY due_at), '') \
                   FROM steward.job_runs";
        self.text(sql).await
    }

    /// A column of the job's row.
    async fn state(&self, column: &str) -> String {
        self.text(&format!("SELECT {column} FROM steward.job_state WHERE job = '{JOB}'")).await
    }

    async fn slot(&self) -> String {
        self.state("running_run_id").await
    }

    async fn set_floor(&self, seconds: i64) {
        self.sql(&format!(
            "UPDATE steward.job_state SET claimed_floor = '{}' WHERE job = '{JOB}'",
            self.due(seconds)
        ))
        .await;
    }

    /// As if the run under way had begun at this instant.
    async fn began(&self, seconds: i64) {
        self.sql(&format!(
            "UPDATE steward.job_state SET running_since = '{}' WHERE job = '{JOB}'",
            self.due(seconds)
        ))
        .await;
    }

    async fn assert_floor(&self, seconds: i64) {
        let watermark: DateTime<Utc> = self.ask(self.only(0)).await.watermark;
        assert_eq!(watermark - self.watermark, TimeDelta::seconds(seconds));
    }

    /// As if its instance had stopped renewing it.
    async fn let_expire(&self, id: Uuid) {
        self.sql(&format!(
            "UPDATE steward.job_runs SET lease_until = clock_timestamp() - interval '1 ms' WHERE id = '{id}'"
        ))
        .await;
    }

    /// Runs something in a transaction of its own.
    async fn within<T: Send + 'static>(
        &self,
        mut work: impl for<'t> FnMut(&'t pgsteward::db::Tx<'_>) -> TxFuture<'t, T> + Send,
    ) -> Result<T, Error> {
        self.conn().await.transaction(&TxOptions::within(BOUND), |tx| work(tx)).await
    }

    async fn pause(&self, paused: bool) -> bool {
        if paused {
            return self
                .within(|tx| {
                    Box::pin(pauses::pause(tx, pauses::ALL_JOBS, "cli:ann", Some("a fail-over")))
                })
                .await
                .unwrap()
                .is_none();
        }
        self.within(|tx| Box::pin(pauses::resume(tx, pauses::ALL_JOBS))).await.unwrap().is_some()
    }

    async fn ask_for_a_run(&self, job: &'static str) -> RunRequest {
        match self.within(|tx| Box::pin(asks::enqueue(tx, job, "cli:ann", None))).await.unwrap() {
            asks::EnqueueResult::Queued { id, .. } => RunRequest::Queued(id),
            asks::EnqueueResult::AlreadyQueued { id } => RunRequest::Waiting(id),
            asks::EnqueueResult::Paused { pause, .. } => RunRequest::Paused(pause.by),
            asks::EnqueueResult::Unknown { known } => RunRequest::Unknown(known),
        }
    }

    async fn queued_by_wish(&self) -> Uuid {
        match self.ask_for_a_run(JOB).await {
            RunRequest::Queued(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn cancel(&self, id: Uuid) -> asks::CancelResult {
        self.within(|tx| Box::pin(asks::cancel(tx, id, "cli:ann"))).await.unwrap()
    }
}

/// What asking for a run came to.
#[derive(Debug, PartialEq)]
enum RunRequest {
    Queued(Uuid),
    Waiting(Uuid),
    /// By whom.
    Paused(String),
    Unknown(Vec<String>),
}

/// An end as the runner says it.
fn ended(run: Run, state: RunState) -> FinishedRun {
    let ending = RunResult {
        state,
        reason: None,
        rows: 3,
        error: (state != RunState::Succeeded).then(|| "it broke".to_owned()),
        detail: serde_json::json!({ "tables": 3 }),
        attempts: 2,
        fenced: Some(true),
        quarantine: None,
        warnings: Vec::new(),
    };
    FinishedRun {
        job: JobName::new(JOB),
        id: run.id,
        epoch: run.epoch,
        result: ending,
        pause_job: false,
    }
}

/// Runs the fence in a transaction of its own.
async fn fence(conn: &mut Conn, id: Uuid, epoch: i64) -> Result<(), Error> {
    conn.transaction(&TxOptions::within(BOUND), |tx| Box::pin(runs::fence(tx, id, epoch))).await
}

fn is_fenced<T>(outcome: Result<T, Error>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(error) if error.kind() == Kind::Fenced => true,
        Err(error) => panic!("neither passed nor fenced: {error}"),
    }
}
