//! Waiting for the end of a run that an instance works on, through restarts of the server.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cli::{bounded, say};
use crate::db::retry::Backoff;
use crate::db::{Database, Error, Kind, Purpose};
use crate::lifecycle::signals::Signal;
use crate::store::run_history::{self, RunEntry};

/// Between two looks at the row.
const POLL: Duration = Duration::from_millis(300);
/// The longest pause while the server is away.
const POLL_MOST: Duration = Duration::from_secs(5);

/// What waiting came to.
#[derive(Debug)]
pub enum Waited {
    Over(Box<RunEntry>),
    /// Its row was deleted.
    Gone,
    /// Who waits was told to stop.
    Interrupted,
    /// The bound has passed; the row as it was last, if it could be read.
    TooLong(Option<Box<RunEntry>>),
}

/// Waits until a run is over, at most `bound`.
///
/// # Errors
/// What no waiting mends: a missing privilege, say. A server that is away is waited for.
pub async fn until_over(
    db: &Database,
    id: Uuid,
    bound: Duration,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<Waited, Error> {
    let until = Instant::now() + bound;
    let mut backoff = Backoff::new(POLL, POLL_MOST);
    let (mut last, mut told) = (None, false);
    loop {
        let pause = match look(db, id).await {
            Ok(Some(entry)) if entry.is_over() => return Ok(Waited::Over(Box::new(entry))),
            Ok(None) => return Ok(Waited::Gone),
            Ok(Some(entry)) => {
                last = Some(Box::new(entry));
                backoff.reset();
                POLL
            }
            Err(error) if may_pass(&error) => {
                if !std::mem::replace(&mut told, true) {
                    say(&format!("database {}: {error}; waiting on", db.name()));
                }
                backoff.next_delay()
            }
            Err(error) => return Err(error),
        };
        if Instant::now() + pause > until {
            return Ok(Waited::TooLong(last));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(signals) => return Ok(Waited::Interrupted),
        }
    }
}

/// Resolves when a signal asks to stop.
pub async fn stopped(signals: &mut mpsc::Receiver<Signal>) {
    while let Some(Signal::Reload) = signals.recv().await {}
}

/// Whether a server that is away, or just back, may answer a little later.
fn may_pass(error: &Error) -> bool {
    error.kind().is_passing() || error.kind() == Kind::Timeout
}

async fn look(db: &Database, id: Uuid) -> Result<Option<RunEntry>, Error> {
    let bound = db.query_timeout();
    bounded("read the run", bound * 2, async {
        run_history::read_run(&mut *db.acquire(Purpose::Check).await?, id, bound).await
    })
    .await
}
