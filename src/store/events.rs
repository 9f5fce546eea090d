//! Events of the audit trail, as they are asked for: by who, what, which thing, and when.

use chrono::{DateTime, Utc};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::trail::{COLUMNS, TrailRow, each};
use crate::db::{Error, Param, Tx};

/// Which events are wanted. What is absent is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub user: Option<String>,
    pub actor: Option<String>,
    pub action: Option<Action>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    /// `pgsteward`, `application` or `trigger`
    pub source: Option<String>,
    /// An address or a network, as `inet` reads it.
    pub address: Option<String>,
    pub request: Option<String>,
    /// Inclusive.
    pub since: Option<DateTime<Utc>>,
    /// Exclusive.
    pub until: Option<DateTime<Utc>>,
}

/// An action, or all that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Is(String),
    BeginsWith(String),
}

/// A place in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub created_at: DateTime<Utc>,
    pub id: Uuid,
}

/// In which order, and where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    OldestFirst { after: Option<Cursor> },
    NewestFirst { before: Option<Cursor> },
}

/// Gives up to `limit` events, one by one as they come. The primary key is in the order of time, so that a
/// page begins where the last one ended, however far that is.
pub async fn page(
    tx: &Tx<'_>,
    filter: &Filter,
    walk: Walk,
    limit: i64,
    with: impl FnMut(TrailRow) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    let mut asked = Asked::default();
    asked.by("l.user_id = ", "", &filter.user);
    asked.by("l.actor = ", "", &filter.actor);
    match &filter.action {
        Some(Action::Is(action)) => asked.text("l.action = ", "", action),
        Some(Action::BeginsWith(prefix)) => asked.text("starts_with(l.action, ", ")", prefix),
        None => {}
    }
    asked.by("l.resource_type = ", "", &filter.resource_type);
    asked.by("l.resource_id = ", "", &filter.resource_id);
    asked.by("l.source = ", "", &filter.source);
    asked.by("l.ip_address <<= ", "::inet", &filter.address);
    asked.by("l.request_id = ", "", &filter.request);
    asked.time("l.created_at >= ", &filter.since);
    asked.time("l.created_at < ", &filter.until);
    let order = match &walk {
        Walk::OldestFirst { after } => {
            asked.cursor(">", after);
            "l.created_at, l.id"
        }
        Walk::NewestFirst { before } => {
            asked.cursor("<", before);
            "l.created_at DESC, l.id DESC"
        }
    };
    asked.params.push((&limit, Type::INT8));
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_logs l{} ORDER BY {order} LIMIT ${}",
        asked.conditions,
        asked.params.len()
    );
    each(tx, "read the audit trail", &sql, &asked.params, with).await
}

/// The server's clock.
pub async fn now(tx: &Tx<'_>) -> Result<DateTime<Utc>, Error> {
    Ok(tx.row("read the clock", "SELECT clock_timestamp()", &[]).await?.get(0))
}

/// Conditions, and the parameters that they speak of.
#[derive(Default)]
struct Asked<'a> {
    conditions: String,
    params: Vec<Param<'a>>,
}

impl<'a> Asked<'a> {
    fn add(&mut self, before: &str, after: &str, value: &'a (dyn ToSql + Sync), kind: Type) {
        self.params.push((value, kind));
        let word = if self.conditions.is_empty() { " WHERE" } else { " AND" };
        self.conditions += &format!("{word} {before}${}{after}", self.params.len());
    }

    fn text(&mut self, before: &str, after: &str, value: &'a String) {
        self.add(before, after, value, Type::TEXT);
    }

    fn by(&mut self, before: &str, after: &str, value: &'a Option<String>) {
        if let Some(value) = value {
            self.text(before, after, value);
        }
    }

    fn time(&mut self, before: &str, value: &'a Option<DateTime<Utc>>) {
        if let Some(value) = value {
            self.add(before, "", value, Type::TIMESTAMPTZ);
        }
    }

    fn cursor(&mut self, than: &str, cursor: &'a Option<Cursor>) {
        if let Some(Cursor { created_at, id }) = cursor {
            self.params.push((created_at, Type::TIMESTAMPTZ));
            let at = self.params.len();
            self.add(&format!("(l.created_at, l.id) {than} (${at}, "), ")", id, Type::UUID);
        }
    }
}
