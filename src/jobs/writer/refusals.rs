//! Tables that accept no rows, as the log reports them: when it begins, a reminder now and then for
//! each cause, and when it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

use crate::db::Error;
use crate::health::spool::Table;

use super::Destination;

/// How often the log repeats a cause.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// By table. A table that accepts rows has none.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    refusing: [Option<Refusing>; Table::ALL.len()],
    /// When the log last reported rows that were dropped, by table.
    dropped: [Option<Instant>; Table::ALL.len()],
}

#[derive(Debug)]
struct Refusing {
    since: DateTime<Utc>,
    /// When each cause was last logged: by SQLSTATE, or by kind where there is none.
    causes: BTreeMap<String, Instant>,
}

impl Refusals {
    pub fn is_refusing(&self, table: Table) -> bool {
        self.refusing[table as usize].is_some()
    }

    /// Notes that the table accepted no rows.
    pub fn note(&mut self, to: &Destination<'_>, table: Table, error: &Error) {
        let begun = || Refusing { since: to.now().trunc_subsecs(0), causes: BTreeMap::new() };
        let refusing = self.refusing[table as usize].get_or_insert_with(begun);
        let cause = error.sqlstate().map_or(error.kind().as_str(), |state| state.code());
        let logged = refusing.causes.get(cause);
        if logged.is_some_and(|at| at.elapsed() < REMIND_EVERY) {
            return;
        }
        tracing::warn!(database = to.db.name(), table = table.as_str(), since = %refusing.since,
            kind = error.kind().as_str(), error = %error,
            "table accepts no measurements; they wait until it does");
        refusing.causes.insert(cause.to_owned(), Instant::now());
    }

    /// Notes that the table accepted rows and none of them waits any more.
    pub fn end(&mut self, to: &Destination<'_>, table: Table) {
        if let Some(refusing) = self.refusing[table as usize].take() {
            tracing::info!(database = to.db.name(), table = table.as_str(), since = %refusing.since,
                "table accepts measurements again; those that waited were written");
        }
    }

    /// Reports rows that are dropped because the server refused them and accepted others.
    pub fn drop_rows(&mut self, to: &Destination<'_>, table: Table, refused: &[(usize, Error)]) {
        let Some((_, error)) = refused.first() else { return };
        let logged = &mut self.dropped[table as usize];
        if logged.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
            tracing::warn!(database = to.db.name(), table = table.as_str(), rows = refused.len(),
                error = %error, "dropped measurements that the server refuses while it accepts others");
            *logged = Some(Instant::now());
        }
    }
}
