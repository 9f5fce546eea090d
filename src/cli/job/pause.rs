//! `pgsteward job pause` and `pgsteward job resume`: of one job, or of all.

use crate::cli::{Exit, Selection, Session, actor, bounded, print, print_json, say};
use crate::db::{Database, Error, Purpose, TxOptions};
use crate::scheduler::commands::{self, By, Found};
use crate::store::pauses::{self, ALL_JOBS, Pause};

use super::{failed, names};

/// What is paused or resumed.
#[derive(Debug)]
pub enum Which {
    All,
    One(String),
}

impl Which {
    /// The row of `job_state`.
    fn row(&self) -> &str {
        match self {
            Which::All => ALL_JOBS,
            Which::One(name) => name,
        }
    }
}

pub async fn pause(
    session: &Session,
    selection: &Selection,
    which: &Which,
    reason: Option<&str>,
) -> Result<Exit, Exit> {
    set(session, selection, which, true, reason).await
}

pub async fn resume(session: &Session, selection: &Selection, which: &Which) -> Result<Exit, Exit> {
    set(session, selection, which, false, None).await
}

async fn set(
    session: &Session,
    selection: &Selection,
    which: &Which,
    pause: bool,
    reason: Option<&str>,
) -> Result<Exit, Exit> {
    let opened = session.open(selection)?;
    let db = &opened.db;
    // Configured jobs may be paused before an instance has registered them.
    let is_configured = match which {
        Which::All => true,
        Which::One(name) => names::configured(session.config(), db.name(), name)?.is_some(),
    };
    // The statements have their bound on the server; this one is for a server that says nothing.
    let bound = db.query_timeout() * 2;
    let done =
        bounded("write the flag", bound, write(db, which, pause, is_configured, reason)).await;
    let (before, all) = match done.map_err(|error| failed(db.name(), &error))? {
        (Found::Before(before), all) => (before, all),
        (Found::Unknown { known }, _) => {
            return Err(names::unknown(session.config(), db.name(), which.row(), &known));
        }
    };
    report(session, db.name(), which, pause, before.as_ref());
    if let (Which::One(name), Some(all), false) = (which, all, pause) {
        say(&format!(
            "{name} runs when all jobs are resumed: {}; `pgsteward job resume --all`",
            all_paused(&all)
        ));
    }
    Ok(Exit::Ok)
}

/// Returns also by whom all jobs are paused.
async fn write(
    db: &Database,
    which: &Which,
    pause: bool,
    is_configured: bool,
    reason: Option<&str>,
) -> Result<(Found, Option<Pause>), Error> {
    let actor = &actor();
    let by = By { actor, origin: None };
    let mut conn = db.acquire(Purpose::Check).await?;
    conn.transaction(&TxOptions::within(db.query_timeout()), |tx| {
        Box::pin(async move {
            let found = match pause {
                true => commands::pause(tx, by, which.row(), reason, is_configured).await?,
                false => commands::resume(tx, by, which.row(), is_configured).await?,
            };
            Ok((found, pauses::find(tx, ALL_JOBS).await?))
        })
    })
    .await
}

fn report(session: &Session, database: &str, which: &Which, paused: bool, before: Option<&Pause>) {
    let changed = paused == before.is_none();
    if session.json {
        let mut said =
            serde_json::json!({ "database": database, "paused": paused, "changed": changed });
        if let Which::One(name) = which {
            said["job"] = name.as_str().into();
        }
        return print_json(&said);
    }
    let (subject, verb) = match which {
        Which::All => (format!("all jobs of database {database}"), "are"),
        Which::One(name) => (format!("{name} of database {database}"), "is"),
    };
    let state = if paused { "paused" } else { "running on schedule" };
    let was = if changed { "now" } else { "already" };
    let since =
        before.filter(|_| !changed).map(|pause| format!(", {}", by(pause))).unwrap_or_default();
    print(&format!("{subject} {verb} {was} {state}{since}; instances follow within seconds"));
}

/// Who paused a job, since when and why.
pub fn by(pause: &Pause) -> String {
    let reason = pause.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("by {} since {}{reason}", pause.by, pause.at.format("%Y-%m-%d %H:%M:%S UTC"))
}

fn all_paused(pause: &Pause) -> String {
    format!("they are paused {}", by(pause))
}

/// What is said to who asks for a run of a paused job.
pub fn refusal(name: &str, pause: &Pause, all: bool) -> String {
    match all {
        true => {
            format!("all jobs are paused {}; `pgsteward job resume --all` resumes them", by(pause))
        }
        false => {
            format!("{name} is paused {}; `pgsteward job resume {name}` resumes it", by(pause))
        }
    }
}
