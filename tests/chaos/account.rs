//! Whether a job's ledger and its effects add up.
//!
//! What is due is worked out here anew: `@every Ns` is each multiple of N seconds since the Unix epoch.
//! Each one after the job was first seen, up to its watermark, has to be the instant of exactly one row or
//! lie in exactly one range; and each effect belongs to a run that succeeded, each such run to one effect.
//! Of a job that is not fenced, effects prove nothing: it runs at least once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::harness::TestClient;

/// Everything that is known of a job when nothing runs any more.
#[derive(Debug, Clone)]
pub struct Account {
    pub job: String,
    /// Whether its effects commit with their record.
    pub fenced: bool,
    /// Of its schedule, in seconds.
    pub period: i64,
    pub first_seen: DateTime<Utc>,
    pub watermark: DateTime<Utc>,
    pub totals: Totals,
    /// Whether a run holds its slot, waits for it, or keeps it in quarantine.
    pub taken: bool,
    pub rows: Vec<Row>,
    /// The run of each effect; absent where the effect does not know its run.
    pub effects: Vec<Uuid>,
}

/// As the job's own row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub succeeded: i64,
    pub failed: i64,
    pub skipped: i64,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub id: Uuid,
    pub kind: String,
    pub due_at: DateTime<Utc>,
    pub last_due_at: Option<DateTime<Utc>>,
    pub missed_count: Option<i32>,
    pub state: String,
    pub reason: Option<String>,
    pub fenced: Option<bool>,
}

impl Account {
    /// Of a job that is due every `period` seconds.
    pub async fn read(client: &TestClient, job: &str, period: i64) -> Account {
        const STATE: &str = "
            SELECT first_seen, claimed_floor, succeeded_total, failed_total, skipped_total,
                   coalesce(running_run_id, queued_run_id, quarantined_run_id) IS NOT NULL
              FROM steward.job_state WHERE job = $1";
        const ROWS: &str = "
            SELECT id, kind, due_at, last_due_at, missed_count, state, reason, fenced
              FROM steward.job_runs WHERE job = $1 ORDER BY due_at";
        let state = client
            .query_one(STATE, &[&job])
            .await
            .unwrap_or_else(|error| panic!("{job}: {error:?}"));
        let rows = client.query(ROWS, &[&job]).await.unwrap();
        let effects = client
            .query("SELECT run_id FROM public.effects WHERE job = $1", &[&job])
            .await
            .unwrap();
        Account {
            job: job.to_owned(),
            fenced: true,
            period,
            first_seen: state.get(0),
            watermark: state.get(1),
            totals: Totals { succeeded: state.get(2), failed: state.get(3), skipped: state.get(4) },
            taken: state.get(5),
            rows: rows
                .iter()
                .map(|row| Row {
                    id: row.get(0),
                    kind: row.get(1),
                    due_at: row.get(2),
                    last_due_at: row.get(3),
                    missed_count: row.get(4),
                    state: row.get(5),
                    reason: row.get(6),
                    fenced: row.get(7),
                })
                .collect(),
            effects: effects.iter().map(|row| row.get(0)).collect(),
        }
    }

    /// How many runs ended in a state.
    pub fn count(&self, state: &str) -> usize {
        self.rows.iter().filter(|row| row.state == state && row.kind != "missed").count()
    }

    /// Panics with everything that does not add up.
    pub fn check(&self) {
        let breaches = self.breaches();
        assert!(breaches.is_empty(), "job {}:\n{}\n{self:#?}", self.job, breaches.join("\n"));
    }

    fn breaches(&self) -> Vec<String> {
        let mut breaches = self.of_instants();
        breaches.extend(self.rows.iter().filter_map(|row| row.breach(self.fenced)));
        if self.fenced {
            breaches.extend(self.of_effects());
        }
        if self.taken {
            breaches.push("the job's slot is not free, though nothing runs".to_owned());
        }
        let counted = self.counted();
        if counted != self.totals {
            breaches
                .push(format!("the job's row counts {:?}, its rows are {counted:?}", self.totals));
        }
        breaches
    }

    fn of_instants(&self) -> Vec<String> {
        let mut breaches = Vec::new();
        let mut accounted: BTreeMap<i64, usize> =
            self.instants(self.first_seen, self.watermark).map(|at| (at, 0)).collect();
        for row in &self.rows {
            // A first one at the row's own instant is included.
            let before = row.due_at - chrono::TimeDelta::milliseconds(1);
            let covered: Vec<i64> =
                self.instants(before, row.last_due_at.unwrap_or(row.due_at)).collect();
            if covered.len() != row.missed_count.unwrap_or(1) as usize {
                breaches.push(format!("{row:?} covers {} instants", covered.len()));
            }
            for at in covered {
                match accounted.get_mut(&at) {
                    Some(count) => *count += 1,
                    None => breaches.push(format!("{} was never due, but has {row:?}", moment(at))),
                }
            }
        }
        let wrong = accounted.iter().filter(|(_, count)| **count != 1);
        breaches.extend(
            wrong.map(|(at, count)| format!("{} is accounted for {count} times", moment(*at))),
        );
        breaches
    }

    /// After `from`, up to `to`, in seconds.
    fn instants(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> impl Iterator<Item = i64> + use<> {
        let period = self.period;
        let first = from.timestamp_millis().div_euclid(period * 1000) + 1;
        let last = to.timestamp_millis().div_euclid(period * 1000);
        (first..=last).map(move |place| place * period)
    }

    fn of_effects(&self) -> Vec<String> {
        let mut of_run: BTreeMap<Uuid, usize> = BTreeMap::new();
        for run in &self.effects {
            *of_run.entry(*run).or_default() += 1;
        }
        let mut breaches = Vec::new();
        for row in &self.rows {
            let (found, wanted) =
                (of_run.remove(&row.id).unwrap_or(0), usize::from(row.state == "succeeded"));
            if found != wanted {
                breaches.push(format!("{found} effects of {row:?}"));
            }
        }
        breaches.extend(
            of_run.keys().map(|run| format!("an effect of the run {run}, which has no row")),
        );
        breaches
    }

    fn counted(&self) -> Totals {
        let mut totals = Totals::default();
        for row in &self.rows {
            match row.state.as_str() {
                "succeeded" => totals.succeeded += 1,
                "failed" | "timed_out" | "lost" => totals.failed += 1,
                "skipped" => totals.skipped += i64::from(row.missed_count.unwrap_or(1)),
                _ => {}
            }
        }
        totals
    }
}

impl Row {
    fn breach(&self, fenced: bool) -> Option<String> {
        let why = match self.state.as_str() {
            "running" | "queued" => "it is not over",
            "succeeded" if self.fenced != Some(fenced) => {
                "it does not say rightly whether it was fenced"
            }
            "succeeded" => return None,
            _ if self.reason.as_deref().is_none_or(str::is_empty) => "it has no reason",
            _ => return None,
        };
        Some(format!("{why}: {self:?}"))
    }
}

fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

/// Five instants: three of a range, a lost run, one that succeeded with its effect.
fn sound() -> Account {
    let row = |at: i64, state: &str, reason: Option<&str>| Row {
        id: Uuid::now_v7(),
        kind: "scheduled".to_owned(),
        due_at: moment(at),
        last_due_at: None,
        missed_count: None,
        state: state.to_owned(),
        reason: reason.map(str::to_owned),
        fenced: Some(true),
    };
    let range = Row {
        kind: "missed".to_owned(),
        last_due_at: Some(moment(106)),
        missed_count: Some(3),
        ..row(102, "skipped", Some("overlap"))
    };
    let rows = vec![range, row(108, "lost", Some("lease_expired")), row(110, "succeeded", None)];
    Account {
        job: "tick".to_owned(),
        fenced: true,
        period: 2,
        first_seen: moment(100),
        watermark: moment(111),
        totals: Totals { succeeded: 1, failed: 1, skipped: 3 },
        taken: false,
        effects: vec![rows[2].id],
        rows,
    }
}

#[test]
fn an_account_that_adds_up_passes_and_each_way_not_to_add_up_is_found() {
    assert_eq!(sound().breaches(), Vec::<String>::new());
    type Spoil = fn(&mut Account);
    let spoilt: [(&str, Spoil); 13] = [
        ("an instant without a row", |account| drop(account.rows.remove(1))),
        ("an instant with two rows", |account| account.rows.push(account.rows[1].clone())),
        ("a range over another row's instant", |account| {
            account.rows[0].last_due_at = Some(moment(108));
        }),
        ("a range that counts wrong", |account| account.rows[0].missed_count = Some(2)),
        ("an instant before the job was seen", |account| account.first_seen = moment(102)),
        ("a watermark that nothing accounts for", |account| account.watermark = moment(112)),
        ("a run that is not over", |account| account.rows[1].state = "running".to_owned()),
        ("an end without a reason", |account| account.rows[1].reason = None),
        ("a second effect", |account| account.effects.push(account.rows[2].id)),
        ("no effect", |account| account.effects.clear()),
        ("an effect of a lost run", |account| account.effects.push(account.rows[1].id)),
        ("a run that was not fenced", |account| account.rows[2].fenced = Some(false)),
        ("a slot that stays taken", |account| account.taken = true),
    ];
    for (what, spoil) in spoilt {
        let mut account = sound();
        spoil(&mut account);
        assert!(!account.breaches().is_empty(), "not found: {what}");
    }
}
