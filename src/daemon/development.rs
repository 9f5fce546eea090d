//! The development server: started if configured, or in place of a local server that does not
//! answer while `environment` is `development`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Fatal;
use crate::config::{Config, Database as DatabaseConfig, Environment, SecretSource};
use crate::db::ephemeral::{Ephemeral, Fallback, Options, PATIENCE, Situation, fallback};
use crate::db::retry::Backoff;
use crate::db::{Database, Purpose, Route};
use crate::health::Readiness;
use crate::lifecycle::Tasks;
use crate::telemetry::Metrics;

/// Pause between attempts to connect to the configured server.
const CONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// Starts a development server if one is needed, and points the configured database to it.
pub(super) async fn start(
    config: &mut Config,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> Result<Option<Ephemeral>, Fatal> {
    if !config.development.ephemeral {
        if !falls_back(config, tasks, metrics, readiness).await {
            return Ok(None);
        }
        tracing::warn!(
            "the configured server did not answer within {} s and ENVIRONMENT is development: \
             using a development server until the next start",
            PATIENCE.as_secs()
        );
    }
    let server = Ephemeral::start(Options::from_env()).await?;
    // There is exactly one database: the configuration requires it for `development.ephemeral`, and
    // `falls_back` checks it.
    for database in config.databases.values_mut() {
        *database = DatabaseConfig {
            url: Some(SecretSource::Inline(server.url())),
            direct_url: None,
            password: None,
            supabase: None,
            ..std::mem::take(database)
        };
    }
    Ok(Some(server))
}

/// Tries to connect to the configured server until [`fallback`] decides. This happens at the start
/// only: a server that goes away later is an outage.
async fn falls_back(
    config: &Config,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> bool {
    let mut databases = config.databases.iter();
    let (Some((name, database)), None) = (databases.next(), databases.next()) else {
        return false;
    };
    if config.environment != Environment::Development {
        return false;
    }
    let started = Instant::now();
    let db = Database::new(name, database, 1, tasks, metrics);
    loop {
        let hosts = db.server().hosts().await.unwrap_or_default();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let situation = Situation {
            environment: config.environment,
            ever_connected: false,
            hosts: &hosts,
            waited: started.elapsed(),
        };
        let left = match fallback(&situation) {
            Fallback::Never => return false,
            Fallback::Now => return true,
            Fallback::In(left) => left,
        };
        // The timeout is for a server that accepts the connection and stays silent.
        match tokio::time::timeout(left, db.connect(Purpose::Check, Route::Pooled)).await {
            Ok(Ok(_)) => return false,
            Ok(Err(error)) => readiness.connect_failed(name, error.kind().as_str()),
            Err(_) => continue,
        }
        tokio::time::sleep(left.min(CONNECT_INTERVAL)).await;
    }
}

/// Restarts the development server on its data whenever it exits. Nobody else would.
pub(super) async fn supervise_dev_server(server: Option<&mut Ephemeral>) -> Infallible {
    let Some(server) = server else { return std::future::pending().await };
    let mut backoff = Backoff::connect();
    loop {
        server.ended().await;
        tracing::error!("development server exited, restarting it");
        tokio::time::sleep(backoff.next_delay()).await;
        match server.restart().await {
            Ok(()) => tracing::info!("development server restarted"),
            Err(error) => tracing::error!(error = %error, "cannot restart the development server"),
        }
    }
}
