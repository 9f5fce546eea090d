//! Whether the process is alive and whether it may be sent traffic: what the probes are answered from.
//!
//! *Alive* means that the pipeline advances: every loop that was registered went round not long
//! ago, and retrying to connect is going round. *Ready* is latched per database by the first
//! connection and a migrated schema, and withdrawn by a failed migration, a dead pipeline, or the
//! drain. Neither depends on the database being up at the moment: a server that is down must not
//! get the process restarted, and what it is like is the [`board`](super::board)'s to say.
//!
//! Time is handed in, so that the rules can be tested without waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The state behind the probes. One for the process.
#[derive(Debug)]
pub struct Readiness {
    stale_after: Duration,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    draining: bool,
    targets: BTreeMap<String, Stage>,
    beats: BTreeMap<String, Instant>,
}

/// How far one database has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Never connected yet; with the kind of the last error, where there was one.
    Connecting { last_error: Option<&'static str> },
    /// Connected once; the schema is being brought up to date.
    Migrating,
    /// Connected once, schema up to date. Losing the server later changes nothing here.
    Ready,
    /// The last attempt to migrate failed: in which file, with what kind of error.
    Failed { file: String, reason: String },
}

/// The outcome of one named check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `pipeline`, `draining`, `connected:TARGET`, `migrations:TARGET`, `database`.
    pub name: String,
    /// What is wrong, on one line, fit for a reader without credentials.
    pub outcome: Result<(), String>,
}

impl Check {
    /// A check that passed, or failed for `reason`.
    pub fn new(name: impl Into<String>, outcome: Result<(), String>) -> Check {
        Check { name: name.into(), outcome }
    }
}

impl Readiness {
    /// Every target still to be connected. A loop that has not gone round for `stale_after` is dead.
    pub fn new<'a>(targets: impl IntoIterator<Item = &'a str>, stale_after: Duration) -> Readiness {
        let targets = targets
            .into_iter()
            .map(|t| (t.to_owned(), Stage::Connecting { last_error: None }))
            .collect();
        Readiness {
            stale_after,
            inner: Mutex::new(Inner { targets, ..Inner::default() }),
            changed: Notify::new(),
        }
    }

    /// An attempt to connect failed. Once connected, later failures do not count.
    pub fn connect_failed(&self, target: &str, error: &'static str) {
        if let Some(stage @ Stage::Connecting { .. }) = self.lock().targets.get_mut(target) {
            *stage = Stage::Connecting { last_error: Some(error) };
        }
    }

    /// A connection was made, and migrating begins. A repeated attempt after a failure keeps the
    /// failure in view until it succeeds.
    pub fn connected(&self, target: &str) {
        if let Some(stage @ Stage::Connecting { .. }) = self.lock().targets.get_mut(target) {
            *stage = Stage::Migrating;
        }
    }

    /// The schema is up to date.
    pub fn migrated(&self, target: &str) {
        self.set(target, Stage::Ready);
    }

    /// Migrating failed in `file` with an error of the kind `reason`. Neither may hold SQL text.
    pub fn migration_failed(&self, target: &str, file: &str, reason: &str) {
        self.set(target, Stage::Failed { file: one_line(file), reason: one_line(reason) });
    }

    /// The process is about to end.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Resolves once a database has come further, or fallen back, since the last call. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The loop `name` went round. The first call registers it; from then on it must keep going.
    pub fn beat(&self, name: &str, now: Instant) {
        let mut inner = self.lock();
        match inner.beats.get_mut(name) {
            Some(at) => *at = (*at).max(now),
            None => drop(inner.beats.insert(name.to_owned(), now)),
        }
    }

    /// The loop `name` has ended as it should: it is no longer waited for.
    pub fn retire(&self, name: &str) {
        self.lock().beats.remove(name);
    }

    /// Whether the pipeline advances; what the watchdog is fed from.
    pub fn alive(&self, now: Instant) -> bool {
        self.pipeline(now).outcome.is_ok()
    }

    /// Whether every check of readiness passes.
    pub fn ready(&self, now: Instant) -> bool {
        self.readyz(now).iter().all(|check| check.outcome.is_ok())
    }

    /// The checks of `/livez`.
    pub fn livez(&self, now: Instant) -> Vec<Check> {
        vec![self.pipeline(now)]
    }

    /// The checks of `/readyz`.
    pub fn readyz(&self, now: Instant) -> Vec<Check> {
        let pipeline = self.pipeline(now);
        let inner = self.lock();
        let draining =
            if inner.draining { Err("the process is stopping".to_owned()) } else { Ok(()) };
        let mut checks = vec![Check::new("draining", draining), pipeline];
        for (target, stage) in &inner.targets {
            let (connected, migrations) = stage.outcomes();
            checks.push(Check::new(format!("connected:{target}"), connected));
            checks.push(Check::new(format!("migrations:{target}"), migrations));
        }
        checks
    }

    /// The one check that liveness hangs on.
    pub fn pipeline(&self, now: Instant) -> Check {
        let late: Vec<String> = self
            .lock()
            .beats
            .iter()
            .map(|(name, at)| (name, now.saturating_duration_since(*at)))
            .filter(|(_, age)| *age > self.stale_after)
            .map(|(name, age)| format!("{name} has not gone round for {} s", age.as_secs()))
            .collect();
        let limit = self.stale_after.as_secs();
        let outcome = if late.is_empty() {
            Ok(())
        } else {
            Err(format!("{} (limit {limit} s)", late.join(", ")))
        };
        Check::new("pipeline", outcome)
    }

    fn set(&self, target: &str, stage: Stage) {
        if let Some(current) = self.lock().targets.get_mut(target) {
            *current = stage;
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    /// What `connected:TARGET` and `migrations:TARGET` say.
    fn outcomes(&self) -> (Result<(), String>, Result<(), String>) {
        match self {
            Stage::Connecting { last_error: None } => (
                Err("starting: connecting for the first time".to_owned()),
                Err("starting: waiting for the first connection".to_owned()),
            ),
            Stage::Connecting { last_error: Some(kind) } => (
                Err(format!("starting: connecting, last error {kind}")),
                Err("starting: waiting for the first connection".to_owned()),
            ),
            Stage::Migrating => (Ok(()), Err("starting: migrating".to_owned())),
            Stage::Ready => (Ok(()), Ok(())),
            Stage::Failed { file, reason } => {
                (Ok(()), Err(format!("migration {file} failed: {reason}")))
            }
        }
    }
}

/// Control characters away: a file's name can hold them, and a check is one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(30);

    /// The failed checks of `/readyz` as `name: reason`.
    fn unready(state: &Readiness, now: Instant) -> Vec<String> {
        let failed =
            |check: Check| check.outcome.err().map(|reason| format!("{}: {reason}", check.name));
        state.readyz(now).into_iter().filter_map(failed).collect()
    }

    #[test]
    fn a_target_becomes_ready_by_connecting_and_migrating_and_stays_so() {
        type Step = fn(&Readiness);
        let table: [(&str, Step, &[&str]); 9] = [
            (
                "at start",
                |_| (),
                &[
                    "connected:main: starting: connecting for the first time",
                    "migrations:main: starting: waiting for the first connection",
                ],
            ),
            (
                "refused",
                |s| s.connect_failed("main", "refused"),
                &[
                    "connected:main: starting: connecting, last error refused",
                    "migrations:main: starting: waiting for the first connection",
                ],
            ),
            ("connected", |s| s.connected("main"), &["migrations:main: starting: migrating"]),
            (
                "lost while migrating",
                |s| s.connect_failed("main", "refused"),
                &["migrations:main: starting: migrating"],
            ),
            (
                "a failed migration",
                |s| s.migration_failed("main", "003_x.sql", "syntax_error"),
                &["migrations:main: migration 003_x.sql failed: syntax_error"],
            ),
            (
                "tried again",
                |s| s.connected("main"),
                &["migrations:main: migration 003_x.sql failed: syntax_error"],
            ),
            ("migrated", |s| s.migrated("main"), &[]),
            ("server lost later", |s| s.connect_failed("main", "refused"), &[]),
            ("reconnected", |s| s.connected("main"), &[]),
        ];
        let state = Readiness::new(["main"], STALE);
        let now = Instant::now();
        for (step, act, expected) in table {
            act(&state);
            assert_eq!(unready(&state, now), expected, "{step}");
            assert_eq!(state.ready(now), expected.is_empty(), "{step}");
            assert!(state.alive(now), "{step}: liveness does not hang on the database");
        }
    }

    #[test]
    fn every_target_counts_and_unknown_ones_do_not() {
        let state = Readiness::new(["a", "b"], STALE);
        let now = Instant::now();
        state.migrated("a");
        state.migrated("nobody");
        assert!(!state.ready(now), "b has not connected");
        state.migrated("b");
        assert!(state.ready(now));
        let names: Vec<String> = state.readyz(now).into_iter().map(|c| c.name).collect();
        assert_eq!(
            names,
            ["draining", "pipeline", "connected:a", "migrations:a", "connected:b", "migrations:b"]
        );
    }

    #[test]
    fn draining_is_not_ready_but_alive() {
        let state = Readiness::new(["main"], STALE);
        let now = Instant::now();
        state.migrated("main");
        state.drain();
        assert_eq!(unready(&state, now), ["draining: the process is stopping"]);
        assert!(state.alive(now));
    }

    #[test]
    fn a_loop_that_stops_going_round_is_named() {
        let state = Readiness::new(["main"], STALE);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(state.alive(at(1000)), "nothing is registered yet");
        state.beat("main", at(0));
        state.beat("other", at(0));
        for (beat, ask, alive) in
            [(0, 30, true), (0, 31, false), (31, 61, true), (5, 61, true), (31, 62, false)]
        {
            state.beat("main", at(beat));
            state.beat("other", at(ask));
            assert_eq!(state.alive(at(ask)), alive, "last round at {beat}, asked at {ask}");
        }
        let expected = "main has not gone round for 31 s (limit 30 s)".to_owned();
        assert_eq!(state.pipeline(at(62)).outcome, Err(expected));
        assert!(unready(&state, at(62)).iter().any(|line| line.starts_with("pipeline: main")));
        state.retire("main");
        assert!(state.alive(at(62)));
    }

    #[test]
    fn a_reason_stays_one_line() {
        let state = Readiness::new(["main"], STALE);
        state.migration_failed("main", "a\nb.sql", "x\r\ny");
        assert_eq!(
            unready(&state, Instant::now()),
            ["migrations:main: migration a b.sql failed: x  y"]
        );
    }
}
