//! Turns signals into messages.
//!
//! A thread waits for SIGTERM, SIGINT and SIGHUP and sends them through a channel. The first SIGTERM
//! or SIGINT asks the daemon to stop. The second ends the process inside the signal handler, which
//! works even if the runtime, the channel or the drain hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Incoming};
use tokio::sync::mpsc;

/// A request of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and exit.
    Stop,
    /// SIGHUP: reload the configuration.
    Reload,
}

/// Capacity of the channel. Further reloads are merged into the pending ones.
const PENDING: usize = 8;

/// The registered signal handlers. Dropping it unregisters them.
#[derive(Debug)]
pub struct Signals {
    handle: Handle,
    registered: Vec<SigId>,
}

impl Signals {
    /// Registers the handlers and returns the receiver of signals. Fails with the error of the
    /// operating system.
    pub fn listen() -> io::Result<(Signals, mpsc::Receiver<Signal>)> {
        let armed = Arc::new(AtomicBool::new(false));
        let mut registered = Vec::with_capacity(4);
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the first signal finds the flag unset, then sets it.
            let code = 128 + signal;
            registered.push(signal_hook::flag::register_conditional_shutdown(
                signal,
                code,
                Arc::clone(&armed),
            )?);
            registered.push(signal_hook::flag::register(signal, Arc::clone(&armed))?);
        }
        let incoming = Incoming::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = incoming.handle();
        let (send, receive) = mpsc::channel(PENDING);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || forward(incoming, send))?;
        Ok((Signals { handle, registered }, receive))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Forwards signals until the handle is closed or the receiver is dropped.
fn forward(mut incoming: Incoming, send: mpsc::Sender<Signal>) {
    for signal in incoming.forever() {
        let delivered = match signal {
            // If the channel is full, the pending reloads read the same file.
            SIGHUP => {
                !matches!(send.try_send(Signal::Reload), Err(mpsc::error::TrySendError::Closed(_)))
            }
            _ => send.blocking_send(Signal::Stop).is_ok(),
        };
        if !delivered {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use signal_hook::low_level::raise;

    use super::*;

    const ROLE: &str = "PGSTEWARD_TEST_SIGNALS";

    /// Signals concern the whole process, so each case runs in its own process: this test starts
    /// itself again with a role, and checks the exit status.
    #[test]
    fn signals_become_messages_and_the_second_stop_ends_the_process() {
        if let Ok(role) = std::env::var(ROLE) {
            return run_role(&role);
        }
        for (role, code) in [("messages", 0), ("second", 128 + SIGINT), ("closed", 0), ("flood", 0)]
        {
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "lifecycle::signals::tests::signals_become_messages_and_the_second_stop_ends_the_process",
                ])
                .env(ROLE, role)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!((status.code(), status.signal()), (Some(code), None), "{role}");
        }
    }

    fn run_role(role: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (signals, mut receive) = Signals::listen().unwrap();
        let mut next = || {
            let wait =
                async { tokio::time::timeout(Duration::from_secs(10), receive.recv()).await };
            runtime.block_on(wait).expect("a signal within 10 s")
        };
        match role {
            "messages" => {
                raise(SIGHUP).unwrap();
                assert_eq!(next(), Some(Signal::Reload));
                raise(SIGHUP).unwrap();
                assert_eq!(next(), Some(Signal::Reload), "a reload arms nothing");
                raise(SIGTERM).unwrap();
                assert_eq!(next(), Some(Signal::Stop));
            }
            "second" => {
                raise(SIGTERM).unwrap();
                assert_eq!(next(), Some(Signal::Stop));
                raise(SIGINT).unwrap();
                unreachable!("the second signal ends the process");
            }
            "closed" => {
                drop(signals);
                assert_eq!(next(), None, "the thread ends with its handle");
            }
            "flood" => {
                for _ in 0..1000 {
                    raise(SIGHUP).unwrap();
                }
                raise(SIGTERM).unwrap();
                while next().expect("a stop is not lost among reloads") != Signal::Stop {}
            }
            other => unreachable!("{other}"),
        }
    }
}
