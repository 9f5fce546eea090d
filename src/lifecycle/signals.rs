//! Signals, turned into messages.
//!
//! A thread of its own waits for SIGTERM, SIGINT and SIGHUP and passes them on through a channel.
//! The first SIGTERM or SIGINT asks to stop; the second ends the process inside the signal handler,
//! with nothing left to hang on: not the runtime, not the channel, not the drain that the first one
//! began.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Incoming};
use tokio::sync::mpsc;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Signals that are taken from the channel; more reloads than this at once are one.
const PENDING: usize = 8;

/// Listens for as long as it lives.
#[derive(Debug)]
pub struct Signals {
    handle: Handle,
    registered: Vec<SigId>,
}

impl Signals {
    /// Begins to listen. Errors are the operating system's, on registering a handler.
    pub fn listen() -> io::Result<(Signals, mpsc::Receiver<Signal>)> {
        let armed = Arc::new(AtomicBool::new(false));
        let mut registered = Vec::with_capacity(4);
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the first signal finds the switch off, then arms it.
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

/// Runs until the handle is closed or nobody listens any more.
fn forward(mut incoming: Incoming, send: mpsc::Sender<Signal>) {
    for signal in incoming.forever() {
        let delivered = match signal {
            // A reload that finds the channel full is answered by those before it.
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

    /// Signals are the whole process's, so each scene plays in a process of its own: this test
    /// starts itself again with a role, and looks at how it ends.
    #[test]
    fn signals_become_messages_and_the_second_stop_ends_the_process() {
        if let Ok(role) = std::env::var(ROLE) {
            return play(&role);
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

    fn play(role: &str) {
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
