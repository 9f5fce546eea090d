//! How a run ended: from what stopped it, or from what it said, to what its row says. Pure.

use std::any::Any;
use std::time::Duration;

use serde_json::Value::Null;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::db::{CancelOutcome, Error, Kind};
use crate::jobs::Report;
use crate::store::runs::{RunResult, RunState};

/// Within this of the deadline, a statement that ran out of time has run out of the run's.
const AT_DEADLINE: Duration = Duration::from_millis(500);
/// Of an error in its row and its log line, in bytes: SQL can raise one of megabytes.
const ERROR_MAX: usize = 8 * 1024;

/// Why a run was cut off.
pub enum Cut {
    Deadline(Duration),
    Shutdown,
    Asked(String),
    Lost,
}

impl Cut {
    /// `cancel` is absent when there was no statement to cancel.
    pub fn ending(&self, cancel: Option<CancelOutcome>) -> RunResult {
        let (state, reason, why) = match self {
            Cut::Deadline(timeout) => (
                RunState::TimedOut,
                "timeout",
                format!("over its timeout of {} s", timeout.as_secs()),
            ),
            Cut::Shutdown => (RunState::Cancelled, "shutdown", "the daemon shut down".to_owned()),
            Cut::Asked(by) => (RunState::Cancelled, "requested", format!("cancelled by {by}")),
            Cut::Lost => (
                RunState::Lost,
                Kind::Fenced.as_str(),
                "another instance took this run over; it was stopped here".to_owned(),
            ),
        };
        let proof = match cancel {
            None => "",
            Some(CancelOutcome::Ended) => {
                "; its statement was cancelled, and the server confirmed that"
            }
            Some(CancelOutcome::Terminated) => {
                "; its statement ignored the cancel, and its session was terminated"
            }
            Some(CancelOutcome::Unconfirmed) => {
                "; the server did not confirm that its statement ended: it may still run"
            }
        };
        RunResult {
            state,
            reason: Some(reason.to_owned()),
            rows: 0,
            error: Some(format!("{why}{proof}")),
            detail: Null,
            attempts: 1,
            fenced: cancel.is_some().then_some(true),
            quarantine: None,
            warnings: Vec::new(),
        }
    }
}

impl RunResult {
    /// The same, told with why the attempt before it had failed.
    pub fn after(mut self, failed_before: Option<String>) -> RunResult {
        if let (Some(error), Some(before)) = (&mut self.error, failed_before) {
            error.push_str("; the attempt before had failed: ");
            error.push_str(&before);
        }
        self
    }
}

/// How a task that was not cut off ended, and whether that is written already.
pub fn ended(outcome: Result<Result<Report, Error>, JoinError>) -> (RunResult, bool) {
    match outcome {
        Ok(Ok(report)) => done(report),
        Ok(Err(error)) => (failed(&error), false),
        Err(join) if join.is_panic() => (panicked(join.into_panic().as_ref()), false),
        Err(_) => (failed(&Error::new(Kind::Cancelled, "the run's task was aborted")), false),
    }
}

/// The server's bound for a statement may pass just before the deadline that it was made from: the run
/// is then over its time all the same.
pub fn at_deadline(
    (ending, recorded): (RunResult, bool),
    deadline: Instant,
    timeout: Duration,
) -> (RunResult, bool) {
    let by_server = ending.state == RunState::Failed
        && ending.reason.as_deref() == Some(Kind::Timeout.as_str());
    if !by_server || Instant::now() + AT_DEADLINE < deadline {
        return (ending, recorded);
    }
    let RunResult { state, reason, error, .. } = Cut::Deadline(timeout).ending(None);
    let told = ending.error.unwrap_or_default();
    let error = error.map(|error| format!("{error}; the server ended its statement: {told}"));
    (RunResult { state, reason, error, ..ending }, recorded)
}

pub fn done(report: Report) -> (RunResult, bool) {
    let Report { rows, detail, warnings, recorded, .. } = report;
    if let Some(error) = &report.failure {
        let quarantine = report.may_still_run;
        return (RunResult { rows, detail, warnings, quarantine, ..failed(error) }, false);
    }
    let (state, reason) = match (report.skipped, report.stopped) {
        (Some(reason), _) => (RunState::Skipped, Some(reason)),
        (None, true) => (RunState::Cancelled, Some("shutdown".to_owned())),
        (None, false) => (RunState::Succeeded, None),
    };
    let ending = RunResult {
        state,
        reason,
        rows,
        error: None,
        detail,
        attempts: 1,
        fenced: Some(true),
        quarantine: None,
        warnings,
    };
    (ending, recorded)
}

pub fn failed(error: &Error) -> RunResult {
    ending_of_failure(error.kind().as_str(), error.to_string())
}

fn panicked(payload: &(dyn Any + Send)) -> RunResult {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    ending_of_failure("panic", format!("the job panicked: {text}; this is a defect of pgsteward"))
}

fn ending_of_failure(reason: &str, mut error: String) -> RunResult {
    if error.len() > ERROR_MAX {
        error.truncate(error.floor_char_boundary(ERROR_MAX));
        error.push('…');
    }
    RunResult {
        state: RunState::Failed,
        reason: Some(reason.to_owned()),
        rows: 0,
        error: Some(error),
        detail: Null,
        attempts: 1,
        fenced: Some(true),
        quarantine: None,
        warnings: Vec::new(),
    }
}

/// Whether it may succeed a little later. What may still be at work is not begun again.
pub fn is_passing(ending: &RunResult) -> bool {
    let kind = |reason: &str| Kind::ALL.into_iter().find(|kind| kind.as_str() == reason);
    ending.state == RunState::Failed
        && ending.quarantine.is_none()
        && ending.reason.as_deref().and_then(kind).is_some_and(Kind::is_passing)
}

/// The row of a run knows better than who ran it: it was written with the effect, or by who took over.
pub fn told_by_row(ending: RunResult, state: Option<&str>) -> RunResult {
    match state {
        Some(state) if state == ending.state.as_str() => ending,
        Some("succeeded") => {
            RunResult { state: RunState::Succeeded, reason: None, error: None, ..ending }
        }
        _ => RunResult { state: RunState::Lost, ..ending },
    }
}

pub fn log(ending: &RunResult, took: Duration, news: bool) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (outcome, rows) = (ending.state.as_str(), ending.rows);
    let reason = ending.reason.as_deref().unwrap_or_default();
    match (&ending.error, ending.state) {
        (Some(error), RunState::Cancelled) => {
            tracing::warn!(outcome, reason, took_ms, error, "job cancelled");
        }
        (Some(error), _) => tracing::error!(outcome, reason, took_ms, error, "job failed"),
        (None, RunState::Succeeded) if !news => tracing::debug!(outcome, took_ms, rows, "job done"),
        (None, RunState::Succeeded) => tracing::info!(outcome, took_ms, rows, "job done"),
        (None, _) => tracing::info!(outcome, reason, took_ms, rows, "job ended"),
    }
}
