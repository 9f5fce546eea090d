//! Placeholder until the real door stands: plain TCP and Unix sockets by tokio-postgres' own parser.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{AsyncMessage, NoTls};

use super::conn::Conn;
use super::error::{Error, Kind};
use super::wire::Wire;
use super::{Purpose, Route};
use crate::config;
use crate::lifecycle::Tasks;
use crate::telemetry::Metrics;

/// How long each step of a connect took.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct ConnectTimings {
    pub dns: Duration,
    pub tcp: Duration,
    pub tls: Duration,
    pub auth: Duration,
}

/// How one database is reached.
pub struct Server {
    name: String,
    config: config::Database,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Reads no secret and opens nothing.
    pub fn new(name: &str, config: config::Database, tasks: Tasks, metrics: Arc<Metrics>) -> Arc<Server> {
        Arc::new(Server { name: name.to_owned(), config, tasks, metrics })
    }

    /// Opens a connection, within `connect_timeout` per host.
    pub async fn connect(self: &Arc<Self>, purpose: Purpose, route: Route) -> Result<Conn, Error> {
        let source = match route {
            Route::Direct => self.config.direct_url.as_ref().or(self.config.url.as_ref()),
            Route::Pooled => self.config.url.as_ref(),
        };
        let Some(config::SecretSource::Inline(url)) = source else {
            return Err(Error::new(Kind::Config, "no url"));
        };
        let mut config: tokio_postgres::Config = url.expose().parse().map_err(|e| Error::from_pg("parse url", e))?;
        config.application_name(format!("pgsteward/{}", purpose.as_str()));
        config.connect_timeout(self.config.connect_timeout);
        let (client, mut connection) = config.connect(NoTls).await.map_err(|e| Error::from_pg("connect", e))?;
        let wire = Arc::new(Wire::default());
        let sink = Arc::clone(&wire);
        self.tasks.spawn("db-connection", async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => sink.push_notice(notice.to_string()),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(error = %Error::from_pg("connection ended", error));
                        break;
                    }
                }
            }
        });
        Ok(Conn { client, wire, server: Arc::clone(self), purpose, route, session_state: true })
    }
}
