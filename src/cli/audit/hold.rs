//! `pgsteward audit hold …`: rows of the audit trail kept from being purged, for as long as somebody asks for it.

mod list;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use crate::cli::job::failed;
use crate::cli::{Exit, Selection, Session, actor, bounded, print, print_json, say};
use crate::db::{Database, Kind, Purpose, Tx, TxFuture, TxOptions};
use crate::store::holds::{self, ReleaseResult, Scope};

/// How long a purge under way is waited for: a moment without a word, then with one.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

#[derive(Debug, Subcommand)]
pub enum Hold {
    /// Keep events from being purged, from now on
    #[command(after_help = PLACE_EXAMPLES)]
    Place(Place),
    /// Let what a hold alone keeps be purged again
    Release(Release),
    /// List the holds, and how many events each covers
    List(list::List),
}

const PLACE_EXAMPLES: &str = "\
Covers audit_query, written already or yet to come, that meet every condition given. Prints the hold's id.

Examples:
  pgsteward audit hold place --user user-123 --reason 'case 2026-17'
  pgsteward audit hold place --resource public.vms/7 --from 2026-01-01 --until 2026-02-01 --reason 'incident 88'";

#[derive(Debug, Args)]
pub struct Place {
    /// Why, for whoever finds it
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Conditions {
    /// Events of this user
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    user: Option<String>,
    /// Events on this type of resource, or on this one
    #[arg(long, value_name = "TYPE[/ID]", value_parser = resource)]
    resource: Option<Resource>,
    /// Events from this instant on; a date is its midnight in UTC
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Option<DateTime<Utc>>,
    /// Events before this instant
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, Args)]
pub struct Release {
    /// The hold, as it was printed when it was placed
    #[arg(value_name = "ID")]
    id: Uuid,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    #[command(flatten)]
    selection: Selection,
}

impl Hold {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        match self {
            Hold::Place(place) => place.execute(session).await,
            Hold::Release(release) => release.execute(session).await,
            Hold::List(list) => list.execute(session).await,
        }
    }
}

impl Place {
    async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let scope = self.conditions.scope()?;
        let opened = session.open(&self.selection)?;
        let id = change(&opened.db, |tx| {
            let (scope, reason) = (scope.clone(), self.reason.clone());
            Box::pin(async move { holds::place(tx, &scope, &reason, &actor()).await })
        });
        let id = id.await?;
        if session.json {
            print_json(&json!({ "database": opened.db.name(), "id": id }));
        } else {
            print(&id.to_string());
        }
        Ok(Exit::Ok)
    }
}

impl Conditions {
    fn scope(self) -> Result<Scope, Exit> {
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from >= until
        {
            say(&format!(
                "found --from {from} and --until {until}, wanted the first before the second"
            ));
            return Err(Exit::Usage);
        }
        let Resource { resource_type, resource_id } = self.resource.unwrap_or_default();
        Ok(Scope {
            user_id: self.user,
            resource_type,
            resource_id,
            begins_at: self.from,
            ends_at: self.until,
        })
    }
}

impl Release {
    async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let id = self.id;
        let released = change(&opened.db, |tx| {
            let reason = self.reason.clone();
            Box::pin(async move { holds::release(tx, id, &reason, &actor()).await })
        });
        match released.await? {
            ReleaseResult::Released if session.json => {
                print_json(&json!({ "database": opened.db.name(), "id": id, "released": true }));
            }
            ReleaseResult::Released => print(&format!("hold {id} is released")),
            ReleaseResult::AlreadyReleased { by, at } => {
                say(&format!("hold {id} was released already, by {by} at {}", list::at(at)));
                return Err(Exit::Usage);
            }
            ReleaseResult::Unknown => {
                say(&format!(
                    "there is no hold {id}; `pgsteward audit hold list --all` lists them"
                ));
                return Err(Exit::Usage);
            }
        }
        Ok(Exit::Ok)
    }
}

/// Runs a transaction that changes holds. While retention deletes it has to wait, which is said.
async fn change<T, F>(db: &Database, mut act: F) -> Result<T, Exit>
where
    F: for<'c, 't> FnMut(&'t Tx<'c>) -> TxFuture<'t, T>,
{
    let timeout = db.query_timeout();
    let bound = timeout * 2 + WAITS.iter().sum::<Duration>();
    let changed = bounded("change holds", bound, async {
        let mut conn = db.acquire(Purpose::Check).await?;
        let mut attempt = async |wait: Duration| {
            let options =
                holds::purge_options(TxOptions::within(timeout + wait)).lock_timeout(wait);
            conn.transaction(&options, &mut act).await
        };
        match attempt(WAITS[0]).await {
            Err(error) if error.kind() == Kind::LockTimeout => {
                let seconds = WAITS[1].as_secs();
                say(&format!(
                    "waiting for the transaction that purges the audit trail, up to {seconds} s"
                ));
                attempt(WAITS[1]).await
            }
            outcome => outcome,
        }
    });
    changed.await.map_err(|error| failed(db.name(), &error))
}

/// What `--resource` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resource {
    resource_type: Option<String>,
    resource_id: Option<String>,
}

/// The id is what follows the first slash: keys of several columns are joined by more of them.
fn resource(text: &str) -> Result<Resource, String> {
    let (resource_type, resource_id) = match text.split_once('/') {
        Some((resource_type, id)) => (resource_type, Some(id.to_owned())),
        None => (text, None),
    };
    if resource_type.is_empty() || resource_id.as_deref() == Some("") {
        return Err("wanted TYPE or TYPE/ID, as public.vms/7".to_owned());
    }
    Ok(Resource { resource_type: Some(resource_type.to_owned()), resource_id })
}

/// An instant of RFC 3339, or a date.
fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    // Only years of four digits: of others the server and the proofs have no common text.
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|_| text.len() == "2026-01-31".len());
    let date = date.ok_or("wanted an instant as 2026-01-31T18:00:00Z, or a date as 2026-01-31")?;
    Ok(date.and_time(NaiveTime::MIN).and_utc())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        hold: Hold,
    }

    fn scope(line: &str) -> Option<Scope> {
        let Hold::Place(place) = Line::try_parse_from(line.split(' ')).ok()?.hold else {
            return None;
        };
        place.conditions.scope().ok()
    }

    #[test]
    fn conditions_are_read_as_they_are_meant() {
        let text = |text: &str| Some(text.to_owned());
        let at = |text: &str| Some(text.parse().unwrap());
        let table = [
            ("--user u-1", Scope { user_id: text("u-1"), ..Scope::default() }),
            ("--resource vms", Scope { resource_type: text("vms"), ..Scope::default() }),
            (
                "--resource public.vms/7/eu --until 2026-01-31",
                Scope {
                    resource_type: text("public.vms"),
                    resource_id: text("7/eu"),
                    ends_at: at("2026-01-31T00:00:00Z"),
                    ..Scope::default()
                },
            ),
            (
                "--from 2026-01-31T01:00:00+02:00 --until 2026-01-31",
                Scope {
                    begins_at: at("2026-01-30T23:00:00Z"),
                    ends_at: at("2026-01-31T00:00:00Z"),
                    ..Scope::default()
                },
            ),
        ];
        for (given, wanted) in table {
            assert_eq!(scope(&format!("hold place --reason r {given}")), Some(wanted), "{given}");
        }
    }

    #[test]
    fn what_makes_no_hold_is_refused() {
        for given in [
            "place --reason r",
            "place --user u",
            "place --reason r --user ",
            "place --reason  --user u",
            "place --reason r --resource ",
            "place --reason r --resource /7",
            "place --reason r --resource vms/",
            "place --reason r --from yesterday",
            "place --reason r --from 2026-02-30",
            "place --reason r --from 2026-1-1",
            "place --reason r --from 2026-01-01T00:00:00",
            "place --reason r --from 10000-01-01",
            "place --reason r --from 2026-01-02 --until 2026-01-02",
            "place --reason r --from 2026-01-02 --until 2026-01-01",
        ] {
            assert_eq!(scope(&format!("hold {given}")), None, "{given}");
        }
        for given in [
            "release --reason r",
            "release 7 --reason r",
            "release 01a21a97-05e3-7685-9433-1c2e3e46558e",
        ] {
            assert!(Line::try_parse_from(format!("hold {given}").split(' ')).is_err(), "{given}");
        }
    }
}
