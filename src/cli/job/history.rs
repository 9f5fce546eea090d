//! `pgsteward job history`

use clap::Args;

use crate::cli::{Exit, Selection, Session, bounded, print, print_json, say};
use crate::config::Zone;
use crate::db::{Conn, Database, Error, Purpose, TxOptions};
use crate::store::requests;
use crate::store::run_history::{self, RunEntry};

use super::outcome::guarantee;
use super::text::{columns, duration, first_line, instant};
use super::{failed, names};

#[derive(Debug, Args)]
pub struct History {
    /// The job
    #[arg(value_name = "NAME")]
    name: String,
    /// So many rows at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Only what failed, timed out, or was lost
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    selection: Selection,
}

impl History {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let configured = names::configured(session.config(), db.name(), &self.name)?;
        let zone = configured.map_or(Zone::UTC, |(_, job)| job.timezone);
        let (entries, known) = self.read(db).await.map_err(|error| failed(db.name(), &error))?;
        if entries.is_empty() && configured.is_none() && !known.contains(&self.name) {
            return Err(names::unknown(session.config(), db.name(), &self.name, &known));
        }
        if session.json {
            print_json(&entries);
        } else if entries.is_empty() {
            let what = if self.failed { "failed run" } else { "run" };
            say(&format!("no {what} of {} in the history of database {}", self.name, db.name()));
        } else {
            print(&table(&entries, zone));
        }
        Ok(Exit::Ok)
    }

    /// The rows; where there is none, also the names of the jobs that the ledger knows.
    async fn read(&self, db: &Database) -> Result<(Vec<RunEntry>, Vec<String>), Error> {
        let bound = db.query_timeout();
        bounded("read the history", bound * 2, async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            let entries =
                run_history::list_for_job(conn, &self.name, self.failed, self.limit, bound).await?;
            if !entries.is_empty() {
                return Ok((entries, Vec::new()));
            }
            let options = TxOptions::within(bound).read_only();
            let known = conn.transaction(&options, |tx| Box::pin(requests::job_names(tx))).await?;
            Ok((entries, known))
        })
        .await
    }
}

/// Two lines for each row: what, and who and why.
fn table(entries: &[RunEntry], zone: Zone) -> String {
    let rows: Vec<[String; 7]> = entries.iter().map(|entry| cells(entry, zone)).collect();
    let head = ["due", "kind", "state", "tries", "took", "rows", "effect"];
    let lines = columns(head, &rows);
    let (head, lines) =
        lines.split_first().map_or((String::new(), &[][..]), |(head, lines)| (head.clone(), lines));
    let with_details =
        lines.iter().zip(entries).flat_map(|(line, entry)| [line.clone(), details(entry, zone)]);
    std::iter::once(head).chain(with_details).collect::<Vec<_>>().join("\n")
}

fn cells(entry: &RunEntry, zone: Zone) -> [String; 7] {
    [
        instant(entry.due_at, &zone),
        entry.kind.clone(),
        entry.state.clone(),
        if entry.attempts > 0 { entry.attempts.to_string() } else { String::new() },
        entry.duration_ms.map(|ms| duration(ms as f64)).unwrap_or_default(),
        entry.rows_affected.map(|rows| rows.to_string()).unwrap_or_default(),
        guarantee(entry).to_owned(),
    ]
}

fn details(entry: &RunEntry, zone: Zone) -> String {
    let mut parts = Vec::new();
    match (entry.last_due_at, entry.missed_count) {
        (Some(last), Some(count)) if count > 1 => {
            parts.push(format!("{count} instants, to {}", instant(last, &zone)));
        }
        _ => {}
    }
    if entry.kind != "missed" {
        let by = entry.actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
        let on =
            entry.instance.as_ref().map(|instance| format!(" on {instance}")).unwrap_or_default();
        parts.push(format!("run {}{by}{on}", entry.id));
    }
    parts.extend(entry.reason.clone());
    parts.extend(entry.error.as_deref().map(|error| first_line(error).to_owned()));
    format!("    {}", parts.join("; "))
}
