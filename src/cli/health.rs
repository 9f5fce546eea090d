//! `pgsteward health`
//!
//! Measures once over connections of its own; asks no daemon and writes nothing. Where pgsteward keeps
//! the database, what it wrote about schema and jobs counts too; elsewhere those parts are left out.

use std::time::Duration;

use clap::Args;

use super::{Exit, Selection, Session, bounded, print, print_json, say};
use crate::config::{Config, LogLevel};
use crate::db::{self, Database, Purpose};
use crate::health::{Audit, Board, FailingJob, Inputs, Jobs, Report, Schema, Status};
use crate::jobs::probe::{self, Probe, ProbeState};
use crate::migrate::{self, plan::State};
use crate::observe::WatchedTable;
use crate::scheduler::{audit_watch, measure, schema};
use crate::store::audit::read_status;
use crate::store::{pauses, run_history};
use crate::telemetry::Metrics;

/// For the measurement, and again for what is read beside it; a monitoring plugin gives itself about
/// as much.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    selection: Selection,
}

impl Health {
    pub async fn execute(self, session: Session) -> Exit {
        let opened = match session.open_at(&self.selection, LogLevel::Error) {
            Ok(opened) => opened,
            Err(exit) => return exit,
        };
        let metrics = match Metrics::new() {
            Ok(metrics) => metrics,
            Err(error) => {
                say(&format!("register metrics: {error}"));
                return Exit::Internal;
            }
        };
        let limits = &session.config().health;
        let board = Board::new(opened.db.name(), limits.stale_after);
        let (inputs, watched) = kept(&opened.db, session.config()).await;
        let probe = Probe {
            db: &opened.db,
            board: &board,
            metrics: &metrics,
            limits,
            instance: "cli",
            watched: &watched,
            writable: false,
            keeps: false,
            skew: chrono::TimeDelta::zero(),
            bound: BOUND,
        };
        let outcome = probe::run(&probe, &mut ProbeState::new(session.config()), &inputs).await;
        let report = without_unread(outcome.report.as_ref().clone(), &inputs);
        if session.json {
            print_json(&report);
        } else {
            print(&text(&report));
        }
        Exit::Health(report.status)
    }
}

/// What pgsteward's own tables say. What cannot be read is absent: the measurement tells why, where
/// the database is at fault.
async fn kept(db: &Database, config: &Config) -> (Inputs, Vec<WatchedTable>) {
    let read = tokio::time::timeout(BOUND, read_kept(db, config)).await;
    match read {
        Ok(Ok(Some(kept))) => kept,
        Ok(Ok(None)) => (Inputs::default(), Vec::new()),
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "pgsteward's own tables cannot be read");
            (Inputs::default(), Vec::new())
        }
        Err(_) => (Inputs::default(), Vec::new()),
    }
}

async fn read_kept(
    db: &Database,
    config: &Config,
) -> Result<Option<(Inputs, Vec<WatchedTable>)>, migrate::Error> {
    let lines = migrate::status(db, Purpose::Migrate, &migrate::configured_sets(config)?).await?;
    let pending = |state| matches!(state, State::Pending | State::OutOfOrder);
    if lines.iter().all(|line| pending(line.state)) {
        return Ok(None);
    }
    let edited = lines
        .iter()
        .filter(|line| line.state == State::Edited)
        .map(migrate::plan::Line::label)
        .collect();
    let migrated = schema::verify(db, edited).await?;
    let waiting = lines
        .iter()
        .filter(|line| pending(line.state))
        .map(|line| format!("{} is not applied", line.label()));
    let mismatches = migrated.mismatches.into_iter().chain(waiting).collect();
    let inputs = Inputs {
        schema: Some(Schema { mismatches, ..Schema::default() }),
        partitions: measure::partitions_needed(&migrated.sets),
        jobs: Some(jobs(db).await?),
        audit: Some(audit(db).await?),
    };
    Ok(Some((inputs, measure::watched(&migrated.sets))))
}

async fn jobs(db: &Database) -> Result<Jobs, db::Error> {
    let mut conn = db.acquire(Purpose::Check).await?;
    let last =
        bounded("read the last runs", BOUND, run_history::last_runs(&mut conn, BOUND)).await?;
    let paused = bounded("read the pause flag", BOUND, pauses::read(&mut conn, BOUND)).await?;
    let failing = last
        .into_iter()
        .filter(|run| run.failures > 0)
        .map(|run| FailingJob { name: run.job, error: run.error.unwrap_or_default() })
        .collect();
    Ok(Jobs { failing, paused: paused.map(|pause| pause.by), ..Jobs::default() })
}

async fn audit(db: &Database) -> Result<Audit, db::Error> {
    let mut conn = db.acquire(Purpose::Check).await?;
    let found =
        bounded("read how the audit trail stands", BOUND, read_status(&mut conn, BOUND)).await?;
    // What was lost lately, only who looks again and again can tell.
    Ok(audit_watch::judged(&found, false))
}

/// The report without the parts that nobody looked at: of a database that pgsteward does not keep,
/// nothing is wrong with them.
fn without_unread(mut report: Report, inputs: &Inputs) -> Report {
    report.components.retain(|component| match component.name {
        "schema" => inputs.schema.is_some(),
        "jobs" => inputs.jobs.is_some(),
        "audit" => inputs.audit.is_some(),
        "partitions" => !inputs.partitions.is_empty(),
        _ => true,
    });
    report.status = Status::overall(report.components.iter().map(|component| component.status));
    report
}

fn text(report: &Report) -> String {
    let response =
        report.response_ms.map_or_else(String::new, |ms| format!(", answered in {ms:.1} ms"));
    let head = format!("database {}: {}{response}", report.target, report.status.as_str());
    let components = report.components.iter().map(|component| {
        let (name, status) = (component.name, component.status.as_str());
        let remedy = match &component.remedy {
            Some(remedy) => format!("\n{:27}remedy: {remedy}", ""),
            None => String::new(),
        };
        format!("  {name:<13} {status:<9}  {}{remedy}", component.message)
    });
    std::iter::once(head).chain(components).collect::<Vec<_>>().join("\n")
}
