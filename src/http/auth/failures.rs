//! Failed attempts, gathered for the audit trail: one row for each address and reason, however many there were.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::Denied;

/// Rows between two flushes.
const ROWS_MAX: usize = 256;
/// Of what a client says of itself.
const USER_AGENT_CHARS_MAX: usize = 200;

/// What failed between two flushes, of one address for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    pub address: IpAddr,
    pub reason: Denied,
    pub count: u64,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    /// The route of the last one, as the table of routes writes it.
    pub route: String,
    /// What the last one said of itself, cut to 200 characters.
    pub user_agent: Option<String>,
}

/// What was taken for a flush.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FailedAttempts {
    pub attempts: Vec<FailedAttempt>,
    /// Attempts of which there was no room to say more.
    pub overflow: u64,
}

/// The rows that wait.
#[derive(Debug, Default)]
pub struct FailureLog {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    rows: BTreeMap<(IpAddr, &'static str), FailedAttempt>,
    overflow: u64,
}

impl FailureLog {
    /// Notes one. Nothing of what was sent as a credential comes here.
    pub fn record(
        &self,
        address: IpAddr,
        reason: Denied,
        route: &str,
        user_agent: Option<&str>,
        now: DateTime<Utc>,
    ) {
        let address = address.to_canonical();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address, reason.code());
        if pending.rows.len() >= ROWS_MAX && !pending.rows.contains_key(&key) {
            pending.overflow = pending.overflow.saturating_add(1);
            return;
        }
        let row = pending.rows.entry(key).or_insert_with(|| FailedAttempt {
            address,
            reason,
            count: 0,
            first: now,
            last: now,
            route: String::new(),
            user_agent: None,
        });
        row.count = row.count.saturating_add(1);
        row.last = row.last.max(now);
        route.clone_into(&mut row.route);
        row.user_agent = user_agent.map(cut);
    }

    /// Takes what waits.
    pub fn take(&self) -> FailedAttempts {
        let pending =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        FailedAttempts {
            attempts: pending.rows.into_values().collect(),
            overflow: pending.overflow,
        }
    }
}

/// jsonb holds no NUL, and a log line no escape sequence.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    #[test]
    fn attempts_of_one_address_for_one_reason_are_one_row() {
        let (failures, one) = (FailureLog::default(), IpAddr::from([192, 0, 2, 1]));
        failures.record(one, Denied::Expired, "/a", Some("old\u{0}"), at(1));
        failures.record(
            "::ffff:192.0.2.1".parse().unwrap(),
            Denied::Expired,
            "/b",
            Some(&"é".repeat(300)),
            at(5),
        );
        failures.record(one, Denied::UnknownToken, "/a", None, at(3));
        let taken = failures.take();
        assert_eq!((taken.attempts.len(), taken.overflow), (2, 0));
        let row = &taken.attempts[0];
        assert_eq!(
            (row.reason, row.count, row.first, row.last),
            (Denied::Expired, 2, at(1), at(5))
        );
        assert_eq!(
            (row.route.as_str(), row.user_agent.as_deref().unwrap()),
            ("/b", "é".repeat(200).as_str())
        );
        assert_eq!(failures.take(), FailedAttempts::default());
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let failures = FailureLog::default();
        for n in 0..300_u32 {
            failures.record(IpAddr::from(n.to_be_bytes()), Denied::UnknownToken, "/", None, at(0));
        }
        failures.record(IpAddr::from([0; 4]), Denied::UnknownToken, "/", None, at(9));
        let taken = failures.take();
        assert_eq!((taken.attempts.len(), taken.overflow), (256, 44));
        assert_eq!((taken.attempts[0].count, taken.attempts[0].last), (2, at(9)));
        assert_eq!(failures.take().overflow, 0);
    }
}
