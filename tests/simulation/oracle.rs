//! What must hold, told by who knows nothing of the daemon's own reckoning: every instant of every
//! schedule is in the ledger exactly once, and what ran was allowed to run.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use pgsteward::config::{Config, JobName};
use pgsteward::scheduler::due_queue::DueQueue;
use pgsteward::scheduler::planner::RunPolicy;
use pgsteward::store::claims::Run;

use super::jobs;
use super::ledger::{JobRow, Kind, Ledger, Time, Told};
use super::world::DATABASE;

/// How many instants the planner counts one by one.
const COUNTED: i32 = 9_999;
const LEADERS: [&str; 2] = ["berlin", "casablanca"];

pub struct Oracle {
    /// By job and the part of its specification's hash that names its schedule.
    instants: BTreeMap<(JobName, String), BTreeSet<Time>>,
    /// The instant that began last, and how often the watermark had been taken back.
    last: BTreeMap<JobName, (Time, u32)>,
}

fn when(hash: &str) -> String {
    hash.split('-').next().unwrap_or_default().to_owned()
}

impl Oracle {
    pub fn new(configs: &[Config], from: Time, to: Time) -> Oracle {
        let mut instants: BTreeMap<(JobName, String), BTreeSet<Time>> = BTreeMap::new();
        for (variant, config) in configs.iter().enumerate() {
            let rules = jobs::rules(variant);
            for (job, hash) in DueQueue::specs(config, DATABASE) {
                let Some(Some((rule, zone))) = rules.get(job.as_str()) else { continue };
                instants
                    .entry((job, when(&hash)))
                    .or_insert_with(|| jobs::instants(rule, *zone, from, to));
            }
        }
        Oracle { instants, last: BTreeMap::new() }
    }

    fn of(&self, job: &JobName, hash: &str) -> Option<&BTreeSet<Time>> {
        self.instants.get(&(job.clone(), when(hash)))
    }

    /// A run begins that was planned at that moment: what is wrong with it.
    pub fn begins(
        &mut self,
        ledger: &Ledger,
        gates: &BTreeMap<JobName, RunPolicy>,
        job: &JobName,
        run: Run,
        queued: bool,
        planned_at: Time,
    ) -> Option<String> {
        let row = ledger.jobs.get(job)?;
        let begun = row.rows.get(&run.due_at)?;
        if begun.kind != Kind::Scheduled {
            return None;
        }
        let instants = self.of(job, &row.spec_hash)?;
        if !instants.contains(&run.due_at) {
            // At once, or of a schedule that it had before.
            return None;
        }
        let told =
            |what: &str| Some(format!("{job} of {}, planned at {planned_at}: {what}", run.due_at));
        let offset = gates.get(job)?.offset;
        let late = planned_at - (run.due_at + offset);
        let within = match job.as_str() {
            "berlin" => TimeDelta::hours(6),
            "howe" => TimeDelta::hours(8),
            "office" => TimeDelta::seconds(60),
            _ => TimeDelta::MAX,
        };
        if job.as_str() == "nights" && !jobs::nights_are_open(planned_at) {
            return told("runs outside its window");
        }
        if late > within {
            return told("runs after its deadline");
        }
        if queued {
            // It was due when it was queued, whatever the clock says now.
            return None;
        }
        if late < TimeDelta::zero() {
            return told("runs before its time");
        }
        let kept = match job.as_str() {
            "howe" => 12,
            "casablanca" => 3,
            _ => 1,
        };
        let after = run.due_at + TimeDelta::milliseconds(1);
        let newer = instants
            .range(after..(planned_at - offset).max(after))
            .filter(|at| !row.rows.contains_key(at));
        if newer.take(kept).count() == kept {
            return told("runs, though it is not among the newest that are caught up with");
        }
        let before = self.last.insert(job.clone(), (run.due_at, row.rewound));
        if before.is_some_and(|(at, rewound)| at >= run.due_at && rewound == row.rewound) {
            return told("runs after a later one");
        }
        None
    }

    /// What stands still while nothing is wrong; `full` where no lane may be free.
    pub fn progress(
        &self,
        ledger: &Ledger,
        gates: &BTreeMap<JobName, RunPolicy>,
        clock: Time,
        full: bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        for (job, row) in &ledger.jobs {
            let running = row
                .running
                .and_then(|(id, _)| row.rows.values().rev().find(|entry| entry.id == id));
            if let Some(run) = running
                && run.lease_until.is_some_and(|until| until < clock)
            {
                found.push(format!("{job}: {} runs without a lease", run.due_at));
            }
            if row.running.is_some() || row.queued.is_some() {
                continue;
            }
            if row.watermark > clock + TimeDelta::seconds(61) {
                found.push(format!("{job}: its watermark {} lies in the future", row.watermark));
            }
            let Some((instants, policy)) = self.of(job, &row.spec_hash).zip(gates.get(job)) else {
                continue;
            };
            let until = clock - policy.offset - TimeDelta::seconds(3);
            let after = row.watermark + TimeDelta::milliseconds(1);
            let due = instants.range(after..until.max(after)).find(|at| !row.rows.contains_key(at));
            if let Some(due) = due.filter(|_| !full) {
                found.push(format!(
                    "{job}: {due} is due for long, and the watermark is {}",
                    row.watermark
                ));
            }
        }
        found
    }

    /// What is wrong in the ledger when everything has come to its end.
    pub fn settled(&self, ledger: &Ledger, clock: Time) -> Vec<String> {
        let mut found = Vec::new();
        for (job, row) in &ledger.jobs {
            found.extend(rows_are_ended(job, row));
            found.extend(self.accounted_for(job, row));
            if row.watermark > clock + TimeDelta::seconds(61)
                && row.running.is_none()
                && row.queued.is_none()
            {
                found.push(format!("{job}: its watermark {} lies in the future", row.watermark));
            }
        }
        found.extend(chained(ledger));
        found
    }

    /// Each instant once, by a row of its own or in one range.
    fn accounted_for(&self, job: &JobName, row: &JobRow) -> Vec<String> {
        let mut found = Vec::new();
        let mut times: BTreeMap<Time, u32> = BTreeMap::new();
        for span in &row.spans {
            let Some(instants) = self.of(job, &span.hash) else { continue };
            let until = span.until.unwrap_or(row.watermark);
            times.extend(
                instants.iter().filter(|at| **at > span.from && **at <= until).map(|at| (*at, 0)),
            );
        }
        // A schedule that changed leaves rows that are no instants of the new one, and "at once" is none.
        let steady = !matches!(job.as_str(), "toggled" | "partitions");
        let ever: Vec<&BTreeSet<Time>> = self
            .instants
            .iter()
            .filter(|((name, _), _)| name == job)
            .map(|(_, instants)| instants)
            .collect();
        for (at, entry) in &row.rows {
            match (entry.kind, entry.last_due_at) {
                (Kind::Manual | Kind::Chained, _) => {}
                (Kind::Missed, Some(last)) => {
                    let mut covers = 0;
                    for (_, times) in times.range_mut(*at..=last) {
                        (*times, covers) = (*times + 1, covers + 1);
                    }
                    let counted =
                        entry.count == covers || entry.count >= COUNTED && covers >= COUNTED;
                    if steady && !ever.is_empty() && !counted && *at <= row.watermark {
                        found.push(format!(
                            "{job}: {at} to {last} is {covers} instants, recorded as {}",
                            entry.count
                        ));
                    }
                }
                _ => {
                    if let Some(times) = times.get_mut(at) {
                        *times += 1;
                    } else if steady && !ever.iter().any(|instants| instants.contains(at)) {
                        found.push(format!("{job}: {at} is no instant of its schedule"));
                    }
                }
            }
        }
        // A range that is cut ends with an instant of today's schedule, though it may hold those of one before.
        let least = u32::from(row.spans.len() == 1 || row.rewound == 0);
        for (at, times) in times.into_iter().filter(|(_, times)| !(least..=1).contains(times)) {
            found.push(format!("{job}: the ledger has {at} {times} times"));
        }
        found
    }
}

/// Every row has an end and a reason, and an effect where it says so.
fn rows_are_ended(job: &JobName, row: &JobRow) -> Vec<String> {
    let mut found = Vec::new();
    for entry in row.rows.values() {
        let fault = match entry.state {
            "running" if row.running.is_none_or(|(id, _)| id != entry.id) => {
                "runs without the slot"
            }
            "queued" if row.queued != Some(entry.id) => "waits without the slot",
            "skipped" | "lost" | "cancelled" if entry.reason.is_none() => "has no reason",
            "succeeded" if entry.effects != 1 => "has not one effect",
            _ if entry.effects > 1 => "has several effects",
            "succeeded" => continue,
            // What commits in steps of its own may have done its work before it was lost.
            _ if entry.effects > 0 && job.as_str() != "partitions" => "has an effect",
            _ => continue,
        };
        found.push(format!("{job}: {} ({}) {fault}", entry.due_at, entry.state));
    }
    found
}

/// A follower fires once for each time that all its upstream_jobs have succeeded.
fn chained(ledger: &Ledger) -> Vec<String> {
    let mut found = Vec::new();
    let mut fresh: BTreeSet<&str> = BTreeSet::new();
    // Those that the clock went back behind: they count still where it did not go back behind the
    // follower's own watermark.
    let mut doubtful: BTreeSet<&str> = BTreeSet::new();
    for (place, (job, told)) in ledger.story.iter().enumerate() {
        let leader = LEADERS.iter().find(|leader| **leader == job.as_str());
        match (told, leader) {
            (Told::Followed, _) => {
                if fresh.union(&doubtful).count() < LEADERS.len() {
                    found.push(format!(
                        "{job}: its turn (event {place}) came after {fresh:?} alone"
                    ));
                }
                fresh.clear();
                doubtful.clear();
            }
            (Told::Succeeded, Some(leader)) => {
                fresh.insert(leader);
            }
            // A leader's success of the future, whose own watermark was not ahead, counts once more.
            (Told::TakenBack, None) if job.as_str() == "chained" => doubtful.extend(LEADERS),
            (Told::TakenBack, Some(leader)) => doubtful.extend(fresh.take(*leader)),
            _ => {}
        }
    }
    if fresh.len() == LEADERS.len() {
        found.push(
            "chained: all its upstream_jobs have succeeded, and it has not followed".to_owned(),
        );
    }
    found
}
