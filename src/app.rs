//! The only wiring: from a configuration to a running daemon, and back.
//!
//! # Order
//! Start: signals ─► listener (answers `/livez` from here on) ─► throw-away server, if any ─► one
//! pipeline per database ─► ticker ─► `READY=1` once every database is migrated.
//! Stop: `/readyz` says so ─► no new fires ─► runs stop at their next batch or are cancelled on the
//! server ─► requests drain ─► leases are given up ─► pools close ─► the throw-away server ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::load::Loaded;
use crate::config::{self, Config, Problems, SecretSource};
use crate::db::ephemeral::{Ephemeral, EphemeralError, Fallback, Options, Situation, fallback};
use crate::db::{Database, Purpose, Route};
use crate::health::{Board, Readiness};
use crate::http::{self, BindError};
use crate::lifecycle::Tasks;
use crate::lifecycle::notify::Notifier;
use crate::lifecycle::signals::{Signal, Signals};
use crate::schedule::Standing;
use crate::schedule::pipeline::{Parts, Pipeline};
use crate::schedule::ticker::Ticker;
use crate::telemetry::Metrics;
use crate::telemetry::log::Logs;

/// A round may meet a server that accepts and stays silent, step after step, each with its bound.
const PIPELINE_STALE: Duration = Duration::from_secs(90);
/// The whole stop; systemd's `TimeoutStopSec` and the Pod's grace period are longer.
const DRAIN_BOUND: Duration = Duration::from_secs(25);

/// What ends the process by itself.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("{0}")]
    Listen(#[from] BindError),
    #[error("throw-away server: {0}")]
    Ephemeral(#[from] EphemeralError),
    #[error("migrating failed, and migrations.on_failure is \"exit\": {0}")]
    Migration(String),
    #[error("{0}")]
    Internal(String),
}

/// Runs the daemon until a signal ends it. `reload` reads the configuration again on SIGHUP.
pub async fn run(loaded: Loaded, logs: Logs, reload: impl Fn() -> Result<Loaded, Problems>) -> Result<(), Fatal> {
    let begun = Instant::now();
    for warning in &loaded.warnings {
        tracing::warn!(warning, "configuration");
    }
    let config = loaded.config;
    let (_signals, mut signals) = Signals::listen().map_err(|error| internal("listen for signals", error))?;
    let notifier = Notifier::new(|name| std::env::var_os(name)).unwrap_or_else(|error| {
        tracing::warn!(error = %error, "systemd cannot be told anything");
        Notifier::none()
    });
    let metrics = Arc::new(Metrics::new().map_err(|error| internal("register metrics", error))?);
    metrics.config_reload_time.set(Utc::now().timestamp() as f64);

    let listener = http::bind(config.http.listen).await?;
    let address = listener.local_addr().map_err(|error| internal("read the listener's address", error))?;
    let tasks = Tasks::new();
    let targets = targets(&config);
    let boards: BTreeMap<String, Arc<Board>> =
        targets.iter().map(|name| (name.clone(), Arc::new(Board::new(name, config.health.stale_after)))).collect();
    let readiness = Arc::new(Readiness::new(targets.iter().map(String::as_str), PIPELINE_STALE));
    let state =
        http::State { boards: boards.clone(), readiness: Arc::clone(&readiness), metrics: Arc::clone(&metrics) };
    let closing = CancellationToken::new();
    tasks.spawn("http", http::serve(listener, http::App::new(state, &config.http), tasks.clone(), closing.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), address = %address, mode = ?config.mode,
        databases = targets.join(","), "pgsteward starts");

    let mut daemon = Daemon { logs, notifier, metrics, readiness, tasks, closing, begun, announced: false };
    let outcome = daemon.serve(config, boards, &mut signals, reload).await;
    daemon.stop().await;
    outcome
}

/// The names of the databases; a throw-away server is `main`.
fn targets(config: &Config) -> Vec<String> {
    if config.ephemeral || config.databases.is_empty() {
        return vec!["main".to_owned()];
    }
    config.databases.keys().cloned().collect()
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
    announced: bool,
}

impl Daemon {
    /// From the listener to the signal that ends it.
    async fn serve(
        &mut self,
        mut config: Config,
        boards: BTreeMap<String, Arc<Board>>,
        signals: &mut mpsc::Receiver<Signal>,
        reload: impl Fn() -> Result<Loaded, Problems>,
    ) -> Result<(), Fatal> {
        let ephemeral = tokio::select! {
            started = self.development_server(&mut config) => started?,
            Some(Signal::Stop) = signals.recv() => return Ok(()),
        };
        let config = Arc::new(config);
        let (publish, configuration) = watch::channel(Arc::clone(&config));
        let (fatal, mut fatals) = mpsc::channel(1);
        let wake = Arc::new(Notify::new());
        let ticker = Ticker::start(Arc::clone(&wake), self.tasks.stopping())
            .await
            .map_err(|error| internal("start the ticker", error))?;
        for (name, database) in &config.databases {
            let Some(board) = boards.get(name) else { continue };
            let pipeline = Pipeline::new(Parts {
                db: Database::new(name, database, config.jobs.max_concurrent, &self.tasks, &self.metrics),
                config: configuration.clone(),
                board: Arc::clone(board),
                readiness: Arc::clone(&self.readiness),
                metrics: Arc::clone(&self.metrics),
                standing: Arc::new(Standing::default()),
                tasks: self.tasks.clone(),
                wake: Arc::clone(&wake),
                instance: instance(),
                fatal: fatal.clone(),
            });
            self.tasks.spawn("pipeline", pipeline.run());
        }
        let outcome = loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => self.reload(&reload, &publish),
                    Some(Signal::Stop) | None => break Ok(()),
                },
                Some(message) = fatals.recv() => break Err(Fatal::Migration(message)),
                () = tokio::time::sleep(self.pulse()) => self.tell_systemd(),
            }
        };
        self.begin_stop();
        ticker.stop().await;
        self.drain().await;
        if let Some(server) = ephemeral {
            server.stop().await;
        }
        outcome
    }

    /// How often systemd is told: often until ready, then half of the watchdog's interval.
    fn pulse(&self) -> Duration {
        if !self.announced {
            return Duration::from_millis(20);
        }
        self.notifier.watchdog_interval().map_or(Duration::from_secs(60), |interval| interval / 2)
    }

    fn tell_systemd(&mut self) {
        let now = Instant::now();
        if !self.announced && self.readiness.ready(now) {
            self.announced = true;
            let took_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(took_ms, "ready");
            told(self.notifier.ready("keeping house"));
        }
        if self.readiness.alive(now) {
            told(self.notifier.watchdog());
        } else {
            tracing::error!("the pipeline does not advance; the watchdog is not fed");
        }
    }

    /// An invalid file changes nothing, and says so.
    fn reload(&self, read: &impl Fn() -> Result<Loaded, Problems>, publish: &watch::Sender<Arc<Config>>) {
        told(self.notifier.reloading());
        match read() {
            Ok(loaded) => {
                self.adopt(loaded, publish);
                self.metrics.config_reload_ok.set(1);
                self.metrics.config_reload_time.set(Utc::now().timestamp() as f64);
            }
            Err(problems) => {
                self.metrics.config_reload_ok.set(0);
                tracing::error!(problems = %problems, "the new configuration is invalid; the old one stays");
            }
        }
        told(self.notifier.ready("keeping house"));
    }

    fn adopt(&self, loaded: Loaded, publish: &watch::Sender<Arc<Config>>) {
        for warning in &loaded.warnings {
            tracing::warn!(warning, "configuration");
        }
        let current = Arc::clone(&publish.borrow());
        let mut config = loaded.config;
        if let Err(error) = self.logs.set_level(config.log.level) {
            tracing::error!(error = %error, "the log level stays");
        }
        let fixed = [
            ("http", format!("{:?}", config.http) != format!("{:?}", current.http)),
            ("database", config.databases.len() != current.databases.len() && !current.ephemeral),
            ("jobs.max_concurrent", config.jobs.max_concurrent != current.jobs.max_concurrent),
            ("jobs.lease", config.jobs.lease != current.jobs.lease),
        ];
        for (key, _) in fixed.into_iter().filter(|(_, changed)| *changed) {
            tracing::warn!(key, "this change takes effect at the next start");
        }
        config.databases = current.databases.clone();
        // Receivers live as long as the pipelines; without any there is nobody to tell.
        let _ = publish.send(Arc::new(config));
        tracing::info!("configuration reloaded");
    }

    /// A throw-away server where one is asked for, or where development falls back to one.
    async fn development_server(&self, config: &mut Config) -> Result<Option<Ephemeral>, Fatal> {
        let wanted = config.ephemeral || config.databases.is_empty() || self.falls_back(config).await;
        if !wanted {
            return Ok(None);
        }
        let server = Ephemeral::start(Options::from_env()).await?;
        let url = Some(SecretSource::Inline(server.url()));
        let base = config.databases.remove("main").unwrap_or_default();
        let database = config::Database { url, direct_url: None, password: None, supabase: None, ..base };
        config.databases = BTreeMap::from([("main".to_owned(), database)]);
        Ok(Some(server))
    }

    /// Tries the configured server for a while; see [`fallback`]. Only at the start: a server that was
    /// there and is gone is an outage.
    async fn falls_back(&self, config: &Config) -> bool {
        let mut databases = config.databases.iter();
        let (Some((name, database)), None) = (databases.next(), databases.next()) else { return false };
        let begun = Instant::now();
        let db = Database::new(name, database, 1, &self.tasks, &self.metrics);
        loop {
            let hosts = db.server().hosts().await.unwrap_or_default();
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let mut situation = Situation {
                environment: config.environment,
                ever_connected: false,
                hosts: &hosts,
                waited: begun.elapsed(),
            };
            match fallback(&situation) {
                Fallback::Never => return false,
                Fallback::Now => return true,
                Fallback::In(left) => {
                    situation.ever_connected = db.connect(Purpose::Check, Route::Pooled).await.is_ok();
                    if situation.ever_connected {
                        return false;
                    }
                    tokio::time::sleep(left.min(Duration::from_millis(500))).await;
                }
            }
        }
    }

    fn begin_stop(&self) {
        tracing::info!("stopping");
        self.readiness.drain();
        told(self.notifier.stopping());
        self.tasks.stop();
        self.closing.cancel();
    }

    async fn drain(&self) {
        let stragglers = self.tasks.drain(DRAIN_BOUND).await;
        if !stragglers.is_empty() {
            tracing::error!(tasks = stragglers.join(","), "these did not end in time; the process ends without them");
        }
    }

    /// Whatever way `serve` ended.
    async fn stop(&self) {
        if !self.tasks.stopping().is_cancelled() {
            self.begin_stop();
            self.drain().await;
        }
        tracing::info!("stopped");
    }
}

/// Names this process among all that ever run.
fn instance() -> String {
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
