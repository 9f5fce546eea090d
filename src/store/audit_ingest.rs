//! Events of applications, many at once, into the audit trail by COPY.

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use uuid::{NoContext, Timestamp, Uuid};

use super::audit_query::TimestampText;
use crate::db::{Error, Tx};

/// An event as it goes into its row. Texts are cut, JSON is checked, before.
#[derive(Debug, Clone, Copy, Default)]
pub struct IngestedEvent<'a> {
    pub action: &'a str,
    pub user_id: Option<&'a str>,
    pub resource_type: Option<&'a str>,
    pub resource_id: Option<&'a str>,
    /// JSON text, here and below.
    pub old_values: Option<&'a str>,
    pub new_values: Option<&'a str>,
    /// As `inet` reads it.
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub details: Option<&'a str>,
}

/// Writes events on behalf of `actor`, all of one instant, in the order given: their ids count up.
pub async fn copy<'a>(
    tx: &Tx<'_>,
    actor: &str,
    events: impl Iterator<Item = IngestedEvent<'a>> + Send,
) -> Result<u64, Error> {
    const SQL: &str = "
        COPY steward.audit_logs (id, created_at, actor, source, action, user_id, resource_type, resource_id,
                                 old_values, new_values, ip_address, user_agent, request_id, details)
        FROM STDIN";
    let at: DateTime<Utc> = tx.row("read the clock", "SELECT clock_timestamp()", &[]).await?.get(0);
    let rows = rows(at, actor, events);
    tx.copy_in("write events", SQL, rows).await
}

/// The lines of the text format.
fn rows<'a>(
    at: DateTime<Utc>,
    actor: &str,
    events: impl Iterator<Item = IngestedEvent<'a>>,
) -> Bytes {
    let (created_at, first) = (TimestampText::of(at), first_id(at));
    let mut rows = Vec::new();
    for (place, event) in events.enumerate() {
        let id = Uuid::from_u128(first + place as u128);
        let mut buffer = Uuid::encode_buffer();
        rows.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
        let fields = [
            Some(created_at.as_str()),
            Some(actor),
            Some("application"),
            Some(event.action),
            event.user_id,
            event.resource_type,
            event.resource_id,
            event.old_values,
            event.new_values,
            event.ip_address,
            event.user_agent,
            event.request_id,
            event.details,
        ];
        for text in fields {
            rows.push(b'\t');
            field(&mut rows, text);
        }
        rows.push(b'\n');
    }
    rows.into()
}

/// A version 7 id of this instant, with room to count up from.
fn first_id(at: DateTime<Utc>) -> u128 {
    // No server's clock is before 1970.
    let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
    let id = Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, at.timestamp_subsec_nanos()))
        .as_u128();
    // Half of the last 48 random bits' range is free above.
    id & !(1 << 47)
}

/// See "Text Format" of COPY in PostgreSQL's documentation.
fn field(rows: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else { return rows.extend_from_slice(b"\\N") };
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t'))
    {
        rows.extend_from_slice(&rest[..at]);
        rows.extend_from_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\t",
        });
        rest = &rest[at + 1..];
    }
    rows.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_the_format_is_escaped() {
        let mut line = Vec::new();
        field(&mut line, Some("a\tb\\N\r\nü"));
        field(&mut line, None);
        assert_eq!(String::from_utf8(line).unwrap(), "a\\tb\\\\N\\r\\nü\\N");
    }

    #[test]
    fn ids_bear_the_time_and_count_up() {
        let at: DateTime<Utc> = "2026-11-27T02:03:04.005Z".parse().unwrap();
        let events =
            std::iter::repeat_n(IngestedEvent { action: "a", ..IngestedEvent::default() }, 3);
        let rows = rows(at, "token:x", events);
        let text = std::str::from_utf8(&rows).unwrap();
        let ids: Vec<Uuid> =
            text.lines().map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect();
        assert!(
            ids.is_sorted() && ids[0] < ids[1] && ids.iter().all(|id| id.get_version_num() == 7),
            "{text}"
        );
        assert_eq!(ids[2].get_timestamp().unwrap().to_unix().0, 1_795_744_984);
        assert!(
            text.starts_with(&ids[0].to_string())
                && text.contains("\t2026-11-27T02:03:04.005000Z\ttoken:x\t")
        );
    }
}
