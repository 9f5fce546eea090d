//! The result of one tick as plain data, as the server reported it.

use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::capabilities::Capabilities;
use super::{PartResults, catalog};
use crate::db::{Error, Kind, quote_ident};

/// The state of the server at one instant. `unavailable` explains each part that is `None`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Snapshot {
    /// The time on the server's clock.
    #[serde(deserialize_with = "epoch_seconds")]
    pub time: DateTime<Utc>,
    /// `server_version_num`, such as 150018.
    pub version: i32,
    pub in_recovery: bool,
    #[serde(deserialize_with = "epoch_seconds")]
    pub started_at: DateTime<Utc>,
    /// The current database and role of the connection.
    pub database: String,
    pub role: String,
    /// Whether the details of other roles' sessions are visible to this role.
    pub sees_all: bool,
    pub max_connections: i64,
    /// `superuser_reserved_connections`.
    pub superuser_reserved: i64,
    /// `reserved_connections` (16 and later, else 0).
    pub reserved: i64,
    #[serde(skip)]
    pub sessions: Sessions,
    /// The 20 databases of the cluster with the oldest transactions, oldest first.
    #[serde(skip)]
    pub ages: Option<Vec<DatabaseAge>>,
    #[serde(skip)]
    pub replication: Option<Replication>,
    /// At most 20 slots: lost ones first, then those that retain most WAL.
    #[serde(skip)]
    pub slots: Option<Vec<Slot>>,
    #[serde(skip)]
    pub archiver: Option<Archiver>,
    /// The watched tables that exist and are partitioned by range of a `timestamptz`.
    #[serde(skip)]
    pub partitions: Option<Vec<Partitioned>>,
    #[serde(skip)]
    pub unavailable: Vec<Unavailable>,
}

/// [`Unavailable::what`] of the sessions that are hidden from a role without `pg_read_all_stats`.
pub const OTHERS_SESSIONS: &str = "sessions of other roles";

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    pub what: String,
    /// `not_permitted` or `not_supported`.
    pub code: &'static str,
    pub reason: String,
    /// The statement or setting that makes it readable.
    pub remedy: String,
}

impl Unavailable {
    pub(super) fn not_permitted(what: &str, reason: String, remedy: String) -> Unavailable {
        Unavailable { what: what.to_owned(), code: "not_permitted", reason, remedy }
    }

    pub(super) fn not_supported(what: &str, reason: String) -> Unavailable {
        let remedy = "none: this server does not support it".to_owned();
        Unavailable { what: what.to_owned(), code: "not_supported", reason, remedy }
    }
}

/// Client sessions of the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Sessions {
    pub counts: Vec<SessionCount>,
    /// Sessions that wait for a lock.
    pub waiting: i64,
    pub longest_wait: Option<LockWait>,
    /// The oldest transaction of a client, without ours and without VACUUM.
    pub oldest_transaction: Option<Session>,
    /// [`Session::seconds`] counts from when the session became idle.
    pub oldest_idle_in_transaction: Option<Session>,
    pub oldest_prepared: Option<Prepared>,
}

impl Sessions {
    /// Counts the sessions in a state; see [`SessionCount::state`].
    pub fn in_state(&self, state: &str) -> i64 {
        self.count(|found| found == state)
    }

    /// Counts the sessions that are idle in a transaction, failed transactions included.
    pub fn idle_in_transaction(&self) -> i64 {
        self.count(|state| state.starts_with("idle in transaction"))
    }

    /// Counts all client sessions, hidden ones included.
    pub fn total(&self) -> i64 {
        self.count(|_| true)
    }

    /// Counts the sessions whose details are hidden from this role.
    pub fn hidden(&self) -> i64 {
        self.in_state("hidden")
    }

    fn count(&self, is_counted: impl Fn(&str) -> bool) -> i64 {
        let counted = self.counts.iter().filter(|count| is_counted(&count.state));
        counted.map(|count| count.sessions).sum()
    }
}

/// The number of sessions of one database in one state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SessionCount {
    /// Set for the 64 databases with the most sessions, `None` for all others together.
    pub database: Option<String>,
    /// The state as in `pg_stat_activity`, `starting` before the session has one, `hidden` if this
    /// role may not see it.
    pub state: String,
    pub sessions: i64,
}

/// The session that has waited longest for a lock.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct LockWait {
    pub pid: i32,
    /// `None` in the short time before the server records when the wait began.
    pub seconds: Option<f64>,
    pub blockers: Vec<Blocker>,
}

/// A holder of the lock. Process id 0 stands for a prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Blocker {
    pub pid: i32,
    pub user: Option<String>,
    pub application: Option<String>,
}

/// A client session and the age of its transaction or idle time.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Session {
    pub pid: i32,
    pub user: Option<String>,
    pub application: Option<String>,
    pub database: String,
    pub state: String,
    pub seconds: f64,
}

/// A transaction prepared for two-phase commit.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Prepared {
    pub gid: String,
    pub seconds: f64,
}

/// The number of transactions and multixacts since the oldest unfrozen ones of a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct DatabaseAge {
    pub name: String,
    pub xid_age: i64,
    pub mxid_age: i64,
    /// Whether this is the current database.
    pub own: bool,
}

/// Streaming replication, as a standby and as a sender.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Replication {
    /// `None` on a primary.
    pub standby: Option<Standby>,
    /// At most 20 standbys, those with the greatest lag first.
    pub replicas: Vec<Replica>,
}

/// This server as a standby.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Standby {
    /// Whether a WAL receiver runs. A standby that restores from an archive has none.
    pub receiver: bool,
    pub receiver_status: Option<String>,
    /// `None` before a transaction was replayed.
    pub lag_seconds: Option<f64>,
}

/// A standby of this server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Replica {
    pub name: Option<String>,
    /// `None` if it is hidden from this role.
    pub state: Option<String>,
    /// `None` if there was nothing to replay recently.
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<f64>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Slot {
    pub name: String,
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` if the slot reserves no WAL yet.
    pub wal_status: Option<String>,
    pub retained_bytes: Option<f64>,
}

/// WAL archiving.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Archiver {
    pub enabled: bool,
    /// Whether the last attempt failed.
    pub failing: bool,
    pub failed_count: i64,
    pub since_success_seconds: Option<f64>,
}

/// A watched table and the ranges of its partitions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Partitioned {
    /// `schema.table`
    pub table: String,
    /// Whether there is a default partition.
    pub default: bool,
    /// Lower and upper bounds in seconds since 1970; `None` if unbounded.
    pub bounds: Vec<(Option<f64>, Option<f64>)>,
}

impl Partitioned {
    /// Counts the partitions that follow the one for `now` without a gap. Returns `None` if there
    /// is no partition for `now`.
    pub fn ahead(&self, now: DateTime<Utc>) -> Option<i64> {
        let now = now.timestamp_micros() as f64 / 1e6;
        let mut bounds: Vec<(f64, f64)> = self
            .bounds
            .iter()
            .map(|(from, to)| (from.unwrap_or(f64::NEG_INFINITY), to.unwrap_or(f64::INFINITY)))
            .filter(|(_, to)| *to > now)
            .collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut bounds = bounds.into_iter();
        let (_, mut end) = bounds.next().filter(|(from, _)| *from <= now)?;
        let mut ahead = 0;
        for (from, to) in bounds {
            if from != end {
                break;
            }
            end = to;
            ahead += 1;
        }
        Some(ahead)
    }
}

impl Snapshot {
    /// The number of connections that ordinary roles may open together.
    pub fn usable_connections(&self) -> i64 {
        (self.max_connections - self.superuser_reserved - self.reserved).max(1)
    }

    /// Assembles a snapshot from the JSON of its parts.
    pub(super) fn parse(
        results: &PartResults,
        capabilities: &Capabilities,
    ) -> Result<Snapshot, Error> {
        let mut snapshot: Snapshot = required(results, catalog::SERVER)?;
        snapshot.sessions = required(results, catalog::SESSIONS)?;
        snapshot.ages = optional(results, catalog::WRAPAROUND)?;
        snapshot.replication = optional(results, catalog::REPLICATION)?;
        snapshot.slots = optional(results, catalog::SLOTS)?;
        snapshot.archiver = optional(results, catalog::ARCHIVER)?;
        snapshot.partitions = optional(results, catalog::PARTITIONS)?;
        snapshot.unavailable = capabilities.unavailable().to_vec();
        if !snapshot.sees_all {
            let role = quote_ident(&snapshot.role);
            snapshot.unavailable.push(Unavailable::not_permitted(
                OTHERS_SESSIONS,
                format!("role {role} lacks pg_read_all_stats"),
                format!("GRANT pg_monitor TO {role}"),
            ));
        }
        Ok(snapshot)
    }
}

fn required<T: DeserializeOwned>(results: &PartResults, name: &str) -> Result<T, Error> {
    let missing = || Error::new(Kind::Protocol, format!("observe: the server returned no {name}"));
    optional(results, name)?.ok_or_else(missing)
}

fn optional<T: DeserializeOwned>(results: &PartResults, name: &str) -> Result<Option<T>, Error> {
    let json = results.get(name);
    json.map(|json| serde_json::from_str(json)).transpose().map_err(|error| {
        Error::with_source(Kind::Protocol, format!("observe: cannot parse the {name}"), error)
    })
}

fn epoch_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    DateTime::from_timestamp_micros((seconds * 1e6).round() as i64)
        .ok_or_else(|| D::Error::custom(format!("expected seconds since 1970, found {seconds}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(bounds: &[(Option<i64>, Option<i64>)]) -> Partitioned {
        let seconds = |day: &Option<i64>| day.map(|day| day as f64 * 86_400.0);
        let bounds = bounds.iter().map(|(from, to)| (seconds(from), seconds(to))).collect();
        Partitioned { table: "s.t".into(), default: false, bounds }
    }

    #[test]
    fn partitions_ahead_are_counted_from_the_current_one_up_to_the_first_gap() {
        let at = |day: f64| DateTime::from_timestamp_micros((day * 86_400e6) as i64).unwrap();
        let row = |from, to| (Some(from), Some(to));
        let whole = days(&[row(3, 4), row(0, 1), row(1, 2), row(2, 3)]);
        assert_eq!(whole.ahead(at(0.5)), Some(3));
        assert_eq!(whole.ahead(at(1.0)), Some(2), "a lower bound belongs to its partition");
        assert_eq!(whole.ahead(at(3.999)), Some(0));
        assert_eq!(whole.ahead(at(4.0)), None, "an upper bound does not");
        assert_eq!(whole.ahead(at(-0.1)), None);
        assert_eq!(
            days(&[row(0, 1), row(2, 3)]).ahead(at(0.5)),
            Some(0),
            "what lies behind a gap is not ahead"
        );
        assert_eq!(days(&[(None, Some(1)), (Some(1), None)]).ahead(at(0.5)), Some(1));
        assert_eq!(days(&[]).ahead(at(0.5)), None);
    }
}
