//! The health probe: one look at the database, judged, shown, then written down.
//!
//! ```text
//! Snapshot (or the error) ─► judge ─► Board, gauges ─► fresh connect now and then ─► system_health,
//!                                                                                 else the spool
//! ```
//! What is shown comes first: it needs no database. A database that cannot be reached is a
//! measurement too, and the kind of error is its result. Only the observer calls [`run`]; the other
//! instances call [`connectivity_only`] and show nothing of the server.
//!
//! Every step is bounded by a share of `bound`, so that a probe ends within it whatever the server
//! does: half to look, a quarter to connect afresh, a quarter to write. It never returns an error:
//! what fails is part of the report, or counted.

mod gauges;
mod told;
mod transitions;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::config;
use crate::db::{Database, Error, Kind, Purpose, Route};
use crate::health::judge::{connectivity, judge};
use crate::health::{
    Board, Component, ConnectMs, History, Inputs, Measurement, Report, Server, reason,
};
use crate::observe::{Collector, Observation, WatchedTable};
use crate::store::measurements::{HealthRow, MeasurementRow};
use crate::telemetry::Metrics;

use super::sample::Sampler;
use super::writer::{Destination, MeasurementWriter};
use gauges::Gauges;
use told::{Reached, Told};
use transitions::Transitions;

/// How often a fresh connect is measured while the last one succeeded.
const FRESH_CONNECT_EVERY: Duration = Duration::from_secs(300);

/// What a probe works with.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub db: &'a Database,
    pub board: &'a Board,
    pub metrics: &'a Metrics,
    pub limits: &'a config::Health,
    /// The name of this instance, as rows carry it.
    pub instance: &'a str,
    /// Partitioned tables whose future is watched.
    pub watched: &'a [WatchedTable],
    /// Whether pgsteward's tables are there to be written into.
    pub writable: bool,
    /// Whether rows that cannot be written now are kept for later.
    pub keeps: bool,
    /// The database's clock less this instance's, as last read.
    pub skew: TimeDelta,
    /// For the whole probe.
    pub bound: Duration,
}

impl Probe<'_> {
    fn destination(&self) -> Destination<'_> {
        let Probe { db, metrics, writable, keeps, skew, bound, .. } = *self;
        Destination { db, metrics, writable, keeps, skew, bound: bound / 4 }
    }
}

/// What one database's probes remember from tick to tick.
#[derive(Debug)]
pub struct ProbeState {
    collector: Collector,
    history: History,
    gauges: Gauges,
    /// Fed at each tick; `jobs::sample` empties it.
    pub sampler: Sampler,
    /// Rows of probes and samples on their way into the database.
    pub writer: MeasurementWriter,
    connected_afresh: Option<Instant>,
    fresh_connect: Option<Error>,
    connect_ms: Option<ConnectMs>,
    told: Told,
    transitions: Transitions,
}

/// What a probe did.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub report: Arc<Report>,
    /// Whether the server answered what was asked.
    pub measured: bool,
    pub rows_written: u64,
}

impl ProbeState {
    /// Nothing known yet.
    pub fn new(config: &config::Config) -> ProbeState {
        ProbeState {
            collector: Collector::default(),
            history: History::new(config.health.recover_after),
            gauges: Gauges::default(),
            sampler: Sampler::default(),
            writer: MeasurementWriter::new(config),
            connected_afresh: None,
            fresh_connect: None,
            connect_ms: None,
            told: Told::default(),
            transitions: Transitions::default(),
        }
    }

    /// Withdraws what only the observer exports and forgets what only it gathers, when this instance
    /// no longer is one.
    pub fn stand_down(&mut self, metrics: &Metrics, target: &str) {
        self.gauges.withdraw(metrics, target);
        self.sampler = Sampler::default();
    }
}

/// The observer's probe.
pub async fn run(probe: &Probe<'_>, state: &mut ProbeState, inputs: &Inputs) -> Outcome {
    let begun = probe.destination().now();
    let looked = look(probe, &mut state.collector).await;
    let looked = match looked {
        Ok(observation) => Ok(observation),
        Err(error) => Err(name_the_reason(probe, state, error).await),
    };
    let measurement = match &looked {
        Ok(Observation { snapshot, response }) => Measurement::Answered {
            snapshot,
            response: *response,
            fresh_connect: state.fresh_connect.as_ref(),
        },
        Err(error) => Measurement::Failed(error),
    };
    let verdicts = judge(measurement, inputs, probe.limits);
    let response_ms = looked.as_ref().ok().map(|observation| millis(observation.response));
    let report = show(probe, state, verdicts, response_ms, looked.as_ref().map(Some));

    let target = probe.db.name();
    let measured_at = match &looked {
        Ok(observation) => {
            state.gauges.server(probe.metrics, target, &observation.snapshot);
            state.sampler.feed(&observation.snapshot);
            observation.snapshot.time
        }
        Err(error) => {
            state.gauges.server_unseen(probe.metrics, target, reason::reached(error.kind()));
            begun
        }
    };
    if looked.is_ok() {
        connect_afresh(probe, state).await;
    }
    // Before the schema was looked at, the report says that of itself, not of the database.
    let told = probe.writable || looked.is_err();
    let event =
        told.then(|| state.transitions.observed(&report, measured_at, probe.instance)).flatten();
    let rows_written =
        write(probe, state, &report, measured_at, event, looked.as_ref().err()).await;
    Outcome { report, measured: looked.is_ok(), rows_written }
}

/// The probe of an instance that does not observe: whether the database answers it, and nothing
/// more. It goes over the control connection, the only one that such an instance holds.
pub async fn connectivity_only(probe: &Probe<'_>, state: &mut ProbeState) -> Outcome {
    let begun = probe.destination().now();
    let asked = async {
        let conn = probe.db.acquire(Purpose::Control).await?;
        let started = Instant::now();
        conn.batch("ask for an answer", "SELECT 1").await?;
        Ok(started.elapsed())
    };
    let answered = within(probe.bound / 2, "ask for an answer", asked).await;
    let verdict = match &answered {
        Ok(response) => crate::health::judge::answers(*response),
        Err(error) => connectivity(Measurement::Failed(error)),
    };
    let response_ms = answered.as_ref().ok().map(|response| millis(*response));
    let failed = answered.as_ref().map_or_else(Err, |_| Ok(None));
    let report = show(probe, state, vec![verdict], response_ms, failed);
    let event = if probe.writable {
        // There is a lease, and another instance holds it.
        state.transitions.forget();
        None
    } else {
        state.transitions.unobserved(&report, begun, probe.instance)
    };
    let rows_written = write(probe, state, &report, begun, event, answered.as_ref().err()).await;
    Outcome { report, measured: answered.is_ok(), rows_written }
}

/// To the microsecond, which is more than is known.
fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Takes a snapshot over the warm connection. One that was found broken is replaced once: a
/// connection that a firewall or an administrator ended says nothing of the database.
async fn look(probe: &Probe<'_>, collector: &mut Collector) -> Result<Observation, Error> {
    let bound = probe.bound / 2;
    let statement_timeout = probe.db.query_timeout().min(bound);
    let attempts = async {
        let first = observe_once(probe, collector, statement_timeout).await;
        match first {
            Err(error) if error.kind() == Kind::ConnectionLost => {
                tracing::debug!(database = probe.db.name(), error = %error, "observe again over a new connection");
                observe_once(probe, collector, statement_timeout).await
            }
            outcome => outcome,
        }
    };
    within(bound, "observe", attempts).await
}

async fn observe_once(
    probe: &Probe<'_>,
    collector: &mut Collector,
    statement_timeout: Duration,
) -> Result<Observation, Error> {
    let conn = probe.db.acquire(Purpose::Observe).await?;
    collector.collect(&conn, probe.watched, statement_timeout).await
}

/// An open connection that hangs or broke does not say why; a new one does.
async fn name_the_reason(probe: &Probe<'_>, state: &mut ProbeState, error: Error) -> Error {
    if !matches!(error.kind(), Kind::Timeout | Kind::ConnectionLost | Kind::PoolTimeout) {
        return error;
    }
    connect_now(probe, state).await;
    match &state.fresh_connect {
        Some(reason) => reason.clone(),
        None => error.context(
            "a new connection is accepted, but the measurement over it or the open one failed",
        ),
    }
}

/// Measures a fresh connect where one is due: its failure shows at the next tick.
async fn connect_afresh(probe: &Probe<'_>, state: &mut ProbeState) {
    let due = state.fresh_connect.is_some()
        || state.connected_afresh.is_none_or(|at| at.elapsed() >= FRESH_CONNECT_EVERY);
    if due {
        connect_now(probe, state).await;
    }
}

async fn connect_now(probe: &Probe<'_>, state: &mut ProbeState) {
    let connect = probe.db.connect(Purpose::Check, Route::Pooled);
    let connected = within(probe.bound / 4, "connect afresh", connect).await;
    state.connected_afresh = Some(Instant::now());
    // How long each step took is exported by the connect itself, too.
    state.connect_ms = connected.as_ref().ok().map(|conn| conn.timings().into());
    state.fresh_connect = connected.err();
}

/// Publishes the report and its gauges, and logs what is new in it.
fn show(
    probe: &Probe<'_>,
    state: &mut ProbeState,
    verdicts: Vec<crate::health::Verdict>,
    response_ms: Option<f64>,
    looked: Result<Option<&Observation>, &Error>,
) -> Arc<Report> {
    state.history.set_recover_after(probe.limits.recover_after);
    let failed = looked.err();
    let seen = looked.ok().flatten().map(|observation| &observation.snapshot);
    let report = Report {
        server: seen.map(Server::of),
        unavailable: seen.map(|snapshot| snapshot.unavailable.clone()).unwrap_or_default(),
        connect_ms: state.connect_ms,
        ..state.history.report(probe.db.name(), Utc::now(), response_ms, verdicts)
    };
    probe.board.publish(report.clone());
    let down = failed.map(Error::kind).filter(|kind| !reason::reached(*kind));
    state.gauges.report(probe.metrics, &report, down);
    let reached = match down {
        None => Reached::Yes,
        // Our own connection is busy: that says nothing of the server.
        Some(Kind::PoolTimeout) => Reached::Untold,
        Some(_) => Reached::No,
    };
    for news in state.told.news(&report, reached, Instant::now()) {
        news.log(probe.db.name());
    }
    Arc::new(report)
}

/// Writes one row per component and one for a change of the whole, or keeps them for when the database is back. Their instant is fixed
/// here: a row that is sent twice has to be the same row.
async fn write(
    probe: &Probe<'_>,
    state: &mut ProbeState,
    report: &Report,
    created_at: DateTime<Utc>,
    event: Option<MeasurementRow>,
    failed: Option<&Error>,
) -> u64 {
    let row = |component: &Component| HealthRow {
        id: Uuid::now_v7(),
        created_at,
        instance: probe.instance.to_owned(),
        component: component.name.to_owned(),
        status: component.status.as_str().to_owned(),
        reason: component.reason.to_owned(),
        message: component.message.clone(),
        latency_ms: report.response_ms,
        details: details(component),
    };
    let rows = report
        .components
        .iter()
        .map(|component| MeasurementRow::Health(row(component)))
        .chain(event)
        .collect();
    state.writer.show_in(probe.board.recent());
    // What was not written is kept, and the log has told why.
    state.writer.record(&probe.destination(), rows, failed).await.unwrap_or_default()
}

/// The measurement with the remedy beside it: the row has no column for it.
fn details(component: &Component) -> serde_json::Value {
    let mut details = component.measured.clone();
    if let (Some(remedy), Some(members)) = (&component.remedy, details.as_object_mut()) {
        members.insert("remedy".to_owned(), remedy.as_str().into());
    }
    details
}

/// Ends `work` with [`Kind::Timeout`] after `bound`. What it held is given back or closed.
pub(super) async fn within<T>(
    bound: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(bound, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!("{what}: no answer within {} ms", bound.as_millis()),
        )),
    }
}
