//! Runs the daemon. This is the only place that wires modules together.
//!
//! # Order
//! Start: signals ─► listener (answers `/livez` from here on) ─► development server, if any ─► one
//! pipeline per database ─► ticker ─► `READY=1` once every database is migrated.
//! Stop: `/readyz` fails ─► no new runs ─► runs stop at their next batch or are cancelled on the
//! server ─► leases are released ─► the listener closes, requests drain ─► pools close ─► the
//! development server stops.
//!
//! # Failure
//! [`Fatal`] lists what ends the process. A database that cannot be reached is not in it.

mod development;
mod notices;
mod reload;
mod systemd;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::load::Loaded;
use crate::config::{Config, Problems};
use crate::db::Database;
use crate::db::ephemeral::{Ephemeral, EphemeralError};
use crate::health::{Board, Readiness};
use crate::http::auth::AuthError;
use crate::http::tls::{Tls, TlsError};
use crate::http::{self, ApiDatabase, ApiDatabases, Authenticator, BindError, Rules};
use crate::lifecycle::Tasks;
use crate::lifecycle::signals::{Signal, Signals};
use crate::scheduler::RuntimeStatus;
use crate::scheduler::pipeline::{Pipeline, PipelineDeps, STOP_BOUND};
use crate::scheduler::ticker::Ticker;
use crate::telemetry::Metrics;
use crate::telemetry::log::{LogHandle, chain};
use notices::AuditNotices;
use reload::Reloader;
use systemd::Systemd;

/// A pipeline that has not advanced for this long is stalled. One iteration may meet a server that
/// accepts connections and stays silent, and then lasts for the timeouts of several steps.
const PIPELINE_STALE_AFTER: Duration = Duration::from_secs(90);
/// Bound of the whole stop. `TimeoutStopSec` of systemd and the grace period of a Pod are longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// The share of it that requests have after the pipelines have ended.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(4);
const _: () = assert!(STOP_BOUND.as_secs() + REQUESTS_TIMEOUT.as_secs() < DRAIN_TIMEOUT.as_secs());
/// Commands of API callers that a pipeline has not received yet.
const COMMAND_QUEUE: usize = 4;
/// How often authentication failures are reported and the certificate file is checked.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// An error that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("{0}")]
    Listen(#[from] BindError),
    #[error("cannot load the credentials of API callers: {}", chain(.0))]
    Credentials(#[from] AuthError),
    #[error("cannot load the TLS certificate: {}", chain(.0))]
    Tls(#[from] TlsError),
    #[error("cannot start the development server: {0}")]
    Ephemeral(#[from] EphemeralError),
    #[error("migration failed, and migrations.on_failure is \"exit\": {0}")]
    Migration(String),
    #[error("cannot {task}: {error}")]
    Internal { task: &'static str, error: String },
}

impl Fatal {
    fn internal<E: std::fmt::Display>(task: &'static str) -> impl FnOnce(E) -> Fatal {
        move |error| Fatal::Internal { task, error: error.to_string() }
    }
}

/// Runs the daemon until a signal or a fatal error ends it. `read` loads the configuration again
/// after SIGHUP.
pub async fn run(
    loaded: Loaded,
    log: LogHandle,
    read: impl Fn() -> Result<Loaded, Problems>,
) -> Result<(), Fatal> {
    let systemd = Systemd::new(Instant::now());
    let config = loaded.config;
    reload::log_warnings(&loaded.warnings);
    let (_signals, mut signals) = Signals::listen().map_err(Fatal::internal("handle signals"))?;
    let metrics = Arc::new(Metrics::new().map_err(Fatal::internal("register metrics"))?);
    metrics.set_reloaded();

    let listener = http::bind(config.http.listen).await?;
    let address =
        listener.local_addr().map_err(Fatal::internal("read the address of the listener"))?;
    let rules = Rules::load(&config, address.ip(), config.http.tls().is_some()).await?;
    let tls = match config.http.tls() {
        Some(files) => Some(Arc::new(Tls::load(&files.cert, &files.key, &metrics).await?)),
        None => None,
    };
    let boards: BTreeMap<String, Arc<Board>> = config
        .databases
        .keys()
        .map(|name| (name.clone(), Arc::new(Board::new(name, config.health.stale_after))))
        .collect();
    let targets: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    let readiness = Arc::new(Readiness::new(targets.iter().copied(), PIPELINE_STALE_AFTER));
    let (authenticator, databases) =
        (Arc::new(Authenticator::new(rules)), Arc::new(ApiDatabases::default()));
    let (tasks, closing) = (Tasks::new(), CancellationToken::new());
    let state = http::State {
        boards: boards.clone(),
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&metrics),
        authenticator: Arc::clone(&authenticator),
        databases: Arc::clone(&databases),
        tasks: tasks.clone(),
        mutation_slots: Arc::new(Semaphore::new(http::MUTATIONS_MAX)),
    };
    let app =
        http::App::new(state, &config.http).drain_timeout(REQUESTS_TIMEOUT).with_tls(tls.clone());
    tasks.spawn("http", http::serve(listener, app, tasks.clone(), closing.clone()));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %address,
        mode = config.mode.as_str(),
        databases = targets.join(","),
        "pgsteward started"
    );

    let reloader = Reloader {
        read,
        log,
        notices: AuditNotices::default(),
        metrics: Arc::clone(&metrics),
        authenticator,
        tls,
        address,
        started_with: config.clone(),
        last_read: config.clone(),
    };
    let mut daemon =
        Daemon { reloader, systemd, metrics, readiness, tasks, boards, databases, closing };
    let (mut server, mut pipelines) = (None, Vec::new());
    let result = daemon.run_until_stopped(config, &mut signals, &mut server, &mut pipelines).await;
    daemon.stop(pipelines).await;
    if let Some(server) = server {
        server.stop().await;
    }
    tracing::info!("pgsteward stopped");
    result
}

struct Daemon<R> {
    reloader: Reloader<R>,
    systemd: Systemd,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    tasks: Tasks,
    boards: BTreeMap<String, Arc<Board>>,
    databases: Arc<ApiDatabases>,
    /// Closes the listener.
    closing: CancellationToken,
}

impl<R: Fn() -> Result<Loaded, Problems>> Daemon<R> {
    /// Starts everything behind the listener and returns when the process is to end. The caller
    /// stops what was put into `server` and `pipelines`, also after an error.
    async fn run_until_stopped(
        &mut self,
        mut config: Config,
        signals: &mut mpsc::Receiver<Signal>,
        server: &mut Option<Ephemeral>,
        pipelines: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Fatal> {
        *server = tokio::select! {
            started = development::start(&mut config, &self.tasks, &self.metrics, &self.readiness) =>
                started?,
            () = stop_signal(signals) => return Ok(()),
        };
        let (publish, config) = watch::channel(Arc::new(config));
        let (fatal, mut fatals) = mpsc::channel(1);
        let wake = Arc::new(Notify::new());
        let ticker = Ticker::start(Arc::clone(&wake), self.tasks.stopping())
            .await
            .map_err(Fatal::internal("start the ticker"))?;
        *pipelines = self.start_pipelines(config, &fatal, &wake);

        let mut supervisor = std::pin::pin!(development::supervise_dev_server(server.as_mut()));
        let mut systemd_due = Instant::now();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING_INTERVAL);
        let result = loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => {
                        self.systemd.reloading();
                        self.reloader.reload(&publish).await;
                        self.systemd.reloaded();
                    }
                    Some(Signal::Stop) | None => break Ok(()),
                },
                Some(message) = fatals.recv() => break Err(Fatal::Migration(message)),
                _ = housekeeping.tick() => self.reloader.housekeep().await,
                () = self.readiness.changed() => systemd_due = self.systemd.update(&self.readiness),
                () = tokio::time::sleep_until(systemd_due.into()) =>
                    systemd_due = self.systemd.update(&self.readiness),
                never = &mut supervisor => match never {},
            }
        };
        ticker.stop().await;
        result
    }

    /// Starts a pipeline per database and opens the API to them.
    fn start_pipelines(
        &mut self,
        configuration: watch::Receiver<Arc<Config>>,
        fatal: &mpsc::Sender<String>,
        wake: &Arc<Notify>,
    ) -> Vec<JoinHandle<()>> {
        let config = Arc::clone(&configuration.borrow());
        let (mut databases, mut pipelines) = (Vec::new(), Vec::new());
        for (name, board) in std::mem::take(&mut self.boards) {
            let Some(database) = config.databases.get(&name) else { continue };
            let slots = config.jobs.max_concurrent;
            let db = Database::new(&name, database, slots, &self.tasks, &self.metrics);
            let standing = Arc::new(RuntimeStatus::default());
            let (command_sender, commands) = mpsc::channel(COMMAND_QUEUE);
            databases.push(ApiDatabase::new(
                Arc::clone(&db),
                Arc::clone(&board),
                Arc::clone(&standing),
                command_sender,
            ));
            let pipeline = Pipeline::new(PipelineDeps {
                db,
                config: configuration.clone(),
                notices: self.reloader.notices.subscribe(),
                commands,
                board,
                readiness: Arc::clone(&self.readiness),
                metrics: Arc::clone(&self.metrics),
                standing,
                tasks: self.tasks.clone(),
                wake: Arc::clone(wake),
                instance: instance(),
                fatal: fatal.clone(),
            });
            pipelines.push(self.tasks.spawn("pipeline", pipeline.run()));
        }
        self.databases.open(configuration, databases);
        pipelines
    }

    /// Stops everything in order, within [`DRAIN_TIMEOUT`]. The listener answers probes until the
    /// pipelines have ended.
    async fn stop(&self, pipelines: Vec<JoinHandle<()>>) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        tracing::info!("stopping");
        self.readiness.drain();
        self.systemd.stopping();
        self.tasks.stop();
        if tokio::time::timeout(STOP_BOUND, join_all(pipelines)).await.is_err() {
            tracing::error!(
                "pipelines did not stop within {} s, closing the listener anyway",
                STOP_BOUND.as_secs()
            );
        }
        self.closing.cancel();
        self.databases.close();
        let remaining = self.tasks.drain(deadline.saturating_duration_since(Instant::now())).await;
        if !remaining.is_empty() {
            tracing::error!(
                tasks = remaining.join(","),
                "tasks did not stop within {} s, exiting anyway",
                DRAIN_TIMEOUT.as_secs()
            );
        }
    }
}

/// Returns after a signal to stop, ignoring reloads: there is nothing to reload yet.
async fn stop_signal(signals: &mut mpsc::Receiver<Signal>) {
    while let Some(Signal::Reload) = signals.recv().await {}
}

/// A name for this process that no other process ever has: host, pid and a random part.
pub fn instance() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let random = Uuid::new_v4().simple().to_string();
    format!("{host}/{}/{}", std::process::id(), &random[..8])
}
