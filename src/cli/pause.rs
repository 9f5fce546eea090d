//! `pgsteward pause --all` and `pgsteward resume --all`

use clap::Args;

use super::{Exit, Opened, Selection, Session, actor, bounded, print, print_json, say};
use crate::audit;
use crate::db::{Error, Purpose, TxOptions};
use crate::store::pauses;

#[derive(Debug, Args)]
pub struct Pause {
    /// All jobs, on every instance of this database
    #[arg(long, required = true)]
    all: bool,
    /// Why, for whoever finds it paused
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// All jobs, on every instance of this database
    #[arg(long, required = true)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
}

impl Pause {
    pub async fn execute(self, session: Session) -> Exit {
        set(session, &self.selection, true, self.reason.as_deref()).await
    }
}

impl Resume {
    pub async fn execute(self, session: Session) -> Exit {
        set(session, &self.selection, false, None).await
    }
}

async fn set(session: Session, selection: &Selection, pause: bool, reason: Option<&str>) -> Exit {
    let opened = match session.open(selection) {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    // The statements have their bound on the server; this one is for a server that says nothing.
    let bound = opened.db.query_timeout() * 2;
    match bounded("write the flag", bound, write(&opened, pause, reason)).await {
        Ok(changed) => {
            report(&session, opened.db.name(), pause, changed);
            Exit::Ok
        }
        Err(error) => {
            let missing = error.sqlstate().is_some_and(|state| matches!(state.code(), "42P01" | "3F000"));
            let mend =
                if missing { "; pgsteward's own tables are missing: `pgsteward migrate up` makes them" } else { "" };
            say(&format!("database {}: {error}{mend}", opened.db.name()));
            Exit::Unavailable
        }
    }
}

async fn write(opened: &Opened, pause: bool, reason: Option<&str>) -> Result<bool, Error> {
    let actor = &actor();
    let mut conn = opened.db.acquire(Purpose::Check).await?;
    conn.transaction(&TxOptions::within(opened.db.query_timeout()), |tx| {
        Box::pin(async move {
            let changed = pauses::set(tx, pause, actor, reason).await?;
            if changed {
                let action = if pause { "jobs.pause" } else { "jobs.resume" };
                let details = serde_json::json!({ "reason": reason });
                let event = audit::Event {
                    actor,
                    action,
                    resource_type: "jobs",
                    resource_id: pauses::ALL_JOBS,
                    details: &details,
                };
                audit::record(tx, &event).await?;
            }
            Ok(changed)
        })
    })
    .await
}

fn report(session: &Session, database: &str, paused: bool, changed: bool) {
    if session.json {
        return print_json(&serde_json::json!({ "database": database, "paused": paused, "changed": changed }));
    }
    let state = if paused { "paused" } else { "running on schedule" };
    let was = if changed { "now" } else { "already" };
    print(&format!("all jobs of database {database} are {was} {state}; instances follow within seconds"));
}
