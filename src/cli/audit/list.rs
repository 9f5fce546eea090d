//! `pgsteward audit list`

use chrono::Utc;
use clap::Args;
use serde_json::value::RawValue;

use super::filter::Asked;
use super::{shown, unread};
use crate::cli::job::text::{columns, instant};
use crate::cli::{Exit, Selection, Session, bounded, print, say};
use crate::db::{Conn, Database, Error, Purpose};
use crate::store::audit_query::{self, AuditEvent, Cursor, EventOrder, Filter, PageQuery};

/// Letters of a cell.
const NAME_MAX: usize = 32;
const RESOURCE_MAX: usize = 48;
const CHANGE_MAX: usize = 96;

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    asked: Asked,
    /// So many events at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Only what is older than the end of a page before, as that page named it
    #[arg(long, value_name = "CURSOR", value_parser = str::parse::<Cursor>)]
    before: Option<Cursor>,
    #[command(flatten)]
    selection: Selection,
}

/// The events of a page, as they are told.
#[derive(Default)]
struct Listed {
    rows: Vec<[String; 6]>,
    objects: Vec<Box<RawValue>>,
    count: i64,
    /// The last that is shown.
    last: Option<Cursor>,
    more: bool,
}

impl List {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let read = self.read(db, session.json).await.map_err(|error| unread(db.name(), &error))?;
        let listed = read.map_err(|wrong| {
            say(&wrong);
            Exit::Usage
        })?;
        if session.json {
            match serde_json::to_string_pretty(&listed.objects) {
                Ok(text) => print(&shown::escaped(&text, &['\n'])),
                Err(error) => say(&format!("write JSON: {error}")),
            }
        } else if listed.rows.is_empty() {
            say(&format!("no such event in the audit trail of database {}", db.name()));
        } else {
            print(
                &columns(["time", "who", "action", "resource", "ip", "what"], &listed.rows)
                    .join("\n"),
            );
        }
        if let Some(last) = listed.last.filter(|_| listed.more) {
            say(&format!("older: --before {last}"));
        }
        Ok(Exit::Ok)
    }

    /// The page, or why it cannot be asked for.
    async fn read(&self, db: &Database, json: bool) -> Result<Result<Listed, String>, Error> {
        let bound = db.query_timeout();
        bounded("read events", bound * 3, async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            let reader = audit_query::reader(conn, bound).await?;
            super::warn(&reader);
            let mut filter = match self.asked.filter(reader.now, None) {
                Ok(filter) => filter,
                Err(wrong) => return Ok(Err(wrong)),
            };
            filter.resolve_prefix(conn, bound).await?;
            self.page(&filter)
                .fold(conn, bound, |listed, event| self.take(listed, event, json))
                .await
                .map(Ok)
        })
        .await
    }

    /// One more than is shown: whether there is more.
    fn page<'f>(&self, filter: &'f Filter) -> PageQuery<'f> {
        PageQuery {
            filter,
            order: EventOrder::NewestFirst,
            behind: self.before,
            limit: self.limit + 1,
        }
    }

    fn take(&self, listed: &mut Listed, event: &AuditEvent<'_>, json: bool) {
        if listed.count >= self.limit {
            listed.more = true;
            return;
        }
        listed.count += 1;
        listed.last = Some(event.cursor());
        if json {
            // Texts and JSON: it cannot fail.
            listed.objects.extend(serde_json::value::to_raw_value(event));
        } else {
            listed.rows.push(cells(event));
        }
    }
}

fn cells(event: &AuditEvent<'_>) -> [String; 6] {
    let resource = [event.resource_type, event.resource_id]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("/");
    [
        instant(event.created_at, &Utc),
        shown::cell(event.user_id.unwrap_or(event.actor), NAME_MAX),
        shown::cell(event.action, NAME_MAX),
        shown::cell(&resource, RESOURCE_MAX),
        event.ip_address.unwrap_or_default().to_owned(),
        shown::cell(&shown::change(event), CHANGE_MAX),
    ]
}
