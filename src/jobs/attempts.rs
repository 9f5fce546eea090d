//! What jobs over many objects share: a lock tried politely, and failures that stop nobody else.

use std::time::Duration;

use tokio::time::Instant;

use super::{Context, Report};
use crate::db::retry::Backoff;
use crate::db::{Error, Kind, TxOptions};

/// How long one attempt may stand in a lock's queue, with everybody else behind it.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(20);
/// How long attempts may go on for one object; the next run tries again.
const LOCK_BUDGET: Duration = Duration::from_secs(15);
/// What an attempt is given before the job's deadline: one that is cut off by it tells of the deadline, not of
/// the lock.
const ATTEMPT_ROOM: Duration = Duration::from_secs(1);
/// One statement of a transaction.
const STATEMENT: Duration = Duration::from_secs(30);

/// A transaction of short statements inside the job's deadline, dates and times as ISO text in UTC
/// (so that what is read as text means the same when it is sent back).
pub fn short(ctx: &Context<'_>) -> TxOptions {
    let mut options = TxOptions::within(STATEMENT.min(ctx.time_left()));
    options.prelude = "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; ".to_owned();
    options
}

/// Attempts on one object's lock: bounded in time, spaced by backoff.
#[derive(Debug)]
pub struct LockAttempts {
    backoff: Backoff,
    since: Instant,
    made: u32,
}

impl LockAttempts {
    pub fn new() -> LockAttempts {
        let backoff = Backoff::new(Duration::from_millis(40), Duration::from_secs(1));
        LockAttempts { backoff, since: Instant::now(), made: 0 }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The same error, when it is none of a lock, the budget or the deadline is spent, or the job is
    /// to stop.
    pub async fn after(&mut self, ctx: &Context<'_>, error: Error) -> Result<(), Error> {
        self.made += 1;
        if error.kind() != Kind::LockTimeout {
            return Err(error);
        }
        let pause = self.backoff.next_delay();
        let spent = self.since.elapsed();
        if spent + pause > LOCK_BUDGET || pause + ATTEMPT_ROOM >= ctx.time_left() || ctx.stopping()
        {
            let seconds = spent.as_secs_f64();
            return Err(error
                .context(format!("lock not free in {} attempts over {seconds:.1} s", self.made)));
        }
        rest(ctx, pause).await;
        Ok(())
    }
}

/// Sleeps, at most to the deadline, and wakes when the job is to stop.
pub async fn rest(ctx: &Context<'_>, pause: Duration) {
    tokio::select! {
        () = ctx.stop.cancelled() => {}
        () = tokio::time::sleep(pause.min(ctx.time_left())) => {}
    }
}

/// Failures of single objects, told together at the end.
#[derive(Debug, Default)]
pub struct Failures {
    met: Vec<(String, Error)>,
}

impl Failures {
    /// Keeps an object's failure.
    ///
    /// # Errors
    /// The failure itself where nothing more can be done in this run: the connection is gone, the
    /// run was cancelled, or another instance has taken it over.
    pub fn keep(&mut self, object: &str, error: Error) -> Result<(), Error> {
        if error.kind().is_connection() || matches!(error.kind(), Kind::Cancelled | Kind::Fenced) {
            return Err(error.context(object));
        }
        self.met.push((object.to_owned(), error));
        Ok(())
    }

    /// One error with the first one's kind that names each object, its kind and its cause; none where
    /// nothing failed.
    pub fn finish(self) -> Option<Error> {
        let kind = self.met.first()?.1.kind();
        let each: Vec<String> = self
            .met
            .iter()
            .map(|(object, error)| format!("{object} ({}): {error}", error.kind()))
            .collect();
        Some(Error::new(kind, format!("{} failed: {}", self.met.len(), each.join("; "))))
    }
}

/// Objects that this role may not do the job on.
#[derive(Debug, Default)]
pub struct NotPermitted {
    met: Vec<(String, String)>,
}

impl NotPermitted {
    /// Names told one by one; the rest is counted.
    const NAMED: usize = 10;

    /// Keeps an object and the GRANT that would permit it.
    pub fn keep(&mut self, object: &str, grant: &str) {
        self.met.push((object.to_owned(), grant.to_owned()));
    }

    /// Tells the report: a skipped run where `nothing_else` was done or tried, else warnings.
    pub fn tell(self, report: &mut Report, nothing_else: bool) {
        let more = self.met.len().saturating_sub(Self::NAMED);
        if nothing_else && !self.met.is_empty() {
            let grants: Vec<&str> =
                self.met.iter().take(Self::NAMED).map(|(_, grant)| grant.as_str()).collect();
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            report.skipped = Some(format!("not_permitted: needs {}{more}", grants.join("; ")));
            return;
        }
        for (object, grant) in self.met.into_iter().take(Self::NAMED) {
            report.warnings.push(format!("{object}: not permitted, needs {grant}"));
        }
        if more > 0 {
            report
                .warnings
                .push(format!("{more} more are not permitted; the run's detail names them"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_together_and_keep_their_kinds() {
        let mut failures = Failures::default();
        failures.keep("a.b", Error::new(Kind::Permission, "not yours")).expect("goes on");
        failures.keep("c.d", Error::new(Kind::LockTimeout, "busy")).expect("goes on");
        let error = failures.finish().expect("two failed");
        assert_eq!(error.kind(), Kind::Permission);
        assert_eq!(
            error.to_string(),
            "2 failed: a.b (permission): not yours; c.d (lock_timeout): busy"
        );
        assert!(Failures::default().finish().is_none());
    }

    #[test]
    fn what_is_not_permitted_is_a_reason_or_a_warning_and_bounded() {
        let met = || {
            let mut met = NotPermitted::default();
            (0..12).for_each(|i| met.keep(&format!("a.t{i}"), &format!("GRANT {i}")));
            met
        };
        let (mut alone, mut beside, mut nothing) =
            (Report::default(), Report::default(), Report::default());
        met().tell(&mut alone, true);
        let reason = alone.skipped.expect("skipped");
        assert!(
            reason.starts_with("not_permitted: needs GRANT 0; GRANT 1; ")
                && reason.ends_with("; and 2 more"),
            "{reason}"
        );
        assert!(alone.warnings.is_empty());
        met().tell(&mut beside, false);
        assert_eq!((beside.skipped, beside.warnings.len()), (None, 11));
        assert_eq!(beside.warnings[0], "a.t0: not permitted, needs GRANT 0");
        NotPermitted::default().tell(&mut nothing, true);
        assert_eq!(
            (nothing.skipped, nothing.warnings.len()),
            (None, 0),
            "nothing to do is no want of privileges"
        );
    }

    #[test]
    fn what_ends_the_run_is_returned_at_once() {
        for kind in [Kind::ConnectionLost, Kind::Cancelled, Kind::Fenced] {
            let error = Failures::default()
                .keep("a.b", Error::new(kind, "over"))
                .expect_err("ends the run");
            assert_eq!(error.kind(), kind);
        }
    }
}
