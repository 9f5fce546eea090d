//! Reaching a server: from the configuration to a connection that is ready for statements.
//!
//! ```text
//! settings     secrets are read anew, the URL is parsed                 (conninfo, supabase)
//! each host    in order, or shuffled; bounded by connect_timeout
//!   lookup       each address gets its share of what is left of the bound
//!   dial         TCP or Unix socket, the request for TLS, the handshake  (dial, tls)
//!   log in       by tokio-postgres, on our stream                        (login, wire)
//!   settle       what stands between, session settings, which server     (pooler, login)
//! ```
//! A host that cannot be reached, is full, starting up, or is not the kind of server that
//! `target_session_attrs` wants is followed by the next. One that refuses our credentials, database or
//! address is not, as with libpq: it would say the same again, and count as one more failed login.
//! The error tells every host that was tried; its kind is the most telling one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::conn::Conn;
use super::dial::{Address, Encryption, Place, Progress, lookup};
use super::error::{Error, Kind};
use super::failure;
use super::pooler::Between;
use super::supabase;
use super::tls::Tls;
use super::{Purpose, Route};
use crate::config;
use crate::config::Secret;
use crate::config::conninfo::{ConnInfo, Host, SslMode, TargetSessionAttrs, passfile};
use crate::lifecycle::Tasks;
use crate::telemetry::Metrics;

/// How long each step of a connect took. Zero where the step was not needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ConnectTimings {
    /// The lookup of the host's name.
    pub dns: Duration,
    /// Until the TCP connection (or Unix socket) stood.
    pub tcp: Duration,
    /// Asking for TLS, and the handshake.
    pub tls: Duration,
    /// From the startup packet to the first ReadyForQuery.
    pub auth: Duration,
}

/// How one database is reached.
pub struct Server {
    pub(super) name: String,
    pub(super) config: config::Database,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
    /// Set where the address is a job's own login: its `application_name`.
    own_login: Option<String>,
    /// What was found to stand between, per route.
    between: Mutex<BTreeMap<Route, Between>>,
}

/// What all hosts of one connect have in common.
pub(super) struct Plan {
    pub(super) info: ConnInfo,
    pub(super) purpose: Purpose,
    pub(super) route: Route,
    /// What the server must be, in this pass.
    wanted: TargetSessionAttrs,
    tls: Option<Arc<Tls>>,
    /// For one host.
    bound: Duration,
}

impl Server {
    /// Reads no secret and opens nothing.
    pub fn new(
        name: &str,
        config: config::Database,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Arc<Server> {
        let name = name.to_owned();
        Arc::new(Server {
            name,
            config,
            tasks,
            metrics,
            own_login: None,
            between: Mutex::default(),
        })
    }

    /// The same under another address with credentials of its own; its sessions bear the job's name.
    pub(super) fn with_login(&self, login: &config::SecretSource, job: &str) -> Arc<Server> {
        let config = config::Database {
            url: Some(login.clone()),
            direct_url: None,
            password: None,
            supabase: None,
            // It says what stands before `url`; this one is looked at for itself.
            pooler: config::Pooler::Auto,
            ..self.config.clone()
        };
        let (tasks, metrics) = (self.tasks.clone(), Arc::clone(&self.metrics));
        let own_login = Some(job.to_owned());
        Arc::new(Server {
            name: self.name.clone(),
            config,
            tasks,
            metrics,
            own_login,
            between: Mutex::default(),
        })
    }

    /// For one statement on the server, where nothing else is said.
    pub(super) fn statement_timeout_ms(&self) -> u128 {
        self.config.query_timeout.as_millis().clamp(1, i32::MAX as u128)
    }

    /// Opens a connection, within `connect_timeout` per host.
    ///
    /// # Errors
    /// With the kind and, where one was met, the server's own report; the text names each host tried.
    pub async fn connect(self: &Arc<Self>, purpose: Purpose, route: Route) -> Result<Conn, Error> {
        let outcome = self.connect_any(purpose, route).await;
        match &outcome {
            // The gauges tell of the daemon's own way there.
            Ok(_) if self.own_login.is_some() => {}
            Ok(conn) => {
                let ConnectTimings { dns, tcp, tls, auth } = conn.timings();
                for (step, took) in [("dns", dns), ("tcp", tcp), ("tls", tls), ("auth", auth)] {
                    self.metrics
                        .connect_seconds
                        .with_label_values(&[&self.name, step])
                        .set(took.as_secs_f64());
                }
            }
            Err(error) => self.count_error(purpose, error.kind()),
        }
        outcome
    }

    pub(super) fn count_error(&self, purpose: Purpose, kind: Kind) {
        self.metrics
            .statement_errors_total
            .with_label_values(&[self.name.as_str(), purpose.as_str(), kind.as_str()])
            .inc();
    }

    /// What the configuration says to stand between. It speaks of `url`; `direct_url` is there to go
    /// past that, and is looked at for itself.
    pub(super) fn pooler(&self, route: Route) -> config::Pooler {
        match self.effective(route) {
            Route::Pooled => self.config.pooler,
            Route::Direct => config::Pooler::Auto,
        }
    }

    /// Without a `direct_url` both routes are one.
    fn effective(&self, route: Route) -> Route {
        if self.config.direct_url.is_some() { route } else { Route::Pooled }
    }

    /// What is known to stand between on this route.
    pub(super) fn between(&self, route: Route) -> Option<Between> {
        self.between
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&self.effective(route))
            .copied()
    }

    pub(super) fn remember_between(&self, route: Route, between: Between) {
        let route = self.effective(route);
        let before =
            self.between.lock().unwrap_or_else(PoisonError::into_inner).insert(route, between);
        if before != Some(between) {
            let address = match route {
                Route::Pooled => "url",
                Route::Direct => "direct_url",
            };
            tracing::info!(
                database = self.name,
                address,
                pooler = between.as_str(),
                "looked for a pooler"
            );
        }
    }

    async fn connect_any(self: &Arc<Self>, purpose: Purpose, route: Route) -> Result<Conn, Error> {
        let info = self.settings(route).await?;
        let bound = info.connect_timeout.unwrap_or(self.config.connect_timeout);
        let encrypts = info.tls.mode != SslMode::Disable
            && info.hosts.iter().any(|h| matches!(h, Host::Tcp { .. }));
        let tls = if encrypts {
            let tls = timeout(bound, Tls::prepare(&info.tls)).await;
            Some(Arc::new(tls.unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::Config,
                    format!("reading the certificate files took longer than {bound:?}"),
                ))
            })?))
        } else {
            None
        };
        let mut hosts = info.hosts.clone();
        if info.load_balance {
            fastrand::shuffle(&mut hosts);
        }
        let passes = match info.target_session_attrs {
            TargetSessionAttrs::PreferStandby => {
                vec![TargetSessionAttrs::Standby, TargetSessionAttrs::Any]
            }
            one => vec![one],
        };
        let mut plan = Plan { info, purpose, route, wanted: TargetSessionAttrs::Any, tls, bound };
        let mut failures = Vec::new();
        for wanted in passes {
            plan.wanted = wanted;
            failures.clear();
            for host in &hosts {
                match self.try_host(&plan, host).await {
                    Ok(conn) => return Ok(conn),
                    Err(error) => {
                        let last = failure::ends_the_search(error.kind());
                        failures.push((host, error));
                        if last {
                            return Err(failure::summary(failures));
                        }
                    }
                }
            }
        }
        Err(failure::summary(failures))
    }

    /// Opens a connection to where another one already goes.
    pub(super) async fn connect_to(
        self: &Arc<Self>,
        address: &Address,
        purpose: Purpose,
        route: Route,
    ) -> Result<Conn, Error> {
        let info = self.settings(route).await?;
        let bound = info.connect_timeout.unwrap_or(self.config.connect_timeout);
        let host = match &address.place {
            Place::Tcp(addr) => {
                Host::Tcp { name: address.name.clone(), addr: Some(addr.ip()), port: addr.port() }
            }
            Place::Unix(path) => info
                .hosts
                .iter()
                .find(|host| path.to_str() == Some(host.to_string().as_str()))
                .cloned()
                .ok_or_else(|| Error::new(Kind::Config, "the socket is no longer configured"))?,
        };
        let tls = address.tls.clone();
        let plan = Plan { info, purpose, route, wanted: TargetSessionAttrs::Any, tls, bound };
        let password = self.password(&plan, &host).await?;
        let mut progress = Progress::default();
        let opened =
            timeout(bound, self.open(&plan, address.clone(), password.as_ref(), &mut progress))
                .await;
        let opened = opened.unwrap_or_else(|_| Err(failure::stuck(&progress, bound)));
        opened.map_err(|error| error.context(host).context("connect"))
    }

    /// The hosts of the address, as text: a name, an address, or the folder of a Unix socket.
    pub async fn hosts(&self) -> Result<Vec<String>, Error> {
        let info = self.settings(Route::Pooled).await?;
        Ok(info
            .hosts
            .iter()
            .map(|host| match host {
                Host::Tcp { name, addr, .. } => {
                    addr.map_or_else(|| name.clone(), |addr| addr.to_string())
                }
                Host::Unix { .. } => "/".to_owned(),
            })
            .collect())
    }

    /// The settings of a route, its secrets read now.
    async fn settings(&self, route: Route) -> Result<ConnInfo, Error> {
        let config = &self.config;
        let (key, source) = match (route, &config.direct_url) {
            (Route::Direct, Some(direct)) => ("direct_url", Some(direct)),
            _ if self.own_login.is_some() => ("login_url", config.url.as_ref()),
            _ => ("url", config.url.as_ref()),
        };
        let password = self.load("password", config.password.as_ref()).await?;
        let mut info = match (self.load(key, source).await?, &config.supabase) {
            (Some(url), _) => ConnInfo::parse(url.expose())
                .map_err(|error| Error::with_source(Kind::Config, key, error))?,
            (None, Some(project)) => {
                let own = self.load("supabase.db_password", project.db_password.as_ref()).await?;
                return supabase::conninfo(&project.url, own.or(password))
                    .map_err(|error| Error::with_source(Kind::Config, "supabase.url", error));
            }
            (None, None) => {
                return Err(Error::new(
                    Kind::Config,
                    "no database is named; set DATABASE_URL (or database.url), or SUPABASE_URL with SUPABASE_DB_PASSWORD",
                ));
            }
        };
        if password.is_some() {
            info.password = password;
        }
        if self.own_login.is_some() {
            info.application_name.clone_from(&self.own_login);
        }
        Ok(info)
    }

    async fn load(
        &self,
        key: &str,
        source: Option<&config::SecretSource>,
    ) -> Result<Option<Secret>, Error> {
        match source {
            None => Ok(None),
            Some(source) => source
                .load(self.config.connect_timeout)
                .await
                .map(Some)
                .map_err(|error| Error::with_source(Kind::Config, key.to_owned(), error)),
        }
    }

    async fn try_host(self: &Arc<Self>, plan: &Plan, host: &Host) -> Result<Conn, Error> {
        let deadline = Instant::now() + plan.bound;
        let mut progress = Progress::default();
        let found = timeout(plan.bound, lookup(host, &plan.info, &mut progress)).await;
        let places = match found {
            Ok(found) => found.map_err(|error| failure::no_route(host, &[], error))?,
            Err(_) => {
                return Err(failure::no_route(host, &[], failure::stuck(&progress, plan.bound)));
            }
        };
        let password = self.password(plan, host).await?;
        let mut worst: Option<Error> = None;
        for (at, place) in places.iter().enumerate() {
            // What earlier addresses did not use is for those that follow.
            let share =
                deadline.saturating_duration_since(Instant::now()) / (places.len() - at) as u32;
            let outcome =
                timeout(share, self.try_place(plan, host, place, password.as_ref(), &mut progress))
                    .await;
            let error = match outcome {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) => error,
                Err(_) => failure::stuck(&progress, share),
            };
            let error = if places.len() > 1 { error.context(place) } else { error };
            if failure::ends_the_search(error.kind()) {
                return Err(error);
            }
            if worst
                .as_ref()
                .is_none_or(|worst| failure::telling(error.kind()) > failure::telling(worst.kind()))
            {
                worst = Some(error);
            }
        }
        let error = worst
            .unwrap_or_else(|| Error::new(Kind::Unreachable, "the host's name has no address"));
        Err(failure::no_route(host, &places, error))
    }

    /// Tries one address, first as `sslmode` prefers, then, where that was refused, the other way.
    async fn try_place(
        self: &Arc<Self>,
        plan: &Plan,
        host: &Host,
        place: &Place,
        password: Option<&Secret>,
        progress: &mut Progress,
    ) -> Result<Conn, Error> {
        let mut refused: Option<Error> = None;
        for encryption in Encryption::plan(plan.info.tls.mode, place) {
            let address = Address {
                place: place.clone(),
                name: match host {
                    Host::Tcp { name, .. } => name.clone(),
                    Host::Unix { .. } => String::new(),
                },
                encryption: *encryption,
                negotiation: plan.info.tls.negotiation,
                tls: plan.tls.clone(),
                keepalive: plan.info.keepalive,
                tcp_user_timeout: plan.info.tcp_user_timeout,
            };
            let error = match self.open(plan, address, password, progress).await {
                Ok(conn) => match plan.wanted_by(&conn) {
                    None => {
                        if let Some(error) = refused.filter(|error| error.kind() == Kind::Tls) {
                            let target = self.name.as_str();
                            tracing::warn!(target, error = %error, "TLS failed, and sslmode allows to do without it: not encrypted");
                        }
                        return Ok(conn);
                    }
                    Some(error) => return Err(error),
                },
                Err(error) => error,
            };
            // Only these can come from the encryption; anything else would be refused again.
            let by_encryption = match encryption {
                Encryption::Offered => {
                    error.kind() == Kind::Tls || (error.kind() == Kind::Hba && progress.encrypted)
                }
                Encryption::Plain => matches!(error.kind(), Kind::Hba | Kind::Tls),
                Encryption::Required => false,
            };
            match refused.take() {
                Some(first) => {
                    return Err(first.context(format!("and again the other way ({error})")));
                }
                None if by_encryption => refused = Some(error),
                None => return Err(error),
            }
        }
        // The plan was not empty, so one was refused.
        Err(refused.unwrap_or_else(|| Error::new(Kind::Tls, "no way to encrypt")))
    }

    async fn password(&self, plan: &Plan, host: &Host) -> Result<Option<Secret>, Error> {
        let info = &plan.info;
        let (None, Some(path)) = (&info.password, &info.passfile) else {
            return Ok(info.password.clone());
        };
        let found =
            timeout(plan.bound, passfile::lookup(path, host, &info.dbname, &info.user)).await;
        let unreadable = || format!("passfile={}", path.display());
        match found {
            Ok(found) => {
                found.map_err(|error| Error::with_source(Kind::Config, unreadable(), error))
            }
            Err(_) => {
                Err(Error::new(Kind::Config, format!("{}: reading it took too long", unreadable())))
            }
        }
    }
}

impl Plan {
    /// What is wrong with the server that was found, if it is not the kind that is wanted.
    fn wanted_by(&self, conn: &Conn) -> Option<Error> {
        let facts = conn.facts;
        let (kind, what) = match self.wanted {
            TargetSessionAttrs::ReadWrite if facts.read_only => {
                (Kind::ReadOnly, "the session is read-only")
            }
            TargetSessionAttrs::Primary if facts.in_recovery => {
                (Kind::InRecovery, "the server is a standby")
            }
            TargetSessionAttrs::ReadOnly if !facts.read_only => {
                (Kind::Unreachable, "the session is not read-only")
            }
            TargetSessionAttrs::Standby if !facts.in_recovery => {
                (Kind::Unreachable, "the server is no standby")
            }
            _ => return None,
        };
        Some(Error::new(kind, format!("{what}, and target_session_attrs wants another")))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.name).finish_non_exhaustive()
    }
}
