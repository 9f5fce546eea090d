//! What can run: a closed list, one file each.
//!
//! A job is one async function over a [`Context`]. It is started only by `scheduler/runner.rs`, which
//! holds its place, its deadline, its cancel and its record; a job therefore neither retries, nor
//! times itself out, nor writes its own run. What it owes: look at [`Context::stopping`] between
//! batches, write only inside [`Context::transaction`], and return what it did.

mod acts;
mod attempts;
pub mod partitions;
pub mod privileges;
pub mod probe;
pub mod progress;
pub mod refresh;
pub mod retention;
pub mod sample;
pub mod seal;
pub mod sql;
mod unfenced;
pub mod writer;
pub mod vacuum;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Builtin, Config, Job, JobName, Mode, Work};
use crate::db::{Conn, Database, Error, Tx, TxFuture, TxOptions};
use crate::sets::{Manifest, STEWARD};
use crate::store::requests::{self, RunOptions};
use crate::store::runs;

use crate::telemetry::Metrics;
use progress::Progresses;

/// The applied sets whose tables the mode permits jobs to change: in mode `observe`, only
/// pgsteward's own.
fn maintained(
    config: &Config,
    sets: &[&'static Manifest],
) -> impl Iterator<Item = &'static Manifest> {
    let all = config.mode != Mode::Observe;
    sets.iter().copied().filter(move |set| all || set.name == STEWARD.name)
}

/// Everything a job works with.
pub struct Context<'a> {
    pub db: &'a Arc<Database>,
    pub config: &'a Arc<Config>,
    pub metrics: &'a Arc<Metrics>,
    /// Past any transaction pooler where `direct_url` allows it. Cancelled on the server when the
    /// deadline passes.
    pub conn: &'a mut Conn,
    /// The row of `job_runs`, and the epoch under which this run may still write.
    pub run_id: Uuid,
    pub epoch: i64,
    /// When the runner cuts the job off.
    pub deadline: Instant,
    /// Cancelled on shutdown: finish the batch, then return [`Report::stopped`].
    pub stop: CancellationToken,
    /// The bundled sets that are applied to the database.
    pub sets: &'a [&'static Manifest],
    /// The job's name, and its configuration as it was claimed.
    pub job: &'a JobName,
    pub spec: &'a Job,
    /// Whether the run's row says that it is not fenced.
    pub unfenced: bool,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Where to tell how far it has come.
    pub progress: &'a Progresses,
    /// What the caller wants of this run otherwise than the configuration says.
    pub options: RunOptions,
}

/// What a job did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Rows (or objects) affected.
    pub rows: i64,
    /// Per object what was done, skipped and why.
    pub detail: serde_json::Value,
    /// Set when the job ended early on request, with work left.
    pub stopped: bool,
    /// Set when there was nothing to do or nothing that could be done: why.
    pub skipped: Option<String>,
    /// What could not be done as it should for want of a privilege or an index, each with the object and what
    /// mends it. The run has succeeded all the same; the next one says them again.
    pub warnings: Vec<String>,
    /// Set when some of it failed: the run has failed, and what it did is still told.
    pub failure: Option<Error>,
    /// Set when the run's success is written already, in the transaction of its effect.
    pub recorded: bool,
    /// With a failure: the server process that may still be at work.
    pub may_still_run: Option<runs::Backend>,
}

impl Context<'_> {
    /// Whether to stop at the next batch.
    pub fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// What is left of the deadline.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// A write transaction that commits only while this run still holds its lease.
    ///
    /// It holds the run's row against being taken over for as long as it is open, so the server ends it
    /// when nothing comes for as long as a lease lasts: the process may be frozen, or cut off.
    ///
    /// `'c` is fixed (and not chosen by `work`) so that `work` can use what outlives this call.
    pub async fn transaction<'c, T, F>(
        &'c mut self,
        options: &TxOptions,
        mut work: F,
    ) -> Result<T, Error>
    where
        F: for<'t> FnMut(&'t Tx<'c>) -> TxFuture<'t, T> + Send,
        T: Send + 'c,
    {
        let (run_id, epoch) = (self.run_id, self.epoch);
        let mut options = options.clone();
        options.idle_timeout = options.idle_timeout.min(self.config.jobs.lease);
        self.conn
            .transaction(&options, |tx| {
                let effect = work(tx);
                Box::pin(async move {
                    runs::fence(tx, run_id, epoch).await?;
                    effect.await
                })
            })
            .await
    }
}

impl Context<'_> {
    /// Tells how far the run has come: `done` of `total` objects, and what is done to which.
    pub fn tell(&self, done: usize, total: usize, object: &str, note: &str) {
        let (done, total) = (done as u64, total as u64);
        let step = runs::Progress { object: object.to_owned(), done, total, note: note.to_owned() };
        self.progress.tell(self.run_id, step);
    }

    /// Reads what is wanted of this run; jobs over many objects do so first.
    async fn hear_options(&mut self) -> Result<(), Error> {
        let (run, within) = (self.run_id, attempts::short(self).read_only());
        self.options =
            self.conn.transaction(&within, |tx| Box::pin(requests::options(tx, run))).await?;
        Ok(())
    }
}

/// Runs a job of the ledger. Probes and samples are taken on every tick of the observer instead.
pub async fn run(context: &mut Context<'_>) -> Result<Report, Error> {
    if matches!(
        context.spec.work,
        Work::Builtin(Builtin::Retention | Builtin::Vacuum | Builtin::Refresh)
    ) {
        context.hear_options().await?;
    }
    match &context.spec.work {
        Work::Builtin(Builtin::Partitions) => partitions::run(context).await,
        Work::Builtin(Builtin::Retention) => retention::run(context).await,
        Work::Builtin(Builtin::Vacuum) => vacuum::run(context).await,
        Work::Builtin(Builtin::Refresh) => refresh::run(context).await,
        Work::Builtin(Builtin::AuditSeal) => seal::run(context).await,
        Work::Sql(work) => sql::run(context, work).await,
        Work::Builtin(Builtin::HealthProbe | Builtin::ConnectionMetrics) => {
            let skipped = Some("runs on every tick of the observer, outside the ledger".to_owned());
            Ok(Report { skipped, ..Report::default() })
        }
    }
}
