//! What was seen in one tick: plain data, as the server told it.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Answers;
use super::capabilities::Capabilities;
use super::catalog::Part;
use crate::db::{Error, Kind, quote_ident};

/// The server at one instant. What is absent is explained in `unseen`.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The server's clock.
    pub time: DateTime<Utc>,
    /// `server_version_num`, such as 150018.
    pub version: i32,
    pub in_recovery: bool,
    pub started_at: DateTime<Utc>,
    /// The database and the role that it was seen as.
    pub database: String,
    pub role: String,
    /// Whether the sessions of other roles can be looked into.
    pub sees_all: bool,
    pub max_connections: i64,
    /// `superuser_reserved_connections`.
    pub superuser_reserved: i64,
    /// `reserved_connections` (16 and later, else 0).
    pub reserved: i64,
    pub sessions: Sessions,
    /// The 20 oldest of the cluster, oldest first.
    pub ages: Option<Vec<DatabaseAge>>,
    pub replication: Option<Replication>,
    /// At most 20: lost ones first, then those that retain most.
    pub slots: Option<Vec<Slot>>,
    pub archiver: Option<Archiver>,
    /// Of the watched tables, those that exist and are partitioned by a range of time.
    pub partitions: Option<Vec<Partitioned>>,
    pub unseen: Vec<Unseen>,
}

/// [`Unseen::what`] of the sessions that a role without `pg_read_all_stats` cannot look into.
pub const OTHERS_SESSIONS: &str = "sessions of other roles";

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    pub what: String,
    /// `not_permitted` or `not_supported`.
    pub code: &'static str,
    pub reason: String,
    /// The statement or setting that mends it.
    pub mend: String,
}

impl Unseen {
    pub(super) fn not_permitted(what: &str, reason: String, mend: String) -> Unseen {
        Unseen { what: what.to_owned(), code: "not_permitted", reason, mend }
    }

    pub(super) fn not_supported(what: &str, reason: String) -> Unseen {
        let mend = "nothing here: this server does not offer it".to_owned();
        Unseen { what: what.to_owned(), code: "not_supported", reason, mend }
    }
}

/// Client sessions of the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Sessions {
    pub counts: Vec<SessionCount>,
    /// Sessions that wait for a lock.
    pub waiting: i64,
    pub longest_wait: Option<LockWait>,
    /// Of any client but ourselves; a VACUUM is none.
    pub oldest_transaction: Option<Session>,
    /// `seconds` since it became idle.
    pub oldest_idle_in_transaction: Option<Session>,
    pub oldest_prepared: Option<Prepared>,
}

impl Sessions {
    /// Sessions in a state; see [`SessionCount::state`].
    pub fn in_state(&self, state: &str) -> i64 {
        self.counts.iter().filter(|count| count.state == state).map(|count| count.sessions).sum()
    }

    /// Sessions idle in a transaction, failed ones included.
    pub fn idle_in_transaction(&self) -> i64 {
        self.counts
            .iter()
            .filter(|c| c.state.starts_with("idle in transaction"))
            .map(|c| c.sessions)
            .sum()
    }

    /// Every client session, looked into or not.
    pub fn total(&self) -> i64 {
        self.counts.iter().map(|count| count.sessions).sum()
    }

    /// Sessions that we may not look into.
    pub fn unseen(&self) -> i64 {
        self.in_state("unseen")
    }
}

/// How many sessions of a database are in a state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SessionCount {
    /// The 64 databases with most sessions by name; absent for all others together.
    pub database: Option<String>,
    /// As in `pg_stat_activity`, `starting` before it has one, `unseen` when it is not shown to us.
    pub state: String,
    pub sessions: i64,
}

/// The session that has waited longest for a lock.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct LockWait {
    pub pid: i32,
    /// Absent in the instant before the server notes when the wait began.
    pub seconds: Option<f64>,
    pub blockers: Vec<Blocker>,
}

/// Who holds the lock. Pid 0 is a prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Blocker {
    pub pid: i32,
    pub user: Option<String>,
    pub application: Option<String>,
}

/// One client session and the age of what it is in.
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

/// Transactions (and multixacts) since the oldest unfrozen one of a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct DatabaseAge {
    pub name: String,
    pub xid_age: i64,
    pub mxid_age: i64,
    /// The database that we are connected to.
    pub own: bool,
}

/// Both ends of streaming replication.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Replication {
    /// Present on a standby.
    pub standby: Option<Standby>,
    /// At most 20, the latest ones first.
    pub replicas: Vec<Replica>,
}

/// This server as a standby.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Standby {
    /// Whether a WAL receiver runs; one that restores from an archive has none.
    pub receiver: bool,
    pub receiver_status: Option<String>,
    /// Absent before anything was replayed.
    pub lag_seconds: Option<f64>,
}

/// A standby of this server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Replica {
    pub name: Option<String>,
    /// Absent when it is not shown to us.
    pub state: Option<String>,
    /// Absent when there was nothing to replay lately.
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<f64>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Slot {
    pub name: String,
    pub active: bool,
    /// `reserved`, `extended`, `unreserved`, `lost`; absent where nothing is reserved yet.
    pub wal_status: Option<String>,
    pub retained_bytes: Option<f64>,
}

/// WAL archiving.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Archiver {
    pub enabled: bool,
    /// The last attempt failed.
    pub failing: bool,
    pub failed_count: i64,
    pub since_success_seconds: Option<f64>,
}

/// A watched table and the ranges of its partitions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Partitioned {
    /// `schema.table`
    pub table: String,
    /// Whether a default partition catches what has no partition.
    pub default: bool,
    /// From and to as seconds since 1970; absent where unbounded.
    pub bounds: Vec<(Option<f64>, Option<f64>)>,
}

impl Partitioned {
    /// How many partitions follow the one that holds `now` without a gap. Absent when none holds it.
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
    /// How many connections ordinary roles may have open together.
    pub fn usable_connections(&self) -> i64 {
        (self.max_connections - self.superuser_reserved - self.reserved).max(1)
    }

    /// Puts the answers together.
    pub(super) fn read(answers: &Answers, capabilities: &Capabilities) -> Result<Snapshot, Error> {
        let server: Server = required(answers, Part::Server)?;
        let sessions: Sessions = required(answers, Part::Sessions)?;
        let mut unseen: Vec<Unseen> = capabilities.unseen().cloned().collect();
        if !server.sees_all {
            unseen.push(Unseen::not_permitted(
                OTHERS_SESSIONS,
                format!("role {} lacks pg_read_all_stats", quote_ident(&server.role)),
                format!("GRANT pg_monitor TO {}", quote_ident(&server.role)),
            ));
        }
        Ok(Snapshot {
            time: instant(server.time)?,
            version: server.version,
            in_recovery: server.in_recovery,
            started_at: instant(server.started_at)?,
            database: server.database,
            role: server.role,
            sees_all: server.sees_all,
            max_connections: server.max_connections,
            superuser_reserved: server.superuser_reserved,
            reserved: server.reserved,
            sessions,
            ages: optional(answers, Part::Ages)?,
            replication: optional(answers, Part::Replication)?,
            slots: optional(answers, Part::Slots)?,
            archiver: optional(answers, Part::Archiver)?,
            partitions: optional(answers, Part::Partitions)?,
            unseen,
        })
    }
}

#[derive(Deserialize)]
struct Server {
    time: f64,
    version: i32,
    in_recovery: bool,
    started_at: f64,
    database: String,
    role: String,
    sees_all: bool,
    max_connections: i64,
    superuser_reserved: i64,
    reserved: i64,
}

fn required<T: DeserializeOwned>(answers: &Answers, part: Part) -> Result<T, Error> {
    optional(answers, part)?.ok_or_else(|| {
        Error::new(Kind::Protocol, format!("observe: the server gave no {}", part.as_str()))
    })
}

fn optional<T: DeserializeOwned>(answers: &Answers, part: Part) -> Result<Option<T>, Error> {
    let json = answers
        .iter()
        .find(|(answered, _)| *answered == part)
        .and_then(|(_, json)| json.as_deref());
    json.map(serde_json::from_str).transpose().map_err(|error| {
        Error::with_source(
            Kind::Protocol,
            format!("observe: the answer on {} does not parse", part.as_str()),
            error,
        )
    })
}

fn instant(epoch_seconds: f64) -> Result<DateTime<Utc>, Error> {
    DateTime::from_timestamp_micros((epoch_seconds * 1e6).round() as i64)
        .ok_or_else(|| Error::new(Kind::Protocol, format!("observe: {epoch_seconds} is no time")))
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
