//! `pgsteward job list`

use chrono::{DateTime, Utc};
use clap::Args;

use crate::cli::{Exit, Selection, Session, bounded, print, print_json, say};
use crate::config::Zone;
use crate::db::{Conn, Database, Error, Purpose};
use crate::scheduler::job_status::{JobStatus, State, merge};
use crate::store::overview::{self, LastFinished, Overview};

use super::pause::by;
use super::text::{ago, columns, duration, first_line, instant};
use super::{names, told};

/// Letters of a reason in the table; the whole stands in the details.
const REASON_MAX: usize = 20;

#[derive(Debug, Args)]
pub struct List {
    /// Everything about this job only
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

impl List {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let database = opened.db.name();
        let read = read(&opened.db).await;
        let now = Utc::now();
        let mut listed = merge(session.config(), database, read.as_ref().ok(), now);
        if let Some(name) = &self.name {
            let known: Vec<String> = listed.iter().map(|job| job.name.clone()).collect();
            listed.retain(|job| job.name == *name);
            // Without the ledger it is not known whether there is no such job.
            if listed.is_empty() && read.is_ok() {
                return Err(names::unknown(session.config(), database, name, &known));
            }
        }
        let unread = read.as_ref().err().map(told);
        if session.json {
            let overview = read.as_ref().ok();
            print_json(&serde_json::json!({
                "database": database,
                "ledger_error": unread,
                "leader": overview.map(|overview| &overview.leader),
                "paused": overview.map(|overview| &overview.paused),
                "jobs": listed,
            }));
        } else if self.name.is_some() {
            listed.iter().for_each(|job| print(&details(job, now)));
        } else {
            print(&table(&listed, now));
        }
        if let Ok(overview) = &read
            && !session.json
        {
            standing(overview, database).iter().for_each(|line| print(line));
        }
        match unread {
            None => Ok(Exit::Ok),
            Some(error) => {
                say(&format!(
                    "database {database}: the ledger cannot be read, this is the plan alone: {error}"
                ));
                Ok(Exit::Unavailable)
            }
        }
    }
}

async fn read(db: &Database) -> Result<Overview, Error> {
    let bound = db.query_timeout();
    bounded("look at the jobs", bound * 2, async {
        let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
        overview::read(conn, bound).await
    })
    .await
}

/// What holds for all jobs, where it keeps them from running.
fn standing(overview: &Overview, database: &str) -> Vec<String> {
    let paused = overview.paused.as_ref().map(|pause| format!("all jobs are paused {}", by(pause)));
    let alone = overview
        .leader
        .is_none()
        .then(|| format!("no instance observes database {database}: no job runs by itself"));
    [paused, alone].into_iter().flatten().collect()
}

fn table(listed: &[JobStatus], now: DateTime<Utc>) -> String {
    let rows: Vec<[String; 6]> = listed.iter().map(|job| cells(job, now)).collect();
    let mut lines = columns(["job", "state", "next", "last", "average", "p95"], &rows);
    lines.extend(listed.iter().filter_map(|job| Some(format!("{}: {}", job.name, note(job)?))));
    lines.join("\n")
}

fn cells(job: &JobStatus, now: DateTime<Utc>) -> [String; 6] {
    let ledger = job.ledger.as_ref();
    let took = |ms: Option<f64>| ms.map(duration).unwrap_or_default();
    [
        job.name.clone(),
        job.state.as_str().to_owned(),
        job.next.first().map(told_instant).unwrap_or_else(|| without_schedule(job)),
        ledger
            .and_then(|ledger| Some(last(ledger, ledger.last.as_ref()?, now)))
            .unwrap_or_default(),
        took(ledger.and_then(|ledger| ledger.average_ms)),
        took(ledger.and_then(|ledger| ledger.p95_ms)),
    ]
}

fn told_instant(at: &DateTime<Zone>) -> String {
    instant(at.to_utc(), &at.timezone())
}

fn without_schedule(job: &JobStatus) -> String {
    match job.after.as_slice() {
        _ if matches!(job.state, State::Disabled | State::NotConfigured) => String::new(),
        [] if job.schedule.is_some() => "outside its window".to_owned(),
        [] => "on request".to_owned(),
        [first] => format!("after {first}"),
        [first, others @ ..] => format!("after {first} and {} more", others.len()),
    }
}

/// How the last run ended, in a cell.
fn last(job: &overview::JobSummary, last: &LastFinished, now: DateTime<Utc>) -> String {
    let times = if job.consecutive_failures > 1 {
        format!(" ×{}", job.consecutive_failures)
    } else {
        String::new()
    };
    let reason = last.reason.as_deref().map(|reason| reason.split(':').next().unwrap_or_default());
    let reason = reason.map(|reason| format!(" ({})", shortened(reason))).unwrap_or_default();
    format!("{}{times}{reason} {}", last.state, ago(last.finished_at, now))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= REASON_MAX {
        return text.to_owned();
    }
    text.chars().take(REASON_MAX - 1).chain(['…']).collect()
}

/// What a state alone does not tell.
fn note(job: &JobStatus) -> Option<String> {
    let ledger = job.ledger.as_ref();
    let mut parts = Vec::new();
    if let Some(pause) = ledger.and_then(|ledger| ledger.paused.as_ref()) {
        parts.push(format!("paused {}", by(pause)));
    }
    if let Some(run) = ledger.and_then(|ledger| ledger.running.as_ref()) {
        let on =
            run.instance.as_ref().map(|instance| format!(" on {instance}")).unwrap_or_default();
        parts.push(format!("runs since {}{on}, run {}", instant(run.since, &Zone::UTC), run.id));
    }
    if let Some(run) = ledger.and_then(|ledger| ledger.queued.as_ref()) {
        let by = run.actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
        parts.push(format!("run {} waits since {}{by}", run.id, instant(run.since, &Zone::UTC)));
    }
    if let Some(run) = ledger.and_then(|ledger| ledger.quarantined) {
        parts.push(format!("waits for the server process of run {run} to be gone"));
    }
    if job.config_differs {
        parts
            .push("the instances go by another specification than this configuration's".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Everything about one job.
fn details(job: &JobStatus, now: DateTime<Utc>) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    if let Some(work) = job.work {
        lines.push(("work", work.to_owned()));
    }
    let zone = job.timezone.unwrap_or("UTC");
    match &job.schedule {
        Some(schedule) => lines.push(("schedule", format!("{schedule}, {zone}"))),
        None if !job.after.is_empty() => {
            let upstream_jobs: Vec<&str> = job.after.iter().map(|name| name.as_str()).collect();
            lines.push(("after", upstream_jobs.join(", ")));
        }
        None if job.work.is_some() => {
            lines.push(("schedule", "none: it runs when it is asked for".to_owned()));
        }
        None => {}
    }
    for (place, at) in job.next.iter().enumerate() {
        lines.push((if place == 0 { "next" } else { "" }, told_instant(at)));
    }
    if let Some(ledger) = &job.ledger {
        lines.extend(of_ledger(ledger, now));
    }
    lines.extend(note(job).map(|note| ("now", note)));
    let head = format!("{}: {}", job.name, job.state.as_str());
    let lines = lines.iter().map(|(key, value)| format!("  {key:<12}  {value}"));
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}

fn of_ledger(job: &overview::JobSummary, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(last) = &job.last {
        let took = last
            .duration_ms
            .map(|ms| format!(", took {}", duration(ms as f64)))
            .unwrap_or_default();
        let rows = last.rows_affected.map(|rows| format!(", {rows} rows")).unwrap_or_default();
        let at = instant(last.finished_at, &Zone::UTC);
        lines.push((
            "last",
            format!("{}, {at} ({}){took}{rows}", last.state, ago(last.finished_at, now)),
        ));
        lines.extend(last.reason.clone().map(|reason| ("reason", reason)));
        lines.extend(last.error.as_deref().map(|error| ("error", first_line(error).to_owned())));
    }
    if let Some(at) = job.last_success_at {
        lines.push(("last success", format!("{} ({})", instant(at, &Zone::UTC), ago(at, now))));
    }
    if let (Some(average), Some(p95)) = (job.average_ms, job.p95_ms) {
        lines.push(("duration", format!("average {}, p95 {}", duration(average), duration(p95))));
    }
    let (succeeded, failed, skipped) = (job.succeeded_total, job.failed_total, job.skipped_total);
    lines.push(("totals", format!("{succeeded} succeeded, {failed} failed, {skipped} skipped")));
    lines.push(("failures", format!("{} in a row", job.consecutive_failures)));
    lines
}
