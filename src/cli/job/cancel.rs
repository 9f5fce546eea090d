//! `pgsteward job cancel`

use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use crate::cli::{Exit, Selection, Session, actor, bounded, print, print_json, say};
use crate::config::Zone;
use crate::db::{Database, Error, Purpose, TxOptions};
use crate::scheduler::commands::{self, By};
use crate::store::requests::CancelResult;
use crate::store::run_history;

use super::{failed, run, text};

/// How long a cancel is waited for: heard within a second, proven within some more.
const CANCEL_WAIT: Duration = Duration::from_secs(60);
/// So many runs are named when a beginning fits several.
const CANDIDATES: i64 = 10;
/// The least of an id that names a run: its time, to about a minute.
const PREFIX_MIN: usize = 8;

#[derive(Debug, Args)]
pub struct Cancel {
    /// The run's id, or the beginning of it if that is no other's
    #[arg(value_name = "RUN", value_parser = parse_run)]
    run: RunId,
    /// Wait until it has ended, at most a minute
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    selection: Selection,
}

/// The ids that begin as was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunId {
    first: Uuid,
    last: Uuid,
}

fn parse_run(text: &str) -> Result<RunId, String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let plausible =
        digits.chars().all(|c| c.is_ascii_hexdigit()) && (PREFIX_MIN..=32).contains(&digits.len());
    let fill = |with: char| {
        let missing = 32_usize.saturating_sub(digits.len());
        Uuid::try_parse(
            &digits.chars().chain(std::iter::repeat_n(with, missing)).collect::<String>(),
        )
    };
    match (plausible, fill('0'), fill('f')) {
        (true, Ok(first), Ok(last)) => Ok(RunId { first, last }),
        _ => Err(format!(
            "wanted the id of a run as `pgsteward job history` shows it, or at least {PREFIX_MIN} digits of it"
        )),
    }
}

impl Cancel {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let waiting = if self.wait { Some(run::listen()?) } else { None };
        let id = self.resolve(db).await?;
        let asked = bounded("ask for a cancel", db.query_timeout() * 2, cancel(db, id)).await;
        let asked = asked.map_err(|error| failed(db.name(), &error))?;
        let (state, text) = match &asked {
            CancelResult::Unknown => return Err(no_such_run(db, &id.to_string())),
            CancelResult::Requested { job, instance, .. } => (
                "cancelling",
                format!(
                    "run {id} of {job}: {instance} is asked to cancel it, and hears within seconds"
                ),
            ),
            CancelResult::Dequeued { job } => (
                "cancelled",
                format!("run {id} of {job}: taken out of the queue, it had not begun"),
            ),
            CancelResult::AlreadyFinished { job, state } => {
                (state.as_str(), format!("run {id} of {job} is over already: {state}"))
            }
        };
        if let (Some((_signals, mut signals)), CancelResult::Requested { .. }) = (waiting, &asked) {
            if !session.json {
                print(&text);
            }
            // What it was asked for is that it ends: however it did, it has.
            run::follow(session, db, id, CANCEL_WAIT, &mut signals).await?;
            return Ok(Exit::Ok);
        }
        if session.json {
            print_json(&serde_json::json!({ "database": db.name(), "run_id": id, "state": state }));
        } else {
            print(&text);
        }
        Ok(Exit::Ok)
    }

    /// The one run that is meant.
    async fn resolve(&self, db: &Database) -> Result<Uuid, Exit> {
        let RunId { first, last } = self.run;
        if first == last {
            return Ok(first);
        }
        let bound = db.query_timeout();
        let found = bounded("look for the run", bound * 2, async {
            let conn = &mut *db.acquire(Purpose::Check).await?;
            run_history::between(conn, (first, last), CANDIDATES + 1, bound).await
        });
        let found = found.await.map_err(|error| failed(db.name(), &error))?;
        let digits = shown(self.run);
        match found.as_slice() {
            [] => Err(no_such_run(db, &digits)),
            [only] => Ok(only.id),
            several => {
                let listed = several.iter().take(CANDIDATES as usize).map(|entry| {
                    let since = text::instant(entry.started_at.unwrap_or(entry.due_at), &Zone::UTC);
                    format!("\n  {}  {}, {} since {since}", entry.id, entry.job, entry.state)
                });
                let more = if several.len() > CANDIDATES as usize { "\n  and more" } else { "" };
                say(&format!(
                    "{digits} is the beginning of several runs; say more of it:{}{more}",
                    listed.collect::<String>()
                ));
                Err(Exit::Usage)
            }
        }
    }
}

/// The digits that were said, as far as they go.
fn shown(run: RunId) -> String {
    let (first, last) = (run.first.to_string(), run.last.to_string());
    let same: String =
        first.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    same.trim_end_matches('-').to_owned()
}

fn no_such_run(db: &Database, id: &str) -> Exit {
    say(&format!(
        "database {} has no run {id}; `pgsteward job history NAME` lists them with their ids",
        db.name()
    ));
    Exit::Usage
}

async fn cancel(db: &Database, id: Uuid) -> Result<CancelResult, Error> {
    let actor = &actor();
    let mut conn = db.acquire(Purpose::Check).await?;
    let by = By { actor, origin: None };
    conn.transaction(&TxOptions::within(db.query_timeout()), |tx| {
        Box::pin(commands::cancel(tx, by, id))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_its_id_or_the_beginning_of_it() {
        let id: Uuid = "0192f3a4-5b6c-7d8e-9f00-112233445566".parse().unwrap();
        assert_eq!(parse_run(&id.to_string()), Ok(RunId { first: id, last: id }));
        let some = parse_run("0192f3a4-5b").unwrap();
        assert!(some.first < id && id < some.last);
        assert_eq!(shown(some), "0192f3a4-5b");
        for bad in ["", "0192f3a", "0192f3a4-xyz", "0192f3a4-5b6c-7d8e-9f00-1122334455667"] {
            assert!(parse_run(bad).is_err(), "{bad}");
        }
    }
}
