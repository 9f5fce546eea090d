//! The server as last seen, for whoever shows it: facts without a verdict.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::BTreeMap;

use crate::db::ConnectTimings;
use crate::observe::{Replica, Session, Slot, Snapshot, Standby};

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    /// `15.18`
    pub version: String,
    /// `150018`
    pub version_num: i32,
    pub database: String,
    /// The role that it was seen as.
    pub role: String,
    pub in_recovery: bool,
    pub started_at: DateTime<Utc>,
    pub max_connections: i64,
    /// Those that ordinary roles may have open together.
    pub usable_connections: i64,
    #[serde(skip)]
    pub connections: Connections,
    #[serde(skip)]
    pub replication: Option<Replication>,
}

/// Client sessions of the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Connections {
    pub total: i64,
    /// As in `pg_stat_activity`; `hidden` if this role may not see it.
    pub by_state: BTreeMap<String, i64>,
    /// The share of the usable connections.
    pub saturation: f64,
    /// Sessions that wait for a lock.
    pub waiting: i64,
    pub longest_wait_seconds: Option<f64>,
    pub oldest_transaction: Option<Session>,
    pub oldest_idle_in_transaction: Option<Session>,
}

/// Streaming replication, both ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replication {
    pub standby: Option<Standby>,
    pub replicas: Vec<Replica>,
    pub slots: Option<Vec<Slot>>,
}

/// How long the steps of the last fresh connect took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConnectMs {
    pub dns: f64,
    pub tcp: f64,
    pub tls: f64,
    pub auth: f64,
}

impl From<ConnectTimings> for ConnectMs {
    fn from(timings: ConnectTimings) -> ConnectMs {
        let ms = |took: std::time::Duration| (took.as_secs_f64() * 1e6).round() / 1e3;
        let ConnectTimings { dns, tcp, tls, auth } = timings;
        ConnectMs { dns: ms(dns), tcp: ms(tcp), tls: ms(tls), auth: ms(auth) }
    }
}

impl Server {
    /// What a snapshot says.
    pub fn of(snapshot: &Snapshot) -> Server {
        let sessions = &snapshot.sessions;
        let usable = snapshot.usable_connections();
        let mut by_state = BTreeMap::new();
        for count in &sessions.counts {
            *by_state.entry(count.state.clone()).or_default() += count.sessions;
        }
        let replication = snapshot.replication.as_ref().map(|replication| Replication {
            standby: replication.standby.clone(),
            replicas: replication.replicas.clone(),
            slots: snapshot.slots.clone(),
        });
        Server {
            version: version(snapshot.version),
            version_num: snapshot.version,
            database: snapshot.database.clone(),
            role: snapshot.role.clone(),
            in_recovery: snapshot.in_recovery,
            started_at: snapshot.started_at,
            max_connections: snapshot.max_connections,
            usable_connections: usable,
            connections: Connections {
                total: sessions.total(),
                by_state,
                saturation: sessions.total() as f64 / usable as f64,
                waiting: sessions.waiting,
                longest_wait_seconds: sessions.longest_wait.as_ref().and_then(|wait| wait.seconds),
                oldest_transaction: sessions.oldest_transaction.clone(),
                oldest_idle_in_transaction: sessions.oldest_idle_in_transaction.clone(),
            },
            replication,
        }
    }
}

/// Since 10, the last four digits are the minor version.
fn version(number: i32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_told_as_people_say_them() {
        assert_eq!(super::version(150_018), "15.18");
        assert_eq!(super::version(180_004), "18.4");
    }
}
