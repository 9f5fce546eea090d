//! `pgsteward audit hold list`

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;

use crate::cli::job::failed;
use crate::cli::job::text::columns;
use crate::cli::{Exit, Selection, Session, bounded, print, print_json};
use crate::db::{Database, Error, Purpose, TxOptions};
use crate::store::holds::{self, Hold, Scope};

/// Events counted for one hold, at most.
const COUNTED_MAX: i64 = 100_000;

#[derive(Debug, Args)]
pub struct List {
    /// Also those that were released
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
}

/// A hold, and what it covers now.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    hold: Hold,
    /// None of a hold that was released: it covers nothing.
    rows: Option<i64>,
    /// Whether there are more rows than were counted.
    more_rows: bool,
}

impl List {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let listed = read(db, self.all).await.map_err(|error| failed(db.name(), &error))?;
        if session.json {
            print_json(&serde_json::json!({ "database": db.name(), "holds": listed }));
        } else if listed.is_empty() {
            print(&format!("database {} has no holds", db.name()));
        } else {
            let rows: Vec<[String; 5]> = listed.iter().map(cells).collect();
            print(&columns(["hold", "state", "events", "covers", "reason"], &rows).join("\n"));
        }
        Ok(Exit::Ok)
    }
}

async fn read(db: &Database, all: bool) -> Result<Vec<Listed>, Error> {
    let options = holds::purge_options(TxOptions::within(db.query_timeout()).read_only());
    bounded("list holds", db.query_timeout() * 2, async {
        let mut conn = db.acquire(Purpose::Check).await?;
        conn.transaction(&options, |tx| {
            Box::pin(async move {
                let mut listed = Vec::new();
                for hold in holds::list(tx, all).await? {
                    let rows = match hold.released_at {
                        Some(_) => None,
                        None => Some(holds::count_covered(tx, &hold.scope, COUNTED_MAX + 1).await?),
                    };
                    let more_rows = rows.is_some_and(|rows| rows > COUNTED_MAX);
                    listed.push(Listed {
                        hold,
                        rows: rows.map(|rows| rows.min(COUNTED_MAX)),
                        more_rows,
                    });
                }
                Ok(listed)
            })
        })
        .await
    })
    .await
}

fn cells(listed: &Listed) -> [String; 5] {
    let hold = &listed.hold;
    let state = match (&hold.released_by, hold.released_at) {
        (Some(by), Some(released_at)) => format!("released by {by} at {}", at(released_at)),
        _ => format!("by {} since {}", hold.placed_by, at(hold.placed_at)),
    };
    let more = if listed.more_rows { "+" } else { "" };
    let rows = listed.rows.map(|rows| format!("{rows}{more}")).unwrap_or_default();
    [hold.id.to_string(), state, rows, covers(&hold.scope), hold.reason.clone()]
}

fn covers(scope: &Scope) -> String {
    let resource = scope.resource_type.as_ref().map(|kind| match &scope.resource_id {
        Some(id) => format!("resource {kind}/{id}"),
        None => format!("resource {kind}"),
    });
    let parts = [
        scope.user_id.as_ref().map(|user| format!("user {user}")),
        resource,
        scope.begins_at.map(|begins_at| format!("from {}", at(begins_at))),
        scope.ends_at.map(|ends_at| format!("until {}", at(ends_at))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// To the second, unless an instant is finer.
pub fn at(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
