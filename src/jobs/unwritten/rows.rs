//! Rows as records, and which of them can never be written.

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::{Error, Kind};
use crate::health::spool::{Reason, Record, Table};
use crate::store::health::Row;

/// None for a row that JSON cannot hold, which there is none of.
pub(super) fn encode(row: &Row) -> Option<Record> {
    let (table, body) = match row {
        Row::Health(row) => (Table::SystemHealth, serde_json::to_vec(row)),
        Row::Connections(row) => (Table::ConnectionMetrics, serde_json::to_vec(row)),
        Row::Event(row) => (Table::AuditLogs, serde_json::to_vec(row)),
    };
    Some(Record { at: row.created_at(), table, body: body.ok()? })
}

/// None for a record of another make.
pub(super) fn decode(record: &Record) -> Option<Row> {
    match record.table {
        Table::SystemHealth => serde_json::from_slice(&record.body).ok().map(Row::Health),
        Table::ConnectionMetrics => serde_json::from_slice(&record.body).ok().map(Row::Connections),
        Table::AuditLogs => serde_json::from_slice(&record.body).ok().map(Row::Event),
    }
}

/// Rows, and records that are none any more: too old for their table, by its place in `keep`, or of
/// another make.
pub(super) fn sort(
    records: &[Record],
    now: DateTime<Utc>,
    keep: [TimeDelta; Table::ALL.len()],
) -> (Vec<Row>, Vec<(Table, Reason)>) {
    let (mut rows, mut lost) = (Vec::with_capacity(records.len()), Vec::new());
    for record in records {
        if now - record.at > keep[record.table as usize] {
            lost.push((record.table, Reason::Age));
        } else if let Some(row) = decode(record) {
            rows.push(row);
        } else {
            lost.push((record.table, Reason::Damaged));
        }
    }
    (rows, lost)
}

/// Whether it is the row that the server will not have. What the schema, a privilege or the server
/// lacks (classes 25, 42, 53, 55, 57, 58) can be mended, and the row goes in then.
pub(super) fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Sql => {
            let class =
                error.sqlstate().map_or("", |state| state.code().get(..2).unwrap_or_default());
            !matches!(class, "25" | "42" | "53" | "55" | "57" | "58")
        }
        Kind::Protocol => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::store::audit::{Event, EventRow};
    use crate::store::health::{ConnectionRow, HealthRow, Range};

    #[test]
    fn a_row_comes_back_as_it_was() {
        let at = DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap();
        let health = HealthRow {
            id: Uuid::now_v7(),
            created_at: at,
            instance: "host/1/0".into(),
            component: "connectivity".into(),
            status: "unhealthy".into(),
            reason: "refused".into(),
            message: "über \"quotes\", a \0 and a \u{10FFFF}".into(),
            latency_ms: Some(0.1 + 0.2),
            details: json!({ "": [null, i64::MAX, 1.5] }),
        };
        let range = Range { min: 0, avg: 53.0 / 3.0, max: i32::MAX };
        let connections = ConnectionRow {
            id: Uuid::now_v7(),
            created_at: at,
            instance: "host/1/0".into(),
            interval_seconds: 59.999_999,
            samples: 4,
            max_connections: 100,
            reserved_connections: 3,
            total: range,
            active: Some(range),
            idle: None,
            idle_in_transaction: None,
            waiting: Some(Range::default()),
            saturation_max: 46.0 / 90.0,
            oldest_transaction_seconds_max: Some(0.0),
            oldest_idle_in_transaction_seconds_max: None,
            by_database: json!({ "app": { "avg": 3.5, "max": 5 } }),
            pool: json!({}),
        };
        let values =
            [json!({ "status": "healthy" }), json!({ "status": "unhealthy", "components": {} })];
        let event = Event {
            old_values: Some(&values[0]),
            new_values: Some(&values[1]),
            details: None,
            ..Event::new("instance:host/1/0", "health.changed", "database", "main", &values[0])
        };
        let event = EventRow::new(at, &event);
        assert_eq!(
            event.id.as_u128() >> 80,
            1_800_000_000_123,
            "the id bears the millisecond of its instant"
        );
        for row in [
            Row::Health(health),
            Row::Connections(Box::new(connections)),
            Row::Event(Box::new(event)),
        ] {
            let record = encode(&row).unwrap();
            assert_eq!(record.at, at);
            assert_eq!(decode(&record), Some(row));
            let other = Record { table: Table::SystemHealth, body: b"{}".to_vec(), ..record };
            assert_eq!(decode(&other), None);
        }
    }

    #[test]
    fn rows_older_than_their_table_keeps_are_not_written() {
        let keep = [TimeDelta::days(3), TimeDelta::days(2), TimeDelta::days(4)];
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let aged = |table, hours| Record {
            at: now - TimeDelta::hours(hours),
            table,
            body: b"no row".to_vec(),
        };
        for (table, hours, reason) in [
            (Table::SystemHealth, 71, Reason::Damaged),
            (Table::SystemHealth, 73, Reason::Age),
            (Table::ConnectionMetrics, 47, Reason::Damaged),
            (Table::ConnectionMetrics, 49, Reason::Age),
            (Table::AuditLogs, 95, Reason::Damaged),
            (Table::AuditLogs, 97, Reason::Age),
        ] {
            assert_eq!(
                sort(&[aged(table, hours)], now, keep),
                (Vec::new(), vec![(table, reason)]),
                "{hours}"
            );
        }
    }
}
