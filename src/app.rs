//! The only wiring: from a configuration to a running daemon, and back.
//!
//! # Order
//! Start: signals ─► listener (answers `/livez` from here on) ─► throw-away server, if any ─► one
//! pipeline per database ─► ticker ─► `READY=1` once every database is migrated.
//! Stop: `/readyz` says so ─► no new fires ─► runs stop at their next batch or are cancelled on the
//! server ─► leases are given up ─► the listener closes, requests drain ─► pools close ─► the
//! throw-away server ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::load::Loaded;
use crate::config::{self, Config, Environment, Problems, SecretSource};
use crate::db::ephemeral::{
    Ephemeral, EphemeralError, Fallback, Options, PATIENCE, Situation, fallback,
};
use crate::db::retry::Backoff;
use crate::db::{Database, Purpose, Route};
use crate::health::{Board, Readiness};
use crate::http::auth::AuthError;
use crate::http::tls::{Tls, TlsError};
use crate::http::{self, BindError, Desk, Desks, Gate, Rules};
use crate::lifecycle::Tasks;
use crate::lifecycle::notify::Notifier;
use crate::lifecycle::signals::{Signal, Signals};
use crate::schedule::Standing;
use crate::schedule::notices::Notice;
use crate::schedule::pipeline::{Parts, Pipeline, STOP_BOUND};
use crate::schedule::ticker::Ticker;
use crate::store::audit::Origin;
use crate::telemetry::Metrics;
use crate::telemetry::log::{Logs, chain};

/// A round may meet a server that accepts and stays silent, step after step, each with its bound.
const PIPELINE_STALE: Duration = Duration::from_secs(90);
/// The whole stop; systemd's `TimeoutStopSec` and the Pod's grace period are longer.
const DRAIN_BOUND: Duration = Duration::from_secs(25);
/// Of it, what requests may take after the pipelines have ended.
const REQUESTS_BOUND: Duration = Duration::from_secs(4);
const _: () = assert!(STOP_BOUND.as_secs() + REQUESTS_BOUND.as_secs() < DRAIN_BOUND.as_secs());
/// Notices that a pipeline has not taken yet: it takes one each round at least.
const NOTICES_AHEAD: usize = 512;
/// How often calls that were refused are told, and the certificate is looked at.
const OFTEN: Duration = Duration::from_secs(5);
/// What callers ask of a pipeline and it has not heard yet.
const ERRANDS_AHEAD: usize = 4;
/// How often to look whether the pipelines advance, where no watchdog says how often.
const LOOK_ALIVE: Duration = Duration::from_secs(60);

/// What ends the process by itself.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("{0}")]
    Listen(#[from] BindError),
    #[error("credentials of callers: {}", chain(.0))]
    Credentials(#[from] AuthError),
    #[error("certificate of the listener: {}", chain(.0))]
    Tls(#[from] TlsError),
    #[error("throw-away server: {0}")]
    Ephemeral(#[from] EphemeralError),
    #[error("migrating failed, and migrations.on_failure is \"exit\": {0}")]
    Migration(String),
    #[error("{0}")]
    Internal(String),
}

/// Runs the daemon until a signal ends it. `reload` reads the configuration again on SIGHUP.
pub async fn run(
    loaded: Loaded,
    logs: Logs,
    reload: impl Fn() -> Result<Loaded, Problems>,
) -> Result<(), Fatal> {
    let begun = Instant::now();
    for warning in &loaded.warnings {
        tracing::warn!(warning, "configuration");
    }
    let config = loaded.config;
    let (_signals, mut signals) =
        Signals::listen().map_err(|error| internal("listen for signals", error))?;
    let notifier = Notifier::new(|name| std::env::var_os(name)).unwrap_or_else(|error| {
        tracing::warn!(error = %error, "systemd cannot be told anything");
        Notifier::none()
    });
    let metrics = Arc::new(Metrics::new().map_err(|error| internal("register metrics", error))?);
    metrics.config_last_reload_success_timestamp_seconds.set(Utc::now().timestamp() as f64);

    let listener = http::bind(config.http.listen).await?;
    let address =
        listener.local_addr().map_err(|error| internal("read the listener's address", error))?;
    let tasks = Tasks::new();
    let targets: Vec<String> = config.databases.keys().cloned().collect();
    let boards: BTreeMap<String, Arc<Board>> = targets
        .iter()
        .map(|name| (name.clone(), Arc::new(Board::new(name, config.health.stale_after))))
        .collect();
    let readiness = Arc::new(Readiness::new(targets.iter().map(String::as_str), PIPELINE_STALE));
    let rules = Rules::load(&config, address.ip(), config.http.tls.is_some()).await?;
    let tls = match &config.http.tls {
        Some(files) => Some(Arc::new(Tls::load(&files.cert, &files.key, &metrics).await?)),
        None => None,
    };
    let (gate, desks) = (Arc::new(Gate::new(rules)), Arc::new(Desks::default()));
    let state = http::State {
        boards: boards.clone(),
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&metrics),
        gate: Arc::clone(&gate),
        desks: Arc::clone(&desks),
        tasks: tasks.clone(),
        acts: Arc::new(Semaphore::new(http::ACTS)),
    };
    let closing = CancellationToken::new();
    let app =
        http::App::new(state, &config.http).drain_within(REQUESTS_BOUND).encrypted_by(tls.clone());
    tasks.spawn("http", http::serve(listener, app, tasks.clone(), closing.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), address = %address, mode = config.mode.as_str(),
        databases = targets.join(","), "pgsteward starts");

    let mut daemon = Daemon {
        logs,
        notifier,
        metrics,
        readiness,
        tasks,
        closing,
        begun,
        announced: false,
        watchdog_at: begun,
        started_with: config.clone(),
        last_read: config.clone(),
        notices: Vec::new(),
        gate,
        desks,
        tls,
        address,
    };
    let outcome = daemon.serve(config, boards, &mut signals, reload).await;
    tracing::info!("stopped");
    outcome
}

struct Daemon {
    logs: Logs,
    notifier: Notifier,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    tasks: Tasks,
    /// Closes the listener.
    closing: CancellationToken,
    begun: Instant,
    /// Whether systemd was told that the daemon is ready.
    announced: bool,
    /// When the watchdog is to be fed.
    watchdog_at: Instant,
    /// The configuration as it was read at the start: what of it cannot change is compared with this.
    started_with: Config,
    /// And as it was last read: what a reload changes is compared with this.
    last_read: Config,
    /// To each pipeline, what is to be told the audit trail.
    notices: Vec<mpsc::Sender<Notice>>,
    gate: Arc<Gate>,
    /// What the API asks, once there is something to ask.
    desks: Arc<Desks>,
    tls: Option<Arc<Tls>>,
    /// Of the listener.
    address: SocketAddr,
}

impl Daemon {
    /// From the listener to the end of everything.
    async fn serve(
        &mut self,
        config: Config,
        boards: BTreeMap<String, Arc<Board>>,
        signals: &mut mpsc::Receiver<Signal>,
        reload: impl Fn() -> Result<Loaded, Problems>,
    ) -> Result<(), Fatal> {
        let (mut server, mut pipelines) = (None, Vec::new());
        let outcome =
            self.keep_house(config, boards, signals, reload, &mut server, &mut pipelines).await;
        self.stop(pipelines).await;
        if let Some(server) = server {
            server.stop().await;
        }
        outcome
    }

    /// Returns when the process is to end.
    async fn keep_house(
        &mut self,
        mut config: Config,
        boards: BTreeMap<String, Arc<Board>>,
        signals: &mut mpsc::Receiver<Signal>,
        reload: impl Fn() -> Result<Loaded, Problems>,
        server: &mut Option<Ephemeral>,
        pipelines: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Fatal> {
        *server = tokio::select! {
            started = self.development_server(&mut config) => started?,
            () = told_to_stop(signals) => return Ok(()),
        };
        let config = Arc::new(config);
        let (publish, configuration) = watch::channel(Arc::clone(&config));
        let (fatal, mut fatals) = mpsc::channel(1);
        let wake = Arc::new(Notify::new());
        let ticker = Ticker::start(Arc::clone(&wake), self.tasks.stopping())
            .await
            .map_err(|error| internal("start the ticker", error))?;
        let mut desks = Vec::new();
        for (name, board) in boards {
            let Some(database) = config.databases.get(&name) else { continue };
            let (tell, notices) = mpsc::channel(NOTICES_AHEAD);
            self.notices.push(tell);
            let (errands, asked) = mpsc::channel(ERRANDS_AHEAD);
            let db = Database::new(
                &name,
                database,
                config.jobs.max_concurrent,
                &self.tasks,
                &self.metrics,
            );
            let standing = Arc::new(Standing::default());
            desks.push(Desk::new(
                Arc::clone(&db),
                Arc::clone(&board),
                Arc::clone(&standing),
                errands,
            ));
            let pipeline = Pipeline::new(Parts {
                db,
                config: configuration.clone(),
                notices,
                errands: asked,
                board,
                readiness: Arc::clone(&self.readiness),
                metrics: Arc::clone(&self.metrics),
                standing,
                tasks: self.tasks.clone(),
                wake: Arc::clone(&wake),
                instance: instance(),
                fatal: fatal.clone(),
            });
            pipelines.push(self.tasks.spawn("pipeline", pipeline.run()));
        }
        self.desks.open(configuration, desks);
        let mut tended = std::pin::pin!(tend(server.as_mut()));
        let mut pulse_at = self.begun;
        let mut often = tokio::time::interval(OFTEN);
        let outcome = loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => self.reload(&reload, &publish).await,
                    Some(Signal::Stop) | None => break Ok(()),
                },
                Some(message) = fatals.recv() => break Err(Fatal::Migration(message)),
                _ = often.tick() => {
                    self.tell_failures();
                    self.look_at_certificate().await;
                }
                () = self.readiness.changed() => pulse_at = self.pulse(),
                () = tokio::time::sleep_until(pulse_at.into()) => pulse_at = self.pulse(),
                never = &mut tended => match never {},
            }
        };
        ticker.stop().await;
        outcome
    }

    /// Tells systemd what is to be told, and says when to look again.
    fn pulse(&mut self) -> Instant {
        let now = Instant::now();
        if !self.announced && self.readiness.ready(now) {
            self.announced = true;
            let took_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(took_ms, "ready");
            told(self.notifier.ready("keeping house"));
        }
        if now >= self.watchdog_at {
            self.watchdog_at = now + self.notifier.watchdog_interval().unwrap_or(LOOK_ALIVE);
            match self.readiness.pipeline(now).outcome {
                Ok(()) => told(self.notifier.watchdog()),
                Err(reason) => tracing::error!(
                    reason,
                    "the pipeline does not advance; the watchdog is not fed"
                ),
            }
        }
        self.watchdog_at
    }

    /// An invalid file changes nothing, and says so.
    async fn reload(
        &mut self,
        read: &impl Fn() -> Result<Loaded, Problems>,
        publish: &watch::Sender<Arc<Config>>,
    ) {
        // Of a daemon that is not ready yet, READY=1 would be untrue.
        if self.announced {
            told(self.notifier.reloading());
        }
        self.look_at_certificate().await;
        match read() {
            Ok(loaded) => {
                match Rules::load(&loaded.config, self.address.ip(), self.tls.is_some()).await {
                    Ok(rules) => {
                        self.adopt(loaded, publish);
                        self.gate.set_rules(rules);
                        self.metrics.config_last_reload_successful.set(1);
                        self.metrics
                            .config_last_reload_success_timestamp_seconds
                            .set(Utc::now().timestamp() as f64);
                    }
                    Err(error) => {
                        self.metrics.config_last_reload_successful.set(0);
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the credentials of the new configuration cannot be used; the old configuration stays"
                        );
                        self.tell(&Notice::unusable("auth"));
                    }
                }
            }
            Err(problems) => {
                self.metrics.config_last_reload_successful.set(0);
                tracing::error!(problems = %problems, "the new configuration is invalid; the old one stays");
                self.tell(&Notice::rejected(&problems));
            }
        }
        if self.announced {
            told(self.notifier.ready("keeping house"));
        }
    }

    /// Takes in a certificate that has changed on the disk; what cannot be used is told by itself.
    async fn look_at_certificate(&self) {
        if let Some(tls) = &self.tls {
            tls.reload_if_changed().await;
        }
    }

    /// Tells of calls that were refused for their credentials.
    fn tell_failures(&self) {
        let taken = self.gate.take_failures();
        for attempts in taken.attempts {
            let origin = Origin {
                ip_address: Some(attempts.address),
                user_agent: attempts.user_agent,
                ..Origin::default()
            };
            let details = serde_json::json!({
                "reason": attempts.reason.code(), "attempts": attempts.count,
                "first": attempts.first, "last": attempts.last,
            });
            self.tell(&Notice::refused_call(attempts.route, origin, details));
        }
        if taken.overflow > 0 {
            let details =
                serde_json::json!({ "reason": "too_many_addresses", "attempts": taken.overflow });
            self.tell(&Notice::refused_call("several".to_owned(), Origin::default(), details));
        }
    }

    /// Leaves it to each pipeline to record it in its database.
    fn tell(&self, notice: &Notice) {
        for pipeline in &self.notices {
            if pipeline.try_send(notice.clone()).is_err() {
                tracing::warn!("a pipeline is too far behind to record this in the audit trail");
            }
        }
    }

    fn adopt(&mut self, loaded: Loaded, publish: &watch::Sender<Arc<Config>>) {
        for warning in &loaded.warnings {
            tracing::warn!(warning, "configuration");
        }
        let current = Arc::clone(&publish.borrow());
        let mut config = loaded.config;
        if let Err(error) = self.logs.set_level(config.log.level) {
            tracing::error!(error = %error, "the log level stays");
        }
        for key in fixed(&self.started_with, &config) {
            tracing::warn!(key, "this change takes effect at the next start");
        }
        self.tell(&Notice::adopted(&self.last_read, &config));
        self.last_read = config.clone();
        // As a throw-away server may have changed them.
        config.databases = current.databases.clone();
        // Receivers live as long as the pipelines; without any there is nobody to tell.
        let _ = publish.send(Arc::new(config));
        tracing::info!("configuration reloaded");
    }

    /// A throw-away server where one is asked for, or where development falls back to one.
    async fn development_server(&self, config: &mut Config) -> Result<Option<Ephemeral>, Fatal> {
        if !config.ephemeral {
            if !self.falls_back(config).await {
                return Ok(None);
            }
            tracing::warn!(
                "the configured server did not answer within {} s and ENVIRONMENT is development: keeping a throw-away \
                 server instead, until the next start",
                PATIENCE.as_secs()
            );
        }
        let server = Ephemeral::start(Options::from_env()).await?;
        // There is one: the configuration sees to that where it asks for the server, the rule of the
        // fallback otherwise.
        for database in config.databases.values_mut() {
            let url = Some(SecretSource::Inline(server.url()));
            let settings = std::mem::take(database);
            *database = config::Database {
                url,
                direct_url: None,
                password: None,
                supabase: None,
                ..settings
            };
        }
        Ok(Some(server))
    }

    /// Tries the configured server for a while; see [`fallback`]. Only at the start: a server that was
    /// there and is gone is an outage.
    async fn falls_back(&self, config: &Config) -> bool {
        let mut databases = config.databases.iter();
        let (Some((name, database)), None) = (databases.next(), databases.next()) else {
            return false;
        };
        if config.environment != Environment::Development {
            return false;
        }
        let begun = Instant::now();
        let db = Database::new(name, database, 1, &self.tasks, &self.metrics);
        loop {
            let hosts = db.server().hosts().await.unwrap_or_default();
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let situation = Situation {
                environment: config.environment,
                ever_connected: false,
                hosts: &hosts,
                waited: begun.elapsed(),
            };
            match fallback(&situation) {
                Fallback::Never => return false,
                Fallback::Now => return true,
                Fallback::In(left) => {
                    // A server that accepts and stays silent may not make this longer.
                    let connect =
                        tokio::time::timeout(left, db.connect(Purpose::Check, Route::Pooled));
                    match connect.await {
                        Ok(Ok(_)) => return false,
                        Ok(Err(error)) => {
                            self.readiness.connect_failed(name, error.kind().as_str())
                        }
                        Err(_) => continue,
                    }
                    tokio::time::sleep(left.min(Duration::from_millis(500))).await;
                }
            }
        }
    }

    /// Stops everything in order, within [`DRAIN_BOUND`]. Probes are answered until the work has ended.
    async fn stop(&self, pipelines: Vec<JoinHandle<()>>) {
        let bound = Instant::now() + DRAIN_BOUND;
        tracing::info!("stopping");
        self.readiness.drain();
        told(self.notifier.stopping());
        self.tasks.stop();
        if tokio::time::timeout(STOP_BOUND, join_all(pipelines)).await.is_err() {
            tracing::error!(
                "the work did not end in time; what is left of it ends with the process"
            );
        }
        self.closing.cancel();
        self.desks.close();
        let stragglers = self.tasks.drain(bound.saturating_duration_since(Instant::now())).await;
        if !stragglers.is_empty() {
            tracing::error!(
                tasks = stragglers.join(","),
                "these did not end in time; the process ends without them"
            );
        }
    }
}

/// Keys whose change a running process cannot take in.
fn fixed(started_with: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("environment", started_with.environment != new.environment),
        ("development.ephemeral", started_with.ephemeral != new.ephemeral),
        ("database", started_with.databases != new.databases),
        ("http", started_with.http != new.http),
        ("log.format", started_with.log.format != new.log.format),
        ("health.stale_after", started_with.health.stale_after != new.health.stale_after),
        ("jobs.max_concurrent", started_with.jobs.max_concurrent != new.jobs.max_concurrent),
        ("jobs.lease", started_with.jobs.lease != new.jobs.lease),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// Brings the throw-away server back when it has ended by itself: nobody else would. Its data is
/// still there.
async fn tend(server: Option<&mut Ephemeral>) -> Infallible {
    let Some(server) = server else { return std::future::pending().await };
    let mut pause = Backoff::connect();
    loop {
        server.ended().await;
        tracing::error!("the throw-away server ended by itself; starting it again on its data");
        tokio::time::sleep(pause.next_delay()).await;
        match server.restart().await {
            Ok(()) => tracing::info!("the throw-away server is up again, with its data"),
            Err(error) => tracing::error!(error = %error, "the throw-away server does not start"),
        }
    }
}

/// Returns when the process is told to stop before there is anything to reload.
async fn told_to_stop(signals: &mut mpsc::Receiver<Signal>) {
    while let Some(Signal::Reload) = signals.recv().await {}
}

/// Names this process among all that ever run.
pub fn instance() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let random = Uuid::new_v4().simple().to_string();
    format!("{host}/{}/{}", std::process::id(), &random[..8])
}

fn internal(what: &str, error: impl std::fmt::Display) -> Fatal {
    Fatal::Internal(format!("{what}: {error}"))
}

/// systemd not listening is no reason to stop.
fn told(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = %error, "systemd was not told");
    }
}
