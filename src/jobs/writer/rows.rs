//! Rows as records, and which records are not worth writing any more.

use chrono::{DateTime, TimeDelta, Utc};

use crate::health::spool::{Reason, Record, Table};
use crate::store::measurements::MeasurementRow;

/// Daily partitions are made 14 days ahead. A row beyond the next day's would wait too long.
const FUTURE_MAX: TimeDelta = TimeDelta::days(15);

/// The table that a row belongs to.
pub(super) fn table(row: &MeasurementRow) -> Table {
    match row {
        MeasurementRow::Health(_) => Table::SystemHealth,
        MeasurementRow::Connections(_) => Table::ConnectionMetrics,
        MeasurementRow::Event(_) => Table::AuditLogs,
    }
}

/// None for a row that JSON cannot hold, which there is none of.
pub(super) fn encode(row: &MeasurementRow) -> Option<Record> {
    let body = match row {
        MeasurementRow::Health(row) => serde_json::to_vec(row),
        MeasurementRow::Connections(row) => serde_json::to_vec(row),
        MeasurementRow::Event(row) => serde_json::to_vec(row),
    };
    Some(Record { at: row.created_at(), table: table(row), body: body.ok()? })
}

/// None for a record of another make.
pub(super) fn decode(record: &Record) -> Option<MeasurementRow> {
    match record.table {
        Table::SystemHealth => {
            serde_json::from_slice(&record.body).ok().map(MeasurementRow::Health)
        }
        Table::ConnectionMetrics => {
            serde_json::from_slice(&record.body).ok().map(MeasurementRow::Connections)
        }
        Table::AuditLogs => serde_json::from_slice(&record.body).ok().map(MeasurementRow::Event),
    }
}

/// Returns the rows, and the records that are not worth writing: older than `keep` of their table,
/// dated so far ahead that they would wait for a partition that nobody makes, or of another format.
pub(super) fn sort(
    records: &[Record],
    now: DateTime<Utc>,
    keep: [TimeDelta; Table::ALL.len()],
) -> (Vec<MeasurementRow>, Vec<(Table, Reason)>) {
    let (mut rows, mut lost) = (Vec::with_capacity(records.len()), Vec::new());
    for record in records {
        if now - record.at > keep[record.table as usize] {
            lost.push((record.table, Reason::Age));
        } else if record.at - now > FUTURE_MAX {
            lost.push((record.table, Reason::Future));
        } else if let Some(row) = decode(record) {
            rows.push(row);
        } else {
            lost.push((record.table, Reason::Damaged));
        }
    }
    (rows, lost)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::store::audit::{Event, EventRow};
    use crate::store::measurements::{ConnectionRow, HealthRow, Range};

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
            MeasurementRow::Health(health),
            MeasurementRow::Connections(Box::new(connections)),
            MeasurementRow::Event(Box::new(event)),
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
            (Table::AuditLogs, -14 * 24, Reason::Damaged),
            (Table::AuditLogs, -16 * 24, Reason::Future),
        ] {
            assert_eq!(
                sort(&[aged(table, hours)], now, keep),
                (Vec::new(), vec![(table, reason)]),
                "{hours}"
            );
        }
    }
}
