//! Events of the audit trail for whoever asks: by filter, in the order of time, in pages.
//!
//! A page is a short read-only transaction that goes on behind the last event of the one before, by `(created_at,
//! id)`: no snapshot is held for long, and nothing shows twice. An event shows once its transaction has
//! committed; one that commits with an earlier time behind a page that was read is not in the pages after it.

pub mod filter_args;
pub mod csv;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Conn, Error, Kind, Param, TxOptions};

/// An event as it stands in the trail, read from its row; as JSON, one object with every column.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AuditEvent<'r> {
    pub id: Uuid,
    /// The time of the act. As text in UTC, always with six digits of a second.
    #[serde(serialize_with = "as_text")]
    pub created_at: DateTime<Utc>,
    /// The application's user, as the application names it.
    pub user_id: Option<&'r str>,
    /// The role in force, or pgsteward's job or caller.
    pub actor: &'r str,
    /// The role that logged in.
    pub session_user_name: &'r str,
    pub action: &'r str,
    /// Of a row trigger: `schema.table`.
    pub resource_type: Option<&'r str>,
    /// Of a row trigger: the primary key, several columns joined by `/`.
    pub resource_id: Option<&'r str>,
    /// JSON as PostgreSQL wrote it, here and below. Of an update: only what changed.
    pub old_values: Option<&'r RawValue>,
    pub new_values: Option<&'r RawValue>,
    /// An address, or a network with the length of its prefix.
    pub ip_address: Option<&'r str>,
    pub user_agent: Option<&'r str>,
    pub request_id: Option<&'r str>,
    /// `pgsteward`, `application` or `trigger`.
    pub source: &'r str,
    /// The writing transaction. A text, as in PostgreSQL's own JSON: 64 bits are more than many readers of
    /// JSON keep of a number.
    pub xid: &'r str,
    /// Anything else.
    pub details: Option<&'r RawValue>,
}

impl<'r> AuditEvent<'r> {
    /// The names of the columns, in the order of the fields.
    pub const COLUMNS: [&'static str; 16] = [
        "id",
        "created_at",
        "user_id",
        "actor",
        "session_user_name",
        "action",
        "resource_type",
        "resource_id",
        "old_values",
        "new_values",
        "ip_address",
        "user_agent",
        "request_id",
        "source",
        "xid",
        "details",
    ];

    /// Where a page that ends with this event goes on.
    pub fn cursor(&self) -> Cursor {
        Cursor { created_at: self.created_at, id: self.id }
    }

    fn of(row: &'r Row) -> Result<AuditEvent<'r>, Error> {
        Ok(AuditEvent {
            id: row.get(0),
            created_at: row.get(1),
            user_id: row.get(2),
            actor: row.get(3),
            session_user_name: row.get(4),
            action: row.get(5),
            resource_type: row.get(6),
            resource_id: row.get(7),
            old_values: json(row, 8)?,
            new_values: json(row, 9)?,
            ip_address: row.get(10),
            user_agent: row.get(11),
            request_id: row.get(12),
            source: row.get(13),
            xid: row.get(14),
            details: json(row, 15)?,
        })
    }
}

fn json(row: &Row, index: usize) -> Result<Option<&RawValue>, Error> {
    let Some(text) = row.get::<_, Option<&str>>(index) else { return Ok(None) };
    let wrong = |error| Error::with_source(Kind::Protocol, "read JSON of an event", error);
    serde_json::from_str(text).map(Some).map_err(|error: serde_json::Error| wrong(error))
}

fn as_text<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(TimestampText::of(*at).as_str())
}

/// An instant as text: RFC 3339 in UTC with microseconds, `2026-11-27T02:00:00.000000Z`.
#[derive(Debug, Clone, Copy)]
pub struct TimestampText([u8; 27]);

impl TimestampText {
    /// Of an instant between [`EARLIEST`] and [`LATEST`]. By hand, since an export writes millions.
    pub fn of(at: DateTime<Utc>) -> TimestampText {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |place: usize, digits: usize, mut value: u32| {
            for digit in text[place..place + digits].iter_mut().rev() {
                // A digit.
                *digit = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(0, 4, at.year().unsigned_abs());
        put(5, 2, at.month());
        put(8, 2, at.day());
        put(11, 2, at.hour());
        put(14, 2, at.minute());
        put(17, 2, at.second());
        put(20, 6, at.timestamp_subsec_micros());
        TimestampText(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Digits and punctuation: it is always text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for TimestampText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in the order of time. As text `2026-11-27T02:00:00.000000Z,01a21a97-05e3-7685-9433-1c2e3e46558e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub created_at: DateTime<Utc>,
    pub id: Uuid,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", TimestampText::of(self.created_at), self.id)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Cursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Cursor, String> {
        let parts = text.split_once(',');
        let parts = parts.and_then(|(at, id)| {
            Some((DateTime::parse_from_rfc3339(at).ok()?, Uuid::try_parse(id).ok()?))
        });
        match parts {
            Some((at, id)) if (EARLIEST..LATEST).contains(&at.to_utc()) => {
                Ok(Cursor { created_at: at.to_utc(), id })
            }
            _ => Err(format!("found {text:?}, wanted TIME,ID as the page before named it")),
        }
    }
}

/// The beginning of the year 1: before every event that can be asked for.
pub const EARLIEST: DateTime<Utc> = year_1970_and(-62_135_596_800);
/// The beginning of the year 10000: after every one.
pub const LATEST: DateTime<Utc> = year_1970_and(253_402_300_800);

const fn year_1970_and(seconds: i64) -> DateTime<Utc> {
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => at,
        None => DateTime::UNIX_EPOCH,
    }
}

/// Which events: those that meet every condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    pub user_id: Option<String>,
    pub actor: Option<String>,
    pub action: Option<ActionFilter>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    /// `pgsteward`, `application` or `trigger`.
    pub source: Option<String>,
    /// An address, or a network: as `inet` reads it.
    pub ip_address: Option<String>,
    pub request_id: Option<String>,
    /// Inclusive.
    pub since: DateTime<Utc>,
    /// Exclusive.
    pub until: DateTime<Utc>,
}

impl Default for Filter {
    /// Every event.
    fn default() -> Filter {
        Filter {
            user_id: None,
            actor: None,
            action: None,
            resource_type: None,
            resource_id: None,
            source: None,
            ip_address: None,
            request_id: None,
            since: EARLIEST,
            until: LATEST,
        }
    }
}

/// Which actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionFilter {
    Equals(String),
    StartsWith(String),
    /// The actions that [`Filter::resolve_prefix`] found for a prefix.
    AnyOf(Vec<String>),
}

impl Filter {
    /// Makes of the beginning of an action the actions that there are with it, where they can be counted. Whole
    /// actions are found by their index; beginnings only by reading every event.
    pub async fn resolve_prefix(&mut self, conn: &mut Conn, bound: Duration) -> Result<(), Error> {
        if let Some(ActionFilter::StartsWith(beginning)) = &self.action
            && let Some(all) = actions(conn, bound).await?
        {
            let some = all.into_iter().filter(|action| action.starts_with(beginning));
            self.action = Some(ActionFilter::AnyOf(some.collect()));
        }
        Ok(())
    }
}

/// So many different actions are looked through.
const ACTIONS_MAX: i64 = 1000;

/// All actions of the trail; none where they are too many. Steps from one to the next by their index.
async fn actions(conn: &mut Conn, bound: Duration) -> Result<Option<Vec<String>>, Error> {
    const SQL: &str = "
        WITH RECURSIVE step (action) AS (
            (SELECT l.action FROM steward.audit_logs l ORDER BY l.action LIMIT 1)
            UNION ALL
            SELECT (SELECT l.action FROM steward.audit_logs l WHERE l.action > s.action ORDER BY l.action LIMIT 1)
              FROM step s
             WHERE s.action IS NOT NULL
        )
        SELECT action FROM step WHERE action IS NOT NULL LIMIT $1";
    let options = TxOptions::within(bound).read_only();
    let rows = conn.transaction(&options, |tx| {
        Box::pin(tx.rows("read which actions there are", SQL, &[(&(ACTIONS_MAX + 1), Type::INT8)]))
    });
    let actions: Vec<String> = rows.await?.iter().map(|row| row.get(0)).collect();
    Ok((actions.len() as i64 <= ACTIONS_MAX).then_some(actions))
}

/// Who reads, and when.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Whether row security hides from this role what no policy of its own shows.
    pub restricted: bool,
}

/// Asks the server who reads.
pub async fn reader(conn: &mut Conn, bound: Duration) -> Result<Reader, Error> {
    const SQL: &str = "SELECT clock_timestamp(), row_security_active('steward.audit_logs')";
    let options = TxOptions::within(bound).read_only();
    let asked = conn.transaction(&options, |tx| {
        Box::pin(tx.row("read the clock and what may be read", SQL, &[]))
    });
    let row = asked.await?;
    Ok(Reader { now: row.get(0), restricted: row.get(1) })
}

/// The order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOrder {
    OldestFirst,
    NewestFirst,
}

/// A page: at most `limit` events that pass the filter, behind the cursor in this order.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery<'f> {
    pub filter: &'f Filter,
    pub order: EventOrder,
    pub behind: Option<Cursor>,
    pub limit: i64,
}

impl PageQuery<'_> {
    // Conditions that were not given are constants to the planner, since the statement is planned with its values.
    // The cursor's time stands by itself too: rows are compared by an index, but only a column rules partitions out.
    fn sql(&self) -> String {
        let (beyond, direction) = match self.order {
            EventOrder::OldestFirst => (">", "ASC"),
            EventOrder::NewestFirst => ("<", "DESC"),
        };
        format!(
            "SELECT l.id, l.created_at, l.user_id, l.actor, l.session_user_name, l.action, l.resource_type,
                    l.resource_id, l.old_values::text, l.new_values::text, abbrev(l.ip_address), l.user_agent,
                    l.request_id, l.source, l.xid::text, l.details::text
               FROM steward.audit_logs l
              WHERE l.created_at >= $1 AND l.created_at < $2
                AND ($3::timestamptz IS NULL OR l.created_at {beyond}= $3 AND (l.created_at, l.id) {beyond} ($3, $4))
                AND ($5::text IS NULL OR l.user_id = $5)
                AND ($6::text IS NULL OR l.actor = $6)
                AND ($7::text IS NULL OR l.action = $7)
                AND ($8::text[] IS NULL OR l.action = ANY ($8))
                AND ($9::text IS NULL OR starts_with(l.action, $9))
                AND ($10::text IS NULL OR l.resource_type = $10)
                AND ($11::text IS NULL OR l.resource_id = $11)
                AND ($12::text IS NULL OR l.source = $12)
                AND ($13::text IS NULL OR l.ip_address <<= $13::inet)
                AND ($14::text IS NULL OR l.request_id = $14)
              ORDER BY l.created_at {direction}, l.id {direction}
              LIMIT $15"
        )
    }

    /// Reads the page and folds its events into one value, so that they need not be kept.
    pub async fn fold<T: Default + Send>(
        &self,
        conn: &mut Conn,
        bound: Duration,
        take: impl Fn(&mut T, &AuditEvent<'_>) + Sync,
    ) -> Result<T, Error> {
        let filter = self.filter;
        let (at, id) =
            (self.behind.map(|cursor| cursor.created_at), self.behind.map(|cursor| cursor.id));
        let (is, any_of, begins) = match &filter.action {
            None => (None, None, None),
            Some(ActionFilter::Equals(action)) => (Some(action), None, None),
            Some(ActionFilter::AnyOf(actions)) => (None, Some(actions), None),
            Some(ActionFilter::StartsWith(beginning)) => (None, None, Some(beginning)),
        };
        let params: &[Param<'_>] = &[
            (&filter.since, Type::TIMESTAMPTZ),
            (&filter.until, Type::TIMESTAMPTZ),
            (&at, Type::TIMESTAMPTZ),
            (&id, Type::UUID),
            (&filter.user_id, Type::TEXT),
            (&filter.actor, Type::TEXT),
            (&is, Type::TEXT),
            (&any_of, Type::TEXT_ARRAY),
            (&begins, Type::TEXT),
            (&filter.resource_type, Type::TEXT),
            (&filter.resource_id, Type::TEXT),
            (&filter.source, Type::TEXT),
            (&filter.ip_address, Type::TEXT),
            (&filter.request_id, Type::TEXT),
            (&self.limit, Type::INT8),
        ];
        let (sql, take) = (&self.sql(), &take);
        conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
            Box::pin(async move {
                let mut taken = T::default();
                let with = |row: Row| {
                    take(&mut taken, &AuditEvent::of(&row)?);
                    Ok(())
                };
                tx.each_row("read events", sql, params, with).await?;
                Ok(taken)
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_six_digits_and_the_bounds_are_years() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (found, text) in [
            (at("2026-11-27T02:03:04Z"), "2026-11-27T02:03:04.000000Z"),
            (at("1999-12-31T23:59:59.000001999Z"), "1999-12-31T23:59:59.000001Z"),
            (EARLIEST, "0001-01-01T00:00:00.000000Z"),
            (LATEST - chrono::TimeDelta::microseconds(1), "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(TimestampText::of(found).as_str(), text);
        }
    }

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let cursor = Cursor {
            created_at: "2026-11-27T02:03:04.000005Z".parse().unwrap(),
            id: Uuid::from_u128(7),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in [
            "",
            ",",
            "2026-11-27,00000000-0000-0000-0000-000000000007",
            "2026-11-27T02:03:04Z",
            "x,y",
        ] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
