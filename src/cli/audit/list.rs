//! `pgsteward audit list`

use std::fmt::Write as _;

use chrono::DateTime;
use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::filter::Chosen;
use crate::audit::written;
use crate::cli::job::failed;
use crate::cli::job::text::columns;
use crate::cli::{Exit, Selection, Session, bounded, print, say};
use crate::db::{Conn, Database, Error, Purpose, TxOptions};
use crate::store::events::{self, Cursor, Walk};
use crate::store::trail::TrailRow;

/// Characters of what changed, in a line.
const CHANGE_MAX: usize = 100;
/// Characters of one value of it.
const VALUE_MAX: usize = 32;

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    chosen: Chosen,
    /// So many events at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// Older than this one, as the last page told
    #[arg(long, value_name = "TIME,ID", value_parser = cursor)]
    before: Option<Cursor>,
    #[command(flatten)]
    selection: Selection,
}

fn cursor(text: &str) -> Result<Cursor, String> {
    let parts = text.split_once(',').and_then(|(at, id)| {
        let created_at = DateTime::parse_from_rfc3339(at).ok()?.to_utc();
        Some(Cursor { created_at, id: id.parse::<Uuid>().ok()? })
    });
    parts.ok_or_else(|| "wanted TIME,ID as the last page told it".to_owned())
}

impl List {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let rows = self.read(db).await.map_err(|error| failed(db.name(), &error))?;
        if session.json {
            let objects = rows.iter().map(|row| {
                let mut object = Vec::new();
                written::json(row, &mut object);
                String::from_utf8_lossy(&object).into_owned()
            });
            print(&format!("[{}]", objects.collect::<Vec<_>>().join(",\n ")));
        } else if rows.is_empty() {
            say(&format!("no such event in the audit trail of database {}", db.name()));
        } else {
            print(&table(&rows));
        }
        if let Some(last) = rows.last().filter(|_| rows.len() as i64 == self.limit) {
            say(&format!("older: --before {},{}", written::instant(last.created_at()), last.id()));
        }
        Ok(Exit::Ok)
    }

    async fn read(&self, db: &Database) -> Result<Vec<TrailRow>, Error> {
        let bound = db.query_timeout();
        let (filter, limit, walk) = (self.chosen.filter(), self.limit, Walk::NewestFirst { before: self.before });
        let filter = &filter;
        bounded("read the audit trail", bound * 2, async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            let options = TxOptions::within(bound).read_only();
            let read = conn.transaction(&options, |tx| {
                Box::pin(async move {
                    let mut rows = Vec::new();
                    events::page(tx, filter, walk, limit, |row| {
                        rows.push(row);
                        Ok(())
                    })
                    .await?;
                    Ok(rows)
                })
            });
            read.await
        })
        .await
    }
}

fn table(rows: &[TrailRow]) -> String {
    let cells: Vec<[String; 6]> = rows.iter().map(cells).collect();
    columns(["time", "who", "action", "on", "from", "what"], &cells).join("\n")
}

fn cells(row: &TrailRow) -> [String; 6] {
    let field = |name: &str| row.field(name).unwrap_or_default();
    let who = row.field("user_id").unwrap_or_else(|| field("actor"));
    let on = match (row.field("resource_type"), row.field("resource_id")) {
        (Some(kind), Some(id)) => format!("{kind}/{id}"),
        (kind, _) => kind.unwrap_or_default().to_owned(),
    };
    let address = field("ip_address");
    let address = address.strip_suffix("/32").or(address.strip_suffix("/128")).unwrap_or(address);
    [
        row.created_at().format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        harmless(who),
        harmless(field("action")),
        harmless(&on),
        address.to_owned(),
        harmless(&shortened(&change(row), CHANGE_MAX)),
    ]
}

/// What became of which column; else what was told beside.
fn change(row: &TrailRow) -> String {
    let object = |name: &str| row.field(name).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (old, new) = (object("old_values"), object("new_values"));
    match (old.as_ref().and_then(Value::as_object), new.as_ref().and_then(Value::as_object)) {
        (Some(old), Some(new)) => {
            let mut text = String::new();
            for (key, value) in new {
                let separator = if text.is_empty() { "" } else { ", " };
                let before = old.get(key).map_or_else(|| "-".to_owned(), short);
                // Writing to a String cannot fail.
                let _ = write!(text, "{separator}{key}: {before} → {}", short(value));
            }
            text
        }
        _ => new.or(old).or_else(|| object("details")).map(|value| value.to_string()).unwrap_or_default(),
    }
}

fn short(value: &Value) -> String {
    shortened(&value.to_string(), VALUE_MAX)
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Whatever an application wrote, it does not command the terminal.
fn harmless(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() || turns(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\n\u{202e}ü"), "a\\u{1b}[31mb\\n\\u{202e}ü");
        assert_eq!(shortened("äöü", 2), "äö…");
    }

    #[test]
    fn a_cursor_is_read_as_it_was_told() {
        let told = "2026-11-27T08:00:00.123456Z,01a21a97-05e3-7685-9433-1c2e3e46558e";
        let read = cursor(told).unwrap();
        assert_eq!(format!("{},{}", written::instant(read.created_at), read.id), told);
        for wrong in ["", "2026-11-27", "2026-11-27T08:00:00Z", "2026-11-27T08:00:00Z,7"] {
            assert!(cursor(wrong).is_err(), "{wrong}");
        }
    }
}
