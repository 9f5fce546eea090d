//! From an open stream to a connection whose session is as we want it.
//!
//! One simple query after the login asks who answers (process id, read-only, standby) and pins the
//! session's settings, in the same round trip. The settings are applied only if the process that
//! answers is the one that was announced: behind a pooler they might fall upon a stranger's session.

use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::Purpose;
use super::conn::Conn;
use super::connect::{Plan, Server};
use super::dial::{Address, Progress, Ready, Step};
use super::error::{Error, Kind};
use super::pooler::{self, Between};
use super::tls;
use super::wire::{Tracked, Wire};
use crate::config::conninfo::{self, ConnInfo};
use crate::config::{Pooler, Secret};

/// PostgreSQL cuts longer names off.
const APPLICATION_NAME_MAX: usize = 63;

/// What the server said of itself at login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The process that answered.
    pub(super) pid: i32,
    /// When that process began, in microseconds since 1970.
    pub(super) backend_start_us: i64,
    pub(super) read_only: bool,
    pub(super) in_recovery: bool,
}

/// A login: the client, the state of its wire, and the task that drives it.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) wire: Arc<Wire>,
    pub(super) task: AbortHandle,
}

impl Drop for Link {
    /// A connection with something under way is cut, not drained: the server then sees at once (by
    /// `client_connection_check_interval`) that nobody waits, rolls back, and ends the statement.
    fn drop(&mut self) {
        if !self.wire.is_idle() {
            self.task.abort();
        }
    }
}

/// Which settings the session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apply {
    Always,
    /// Only if this process answers.
    IfBackend(i32),
    Never,
}

impl Server {
    /// Dials, logs in, and prepares the session. The caller bounds it.
    pub(super) async fn open(
        self: &Arc<Self>,
        plan: &Plan,
        address: Address,
        password: Option<&Secret>,
        progress: &mut Progress,
    ) -> Result<Conn, Error> {
        let link = self.log_in(plan, &address, password, progress).await?;
        progress.step = Step::Session;
        let announced = link.wire.backend_pid();
        let (between, facts) = match self.pooler(plan.route) {
            Pooler::None => (Between::Nothing, self.greet(&link, Apply::Always).await?),
            Pooler::Session => (Between::SessionPooler, self.greet(&link, Apply::Always).await?),
            Pooler::Transaction => {
                (Between::TransactionPooler, self.greet(&link, Apply::Never).await?)
            }
            Pooler::Auto => {
                let facts = self.greet(&link, Apply::IfBackend(announced)).await?;
                if facts.pid == announced {
                    self.remember_between(plan.route, Between::Nothing);
                    (Between::Nothing, facts)
                } else {
                    let between = self.detect(plan, &address, password, &link, facts).await;
                    match between {
                        Between::TransactionPooler => (between, facts),
                        _ => (between, self.greet(&link, Apply::Always).await?),
                    }
                }
            }
        };
        Ok(Conn::new(Arc::clone(self), plan, link, address, facts, between, progress.timings))
    }

    /// What kind of pooler it is: as remembered, or found out with a second connection.
    async fn detect(
        self: &Arc<Self>,
        plan: &Plan,
        address: &Address,
        password: Option<&Secret>,
        first: &Link,
        facts: Facts,
    ) -> Between {
        if let Some(known) = self.between(plan.route).filter(|known| *known != Between::Nothing) {
            return known;
        }
        let second = async {
            let second = self.log_in(plan, address, password, &mut Progress::default()).await?;
            pooler::detect(&first.client, facts.pid, &second.client).await
        };
        match tokio::time::timeout(pooler::DETECT_BOUND, second).await {
            Ok(Ok(between)) => {
                self.remember_between(plan.route, between);
                between
            }
            // Not known: the one that asks for less. Tried again at the next connect.
            Ok(Err(error)) => {
                tracing::warn!(database = self.name, error = %error, "cannot tell which kind of pooler this is; set `pooler`");
                Between::TransactionPooler
            }
            Err(_) => {
                tracing::warn!(
                    database = self.name,
                    "cannot tell in time which kind of pooler this is; set `pooler`"
                );
                Between::TransactionPooler
            }
        }
    }

    async fn log_in(
        &self,
        plan: &Plan,
        address: &Address,
        password: Option<&Secret>,
        progress: &mut Progress,
    ) -> Result<Link, Error> {
        let stream = address.dial(progress).await?;
        progress.step = Step::Login;
        progress.encrypted = stream.is_encrypted();
        let started = tokio::time::Instant::now();
        let wire = Arc::new(Wire::default());
        let stream = Tracked::new(stream, Arc::clone(&wire));
        let (client, mut connection) = startup(&plan.info, plan.purpose, password)
            .connect_raw(stream, Ready)
            .await
            .map_err(|error| login_error(&plan.info, error))?;
        progress.timings.auth = started.elapsed();
        let sink = Arc::clone(&wire);
        let task = self.tasks.spawn("db-connection", async move {
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
        Ok(Link { client, wire, task: task.abort_handle() })
    }

    async fn greet(&self, link: &Link, apply: Apply) -> Result<Facts, Error> {
        let sql = greeting(apply, self.statement_timeout_ms());
        let answer = link
            .client
            .simple_query(&sql)
            .await
            .map_err(|error| Error::from_pg("prepare the session", error))?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.and_then(|row| {
            Some(Facts {
                pid: row.get(0)?.parse().ok()?,
                read_only: row.get(1)? == "on",
                in_recovery: row.get(2)? == "t",
                backend_start_us: row.get(3).and_then(|start| start.parse().ok()).unwrap_or(0),
            })
        })
        .ok_or_else(|| Error::new(Kind::Protocol, "the server did not say who it is"))
    }
}

/// Every name is qualified, since the search path is not pinned before this ran.
fn greeting(apply: Apply, statement_timeout_ms: u128) -> String {
    let facts = "SELECT pg_catalog.pg_backend_pid(), \
                        pg_catalog.current_setting('transaction_read_only'), \
                        pg_catalog.pg_is_in_recovery(), \
                        (SELECT (EXTRACT(epoch FROM a.backend_start) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 \
                           FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a)";
    let condition = match apply {
        Apply::Never => return facts.to_owned(),
        Apply::Always => String::new(),
        Apply::IfBackend(pid) => {
            format!("AND pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ({pid})")
        }
    };
    format!("{facts}; {}", settings(statement_timeout_ms, &condition))
}

/// The statement that gives a session our settings; also after one was reset.
pub(super) fn settings(statement_timeout_ms: u128, condition: &str) -> String {
    // The check of the client's connection came with PostgreSQL 14, and needs Linux' (or a BSD's)
    // poll(); elsewhere setting it is an error.
    format!(
        "SELECT pg_catalog.set_config(s.name, s.value, false) \
           FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), \
                        ('statement_timeout', '{statement_timeout_ms}'), \
                        ('lock_timeout', '5s'), \
                        ('idle_in_transaction_session_timeout', '60s'), \
                        ('client_connection_check_interval', '1s'), \
                        ('DateStyle', 'ISO, MDY'), \
                        ('IntervalStyle', 'postgres'), \
                        ('TimeZone', 'UTC')) AS s(name, value) \
          WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL \
            AND (s.name OPERATOR(pg_catalog.<>) 'client_connection_check_interval' \
                 OR pg_catalog.version() OPERATOR(pg_catalog.~~) '%linux%') \
            {condition}"
    )
}

fn startup(info: &ConnInfo, purpose: Purpose, password: Option<&Secret>) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(application_name(purpose, info.application_name.as_deref()))
        // Our stream is encrypted already, or is not to be; see `Ready`.
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct)
        .channel_binding(match info.channel_binding {
            conninfo::ChannelBinding::Disable => ChannelBinding::Disable,
            conninfo::ChannelBinding::Prefer => ChannelBinding::Prefer,
            conninfo::ChannelBinding::Require => ChannelBinding::Require,
        });
    if let Some(password) = password {
        config.password(password.expose());
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    config
}

/// `pgsteward/job`, and after it the name from the URL, as long as PostgreSQL keeps it.
fn application_name(purpose: Purpose, own: Option<&str>) -> String {
    let mut name = format!("pgsteward/{}", purpose.as_str());
    if let Some(own) = own {
        name.push(' ');
        name.push_str(own);
    }
    name.truncate(name.floor_char_boundary(APPLICATION_NAME_MAX));
    name
}

/// Names what happened during a login, where tokio-postgres says little.
fn login_error(info: &ConnInfo, error: tokio_postgres::Error) -> Error {
    if error.as_db_error().is_some() {
        let error = Error::from_pg("log in", error);
        return match (&info.options, error.kind()) {
            (Some(_), Kind::Config) => error.context(
                "a pooler refuses the setting options; remove it, or set ignore_startup_parameters = options in PgBouncer",
            ),
            _ => error,
        };
    }
    if tls::is_tls(&error) {
        return Error::from_pg(
            "the server ended the TLS session at login; if it wants a client certificate, check sslcert and sslkey",
            error,
        )
        .with_kind(Kind::Tls);
    }
    // Its own kinds are private; these texts stand for them.
    match error.to_string().as_str() {
        text if text.starts_with("invalid configuration") => {
            Error::from_pg("the server asks for a password, and none is configured", error)
                .with_kind(Kind::Auth)
        }
        text if text.starts_with("authentication error") => {
            Error::from_pg("log in", error).with_kind(Kind::Auth)
        }
        _ => {
            let error = Error::from_pg(
                "the server ended the connection at login without saying why",
                error,
            );
            match error.kind() {
                Kind::ConnectionLost | Kind::Timeout => error.with_kind(Kind::Unreachable),
                _ => error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_names_are_cut_between_characters() {
        assert_eq!(application_name(Purpose::Job, None), "pgsteward/job");
        assert_eq!(application_name(Purpose::Api, Some("shop")), "pgsteward/api shop");
        let long = application_name(Purpose::Api, Some(&"ü".repeat(60)));
        assert_eq!(long.len(), 62, "63 would cut a character in two: {long}");
    }

    #[test]
    fn settings_never_reach_a_stranger() {
        assert!(!greeting(Apply::Never, 1).contains("set_config"));
        assert!(greeting(Apply::IfBackend(-5), 1).ends_with("OPERATOR(pg_catalog.=) (-5)"));
    }
}
