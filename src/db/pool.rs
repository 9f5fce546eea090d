//! The fixed budget of connections: one bb8 pool per purpose.
//!
//! bb8 hides why it could not connect: with the server down `get()` waits out its whole time-out and
//! says "timed out". So the error sink keeps the last connect error, and [`Database::acquire`] ends
//! with it as soon as one arrives.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use futures_util::FutureExt;
use tokio::sync::watch;

use super::conn::Conn;
use super::connect::Server;
use super::error::{Error, Kind};
use super::{Purpose, Route};
use crate::config;
use crate::lifecycle::Tasks;
use crate::telemetry::Metrics;

/// A connection on loan; dropping it gives it back.
pub type Pooled<'a> = PooledConnection<'a, Manager>;

/// A job's connection; see [`Database::acquire_job`].
#[derive(Debug)]
pub enum JobConn {
    /// Given back when it is dropped.
    Pooled(Pooled<'static>),
    /// Closed when it is dropped.
    Own(Conn),
}

impl Deref for JobConn {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        match self {
            JobConn::Pooled(conn) => conn,
            JobConn::Own(conn) => conn,
        }
    }
}

impl DerefMut for JobConn {
    fn deref_mut(&mut self) -> &mut Conn {
        match self {
            JobConn::Pooled(conn) => conn,
            JobConn::Own(conn) => conn,
        }
    }
}

/// How many connections a purpose holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolStats {
    pub open: u32,
    pub idle: u32,
    pub max: u32,
}

/// One database, its address and its pools.
pub struct Database {
    name: String,
    server: Arc<Server>,
    config: config::Database,
    jobs_max: u32,
    metrics: Arc<Metrics>,
    /// Whether callers of the API get no connection; see [`Database::set_callers_refused`].
    callers_refused: AtomicBool,
    /// Made when first asked for: a pool that nobody uses holds no connection, whatever its least.
    lanes: BTreeMap<Purpose, OnceLock<Lane>>,
}

struct Lane {
    pool: Pool<Manager>,
    errors: watch::Receiver<u64>,
    last: Arc<Mutex<Option<Error>>>,
    /// Whether what comes back is closed instead of kept.
    closing: Arc<AtomicBool>,
}

impl Database {
    /// Opens nothing yet: a server that is down is a state, not a failure to start.
    pub fn new(
        name: &str,
        config: &config::Database,
        jobs_max: u32,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Arc<Database> {
        Arc::new(Database {
            name: name.to_owned(),
            server: Server::new(name, config.clone(), tasks.clone(), Arc::clone(metrics)),
            config: config.clone(),
            jobs_max,
            metrics: Arc::clone(metrics),
            callers_refused: AtomicBool::new(false),
            lanes: Purpose::ALL.into_iter().map(|purpose| (purpose, OnceLock::new())).collect(),
        })
    }

    /// The process's tasks, for what works on the database's behalf.
    pub fn tasks(&self) -> &Tasks {
        &self.server.tasks
    }

    /// The least and the most connections of a purpose: together, the connection budget.
    fn limits(&self, purpose: Purpose) -> (u32, u32) {
        match purpose {
            Purpose::Observe | Purpose::Control => (0, 1),
            Purpose::Job => (0, self.jobs_max),
            Purpose::Api => (self.config.pool_min_size, self.config.pool_max_size),
            Purpose::Migrate | Purpose::Check => (0, 2),
        }
    }

    /// The name it has in the configuration, in metrics and in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is reached.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The bound for API and probe statements.
    pub fn query_timeout(&self) -> Duration {
        self.config.query_timeout
    }

    /// Refuses connections for callers of the API, or permits them: refused until the schema
    /// `steward` is known to be trusted.
    pub fn set_callers_refused(&self, refused: bool) {
        self.callers_refused.store(refused, Ordering::Relaxed);
    }

    /// Takes a connection, or the reason why there is none, within the pool's bound.
    pub async fn acquire(&self, purpose: Purpose) -> Result<Pooled<'static>, Error> {
        // Every purpose has a lane: `new` made a place for each.
        let Some(lane) = self.lanes.get(&purpose) else {
            return Err(Error::new(Kind::Config, "no pool for this purpose"));
        };
        let (min, max) = self.limits(purpose);
        let conn = lane
            .get_or_init(|| Lane::new(&self.server, purpose, min, max, &self.config))
            .acquire()
            .await?;
        // Only now: where the server is away, that is the reason to tell.
        if purpose == Purpose::Api && self.callers_refused.load(Ordering::Relaxed) {
            let reason = "the schema steward is not checked yet or not trusted; the log says why";
            return Err(Error::new(Kind::Permission, reason));
        }
        Ok(conn)
    }

    /// Closes what idles for this purpose: it will not be needed for long, and others may want the
    /// server's slots before the pool's own time-out.
    pub fn close_idle(&self, purpose: Purpose) {
        if let Some(lane) = self.lanes.get(&purpose).and_then(OnceLock::get) {
            lane.close_idle();
        }
    }

    /// Opens a connection outside the pools: for the fresh connect that measures each step, and for
    /// the command line.
    pub async fn connect(&self, purpose: Purpose, route: Route) -> Result<Conn, Error> {
        self.server.connect(purpose, route).await
    }

    /// Takes a connection for a job: of the pool, or, where it has a login of its own, one that is opened
    /// for it and closed after it. That stands outside the budget, and there is one per lane at most.
    pub async fn acquire_job(
        &self,
        login: Option<&config::SecretSource>,
        job: &str,
    ) -> Result<JobConn, Error> {
        match login {
            None => Ok(JobConn::Pooled(self.acquire(Purpose::Job).await?)),
            Some(login) => {
                let server = self.server.with_login(login, job);
                let conn = server.connect(Purpose::Job, Route::Direct).await;
                Ok(JobConn::Own(conn.map_err(|error| error.context("the job's own login"))?))
            }
        }
    }

    /// How many connections each purpose holds.
    pub fn stats(&self) -> BTreeMap<Purpose, PoolStats> {
        self.lanes
            .iter()
            .map(|(purpose, lane)| {
                let (_, max) = self.limits(*purpose);
                let stats = lane.get().map_or(PoolStats { open: 0, idle: 0, max }, |lane| {
                    let state = lane.pool.state();
                    PoolStats { open: state.connections, idle: state.idle_connections, max }
                });
                (*purpose, stats)
            })
            .collect()
    }

    /// Sets the gauges of the pools' use.
    pub fn export(&self) {
        for (purpose, stats) in self.stats() {
            let labels = [self.name.as_str(), purpose.as_str()];
            let state = |state| {
                self.metrics.pool_connections.with_label_values(&[labels[0], labels[1], state])
            };
            state("idle").set(i64::from(stats.idle));
            state("busy").set(i64::from(stats.open.saturating_sub(stats.idle)));
            self.metrics.pool_max_connections.with_label_values(&labels).set(i64::from(stats.max));
        }
    }
}

impl Lane {
    fn new(
        server: &Arc<Server>,
        purpose: Purpose,
        min: u32,
        max: u32,
        config: &config::Database,
    ) -> Lane {
        let (sender, errors) = watch::channel(0);
        let last = Arc::new(Mutex::new(None));
        let closing = Arc::new(AtomicBool::new(false));
        let sink = Sink { last: Arc::clone(&last), count: Arc::new(sender), purpose };
        let pool = Pool::builder()
            .max_size(max.max(1))
            .min_idle(min)
            // A dead connection shows as closed, which costs no round trip to see.
            .test_on_check_out(false)
            .retry_connection(false)
            .max_lifetime(Some(Duration::from_secs(30 * 60)))
            .idle_timeout(Some(Duration::from_secs(60)))
            .reaper_rate(Duration::from_secs(30))
            // A connect has its own bound; this one is for waiting until a connection is free.
            .connection_timeout(config.connect_timeout * 2 + Duration::from_secs(5))
            .error_sink(Box::new(sink))
            .build_unchecked(Manager {
                server: Arc::clone(server),
                purpose,
                closing: Arc::clone(&closing),
            });
        Lane { pool, errors, last, closing }
    }

    fn close_idle(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for _ in 0..self.pool.state().idle_connections {
            // Given at once, or somebody else has just taken it. Dropped, it is closed.
            drop(self.pool.get_owned().now_or_never());
        }
        self.closing.store(false, Ordering::SeqCst);
    }

    async fn acquire(&self) -> Result<Pooled<'static>, Error> {
        // Each idle connection may turn out to have died, and one more attempt opens a new one.
        for _ in 0..=self.pool.config().max_size {
            let mut errors = self.errors.clone();
            errors.mark_unchanged();
            let conn = tokio::select! {
                biased;
                got = self.pool.get_owned() => match got {
                    Ok(conn) => conn,
                    Err(RunError::User(error)) => return Err(error),
                    Err(RunError::TimedOut) => return Err(self.timed_out()),
                },
                _ = errors.changed() => return Err(self.last_error()),
            };
            if !conn.is_closed() {
                return Ok(conn);
            }
        }
        Err(Error::new(Kind::ConnectionLost, "every pooled connection had ended"))
    }

    fn timed_out(&self) -> Error {
        let max = self.pool.config().max_size;
        if self.pool.state().connections == 0 {
            let waited = self.pool.config().connection_timeout.as_secs();
            return Error::new(
                Kind::Unreachable,
                format!("no connection after {waited} s, and still connecting"),
            );
        }
        Error::new(Kind::PoolTimeout, format!("all {max} connections of this purpose are in use"))
    }

    fn last_error(&self) -> Error {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_else(|| Error::new(Kind::Unreachable, "connect failed"))
    }
}

/// Opens connections for a pool. Ours instead of bb8-postgres', which spawns the connection's task
/// by itself, drops notices, and gives back a connection with a transaction open.
pub struct Manager {
    server: Arc<Server>,
    purpose: Purpose,
    closing: Arc<AtomicBool>,
}

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = Error;

    async fn connect(&self) -> Result<Conn, Error> {
        let route = match self.purpose {
            Purpose::Job | Purpose::Migrate => Route::Direct,
            Purpose::Observe | Purpose::Control | Purpose::Api | Purpose::Check => Route::Pooled,
        };
        self.server.connect(self.purpose, route).await
    }

    async fn is_valid(&self, conn: &mut Conn) -> Result<(), Error> {
        conn.batch("check connection", "").await
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        !conn.is_reusable() || self.closing.load(Ordering::SeqCst)
    }
}

/// Keeps the last error that a pool met, and wakes who waits for a connection.
#[derive(Debug, Clone)]
struct Sink {
    last: Arc<Mutex<Option<Error>>>,
    count: Arc<watch::Sender<u64>>,
    purpose: Purpose,
}

impl bb8::ErrorSink<Error> for Sink {
    fn sink(&self, error: Error) {
        tracing::debug!(purpose = self.purpose.as_str(), error = %error, "connect failed");
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.count.send_modify(|count| *count += 1);
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Error>> {
        Box::new(self.clone())
    }
}
