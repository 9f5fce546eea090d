//! What a probe exports: our own view of the database, and the server's numbers under the names of
//! postgres_exporter.

use std::collections::{BTreeMap, BTreeSet};

use crate::db::Kind;
use crate::health::Report;
use crate::observe::Snapshot;
use crate::telemetry::Metrics;

/// Databases that have series of their own; sessions of the others are counted as `other`.
const DATABASES_MAX: usize = 20;
const OTHER: &str = "other";
/// States that every exported database has, at zero where it has no such session.
const STATES: [&str; 6] = [
    "active",
    "idle",
    "idle in transaction",
    "idle in transaction (aborted)",
    "fastpath function call",
    "disabled",
];

/// The series that one database's probe has exported, so that it can zero and withdraw them.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Databases that hold a place. One keeps it for as long as it has sessions, so that two of like
    /// size do not take turns.
    placed: BTreeSet<String>,
    /// Series of `pg_stat_activity_connections` by database and state.
    activity: BTreeSet<(String, String)>,
    ages: BTreeSet<String>,
    partitions: BTreeSet<String>,
    components: BTreeSet<&'static str>,
}

impl Gauges {
    /// Exports what everybody sees: whether the database is up, and its components.
    pub fn report(&mut self, metrics: &Metrics, report: &Report, down: Option<Kind>) {
        let target = report.target.as_str();
        metrics.database_up.with_label_values(&[target]).set(i64::from(down.is_none()));
        for kind in Kind::ALL {
            let value = i64::from(down == Some(kind));
            metrics.database_down.with_label_values(&[target, kind.as_str()]).set(value);
        }
        for component in &report.components {
            let gauge = metrics.health_status.with_label_values(&[target, component.name]);
            gauge.set(component.status.as_gauge());
        }
        let now: BTreeSet<_> = report.components.iter().map(|component| component.name).collect();
        for gone in self.components.difference(&now) {
            // An error says that there was no such series.
            let _ = metrics.health_status.remove_label_values(&[target, gone]);
        }
        self.components = now;
        let checked_at = report.checked_at.timestamp_micros() as f64 / 1e6;
        metrics.health_last_check_timestamp_seconds.with_label_values(&[target]).set(checked_at);
        match report.response_ms {
            Some(millis) => {
                metrics.response_seconds.with_label_values(&[target]).set(millis / 1000.0);
            }
            None => {
                let _ = metrics.response_seconds.remove_label_values(&[target]);
            }
        }
    }

    /// Exports the server's numbers. Only the observer does.
    pub fn server(&mut self, metrics: &Metrics, target: &str, snapshot: &Snapshot) {
        metrics.pg_up.with_label_values(&[target]).set(1);
        metrics
            .pg_settings_max_connections
            .with_label_values(&[target])
            .set(snapshot.max_connections);
        metrics
            .pg_settings_superuser_reserved_connections
            .with_label_values(&[target])
            .set(snapshot.superuser_reserved);
        metrics
            .pg_replication_is_replica
            .with_label_values(&[target])
            .set(i64::from(snapshot.in_recovery));
        let oldest =
            snapshot.sessions.oldest_transaction.as_ref().map_or(0.0, |session| session.seconds);
        metrics.pg_stat_activity_max_tx_duration.with_label_values(&[target]).set(oldest);
        self.activity(metrics, target, snapshot);
        self.ages(metrics, target, snapshot);
        self.partitions(metrics, target, snapshot);
    }

    /// The server could not be measured: what is no longer known is withdrawn, so that no dashboard
    /// draws the last value on. `pg_up` is 1 where it was at least reached.
    pub fn server_unseen(&mut self, metrics: &Metrics, target: &str, reached: bool) {
        self.withdraw(metrics, target);
        metrics.pg_up.with_label_values(&[target]).set(i64::from(reached));
    }

    /// Withdraws every series that only the observer exports.
    pub fn withdraw(&mut self, metrics: &Metrics, target: &str) {
        for family in [
            &metrics.pg_up,
            &metrics.pg_settings_max_connections,
            &metrics.pg_settings_superuser_reserved_connections,
            &metrics.pg_replication_is_replica,
        ] {
            let _ = family.remove_label_values(&[target]);
        }
        let _ = metrics.pg_stat_activity_max_tx_duration.remove_label_values(&[target]);
        for (database, state) in std::mem::take(&mut self.activity) {
            let _ = metrics
                .pg_stat_activity_connections
                .remove_label_values(&[target, &database, &state]);
        }
        for database in std::mem::take(&mut self.ages) {
            let _ = metrics
                .pg_database_wraparound_age_transactions
                .remove_label_values(&[target, &database]);
        }
        for table in std::mem::take(&mut self.partitions) {
            let _ = metrics.partitions_ahead.remove_label_values(&[target, &table]);
        }
        self.placed.clear();
    }

    fn activity(&mut self, metrics: &Metrics, target: &str, snapshot: &Snapshot) {
        let counts = self.place(snapshot);
        for (database, state) in self.activity.iter().filter(|series| !counts.contains_key(*series))
        {
            if self.placed.contains(database) || database == OTHER {
                // The state emptied; the database still is.
                metrics
                    .pg_stat_activity_connections
                    .with_label_values(&[target, database, state])
                    .set(0);
            } else {
                let _ = metrics
                    .pg_stat_activity_connections
                    .remove_label_values(&[target, database, state]);
            }
        }
        self.activity.retain(|(database, _)| self.placed.contains(database) || database == OTHER);
        for ((database, state), sessions) in counts {
            metrics
                .pg_stat_activity_connections
                .with_label_values(&[target, &database, &state])
                .set(sessions);
            self.activity.insert((database, state));
        }
    }

    /// Gives each database its label, and each of them every state.
    fn place(&mut self, snapshot: &Snapshot) -> BTreeMap<(String, String), i64> {
        let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
        for count in &snapshot.sessions.counts {
            if let Some(database) = &count.database {
                *totals.entry(database).or_default() += count.sessions;
            }
        }
        self.placed.retain(|database| totals.contains_key(database.as_str()));
        let mut waiting: Vec<(&str, i64)> =
            totals.into_iter().filter(|(database, _)| !self.placed.contains(*database)).collect();
        waiting.sort_by_key(|(_, sessions)| std::cmp::Reverse(*sessions));
        let free = DATABASES_MAX.saturating_sub(self.placed.len());
        self.placed.extend(waiting.into_iter().take(free).map(|(database, _)| database.to_owned()));

        let mut counts = BTreeMap::new();
        for database in &self.placed {
            for state in STATES {
                counts.insert((database.clone(), state.to_owned()), 0);
            }
        }
        for count in &snapshot.sessions.counts {
            let database =
                count.database.as_ref().filter(|database| self.placed.contains(*database));
            let label = database.map_or(OTHER, String::as_str);
            *counts.entry((label.to_owned(), count.state.clone())).or_default() += count.sessions;
        }
        counts
    }

    fn ages(&mut self, metrics: &Metrics, target: &str, snapshot: &Snapshot) {
        let ages = snapshot.ages.as_deref().unwrap_or_default();
        let now: BTreeSet<String> = ages.iter().map(|age| age.name.clone()).collect();
        for gone in self.ages.difference(&now) {
            let _ = metrics
                .pg_database_wraparound_age_transactions
                .remove_label_values(&[target, gone]);
        }
        for age in ages {
            metrics
                .pg_database_wraparound_age_transactions
                .with_label_values(&[target, &age.name])
                .set(age.xid_age);
        }
        self.ages = now;
    }

    /// -1 where not even the current partition exists.
    fn partitions(&mut self, metrics: &Metrics, target: &str, snapshot: &Snapshot) {
        let tables = snapshot.partitions.as_deref().unwrap_or_default();
        let now: BTreeSet<String> = tables.iter().map(|table| table.table.clone()).collect();
        for gone in self.partitions.difference(&now) {
            let _ = metrics.partitions_ahead.remove_label_values(&[target, gone]);
        }
        for table in tables {
            let ahead = table.ahead(snapshot.time).unwrap_or(-1);
            metrics.partitions_ahead.with_label_values(&[target, &table.table]).set(ahead);
        }
        self.partitions = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{SessionCount, Sessions};
    use chrono::DateTime;

    fn snapshot(counts: &[(&str, &str, i64)]) -> Snapshot {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        let counts = counts
            .iter()
            .map(|(database, state, sessions)| SessionCount {
                database: Some((*database).to_owned()),
                state: (*state).to_owned(),
                sessions: *sessions,
            })
            .collect();
        Snapshot {
            time: at,
            version: 150_000,
            in_recovery: false,
            started_at: at,
            database: "app".into(),
            role: "r".into(),
            sees_all: true,
            max_connections: 100,
            superuser_reserved: 3,
            reserved: 0,
            sessions: Sessions { counts, ..Sessions::default() },
            ages: None,
            replication: None,
            slots: None,
            archiver: None,
            partitions: None,
            unavailable: Vec::new(),
        }
    }

    fn page(metrics: &Metrics) -> Vec<String> {
        let page = String::from_utf8(metrics.encode().unwrap()).unwrap();
        page.lines()
            .filter(|line| line.starts_with("pg_stat_activity_connections"))
            .map(str::to_owned)
            .collect()
    }

    fn line(database: &str, state: &str, target: &str, sessions: i64) -> String {
        format!(
            "pg_stat_activity_connections{{datname=\"{database}\",state=\"{state}\",target=\"{target}\"}} {sessions}"
        )
    }

    #[test]
    fn an_emptied_state_is_zero_and_a_gone_database_is_gone() {
        let metrics = Metrics::new().unwrap();
        let mut gauges = Gauges::default();
        gauges.server(&metrics, "t", &snapshot(&[("a", "starting", 2), ("b", "idle", 1)]));
        assert!(page(&metrics).contains(&line("a", "starting", "t", 2)));
        assert!(
            page(&metrics).contains(&line("a", "idle", "t", 0)),
            "a state without sessions is exported as 0"
        );
        gauges.server(&metrics, "t", &snapshot(&[("a", "idle", 2)]));
        let lines = page(&metrics);
        assert!(lines.contains(&line("a", "starting", "t", 0)), "{lines:?}");
        assert!(lines.contains(&line("a", "idle", "t", 2)), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("datname=\"b\"")), "{lines:?}");
    }

    #[test]
    fn series_are_bounded_and_places_are_kept() {
        let metrics = Metrics::new().unwrap();
        let mut gauges = Gauges::default();
        let names: Vec<String> = (0..40).map(|i| format!("d{i:02}")).collect();
        let equal: Vec<(&str, &str, i64)> =
            names.iter().take(20).map(|n| (n.as_str(), "idle", 1)).collect();
        gauges.server(&metrics, "t", &snapshot(&equal));
        // Twenty bigger ones arrive: they are counted together, and nobody loses a place.
        let grown: Vec<(&str, &str, i64)> = names
            .iter()
            .enumerate()
            .map(|(i, n)| (n.as_str(), "idle", if i < 20 { 1 } else { 5 }))
            .collect();
        gauges.server(&metrics, "t", &snapshot(&grown));
        let lines = page(&metrics);
        assert_eq!(lines.len(), 20 * STATES.len() + 1);
        assert!(lines.contains(&line("d07", "idle", "t", 1)), "{lines:?}");
        assert!(lines.contains(&line("other", "idle", "t", 100)), "{lines:?}");
    }

    #[test]
    fn withdrawing_leaves_other_targets_alone() {
        let metrics = Metrics::new().unwrap();
        let (mut one, mut two) = (Gauges::default(), Gauges::default());
        one.server(&metrics, "one", &snapshot(&[("a", "idle", 1)]));
        two.server(&metrics, "two", &snapshot(&[("a", "idle", 1)]));
        one.server_unseen(&metrics, "one", false);
        let lines = page(&metrics);
        assert_eq!(lines.len(), STATES.len(), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("target=\"two\"")), "{lines:?}");
        let all = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(
            all.contains("pg_up{target=\"one\"} 0") && all.contains("pg_up{target=\"two\"} 1"),
            "{all}"
        );
    }
}
