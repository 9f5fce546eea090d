//! Notifies systemd over the datagram socket in `NOTIFY_SOCKET`.
//!
//! A notification is one datagram of `KEY=VALUE` lines, see sd_notify(3). Outside systemd the
//! variable is unset and every call does nothing. Sending never blocks: a manager that does not read
//! must not stop the daemon.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

/// A connection to systemd. The default one sends nothing.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// Why systemd cannot be notified.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error(
        "NOTIFY_SOCKET: expected an absolute path, or @NAME for an abstract socket, found {found:?}"
    )]
    Address { found: OsString },
    #[error("cannot connect to NOTIFY_SOCKET={address:?}")]
    Connect { address: OsString, source: io::Error },
    #[error("WATCHDOG_USEC: expected a positive number of microseconds, found {found:?}")]
    Watchdog { found: OsString },
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` through `env`
    /// (`std::env::var_os` in the daemon).
    pub fn new(env: impl Fn(&str) -> Option<OsString>) -> Result<Notifier, NotifyError> {
        let set = |name| env(name).filter(|value| !value.is_empty());
        let socket = set("NOTIFY_SOCKET").map(connect).transpose()?;
        Ok(Notifier { socket, watchdog: watchdog(set("WATCHDOG_USEC"), set("WATCHDOG_PID"))? })
    }

    /// How often to call [`Notifier::watchdog`]: half of the watchdog timeout, as
    /// sd_watchdog_enabled(3) recommends. None if no watchdog is set for this process.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|allowed| allowed / 2)
    }

    /// Reports the end of the start or of a reload, with a line for `systemctl status`.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// Reports the beginning of the stop.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// Reports the beginning of a reload. [`Notifier::ready`] reports its end.
    pub fn reloading(&self) -> io::Result<()> {
        // systemd requires the time on CLOCK_MONOTONIC, to distinguish this reload from earlier ones.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            now.tv_sec * 1_000_000 + now.tv_nsec / 1000
        ))
    }

    /// Sets the line that `systemctl status` shows.
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// Resets the watchdog.
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        match &self.socket {
            Some(socket) => socket.send(message.as_bytes()).map(drop),
            None => Ok(()),
        }
    }
}

fn connect(address: OsString) -> Result<UnixDatagram, NotifyError> {
    let target = match address.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => abstract_address(name),
        [b'/', ..] => SocketAddr::from_pathname(PathBuf::from(&address)),
        _ => return Err(NotifyError::Address { found: address }),
    };
    let open = |target: SocketAddr| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&target)?;
        Ok(socket)
    };
    target.and_then(open).map_err(|source| NotifyError::Connect { address, source })
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "abstract sockets exist on Linux only"))
}

/// Returns the watchdog timeout if it is meant for this process.
fn watchdog(
    usec: Option<OsString>,
    pid: Option<OsString>,
) -> Result<Option<Duration>, NotifyError> {
    let Some(usec) = usec else { return Ok(None) };
    // A child inherits the variables, but they are meant for the process in WATCHDOG_PID.
    if pid.is_some_and(|pid| pid.to_str().and_then(|p| p.parse().ok()) != Some(std::process::id()))
    {
        return Ok(None);
    }
    match usec.to_str().and_then(|text| text.parse::<u64>().ok()) {
        Some(micros) if micros > 0 => Ok(Some(Duration::from_micros(micros))),
        _ => Err(NotifyError::Watchdog { found: usec }),
    }
}

/// Replaces control characters: a line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn receive(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn every_message(notifier: &Notifier, manager: &UnixDatagram) {
        notifier.ready("2 databases\nMAINPID=1").unwrap();
        assert_eq!(
            receive(manager),
            "READY=1\nSTATUS=2 databases MAINPID=1",
            "a status cannot inject a line"
        );
        notifier.status("connecting").unwrap();
        assert_eq!(receive(manager), "STATUS=connecting");
        notifier.watchdog().unwrap();
        assert_eq!(receive(manager), "WATCHDOG=1");
        notifier.stopping().unwrap();
        assert_eq!(receive(manager), "STOPPING=1");
        notifier.reloading().unwrap();
        let first = receive(manager);
        let usec: i64 =
            first.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        notifier.reloading().unwrap();
        let later: i64 = receive(manager).rsplit_once('=').unwrap().1.parse().unwrap();
        assert!(0 < usec && usec <= later, "{usec} {later}");
    }

    #[test]
    fn notifications_reach_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        every_message(
            &Notifier::new(env(&[("NOTIFY_SOCKET", path.to_str().unwrap())])).unwrap(),
            &manager,
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn notifications_reach_an_abstract_socket() {
        let name = format!("pgsteward-notify-{}", uuid::Uuid::now_v7());
        let manager = UnixDatagram::bind_addr(&abstract_address(name.as_bytes()).unwrap()).unwrap();
        every_message(
            &Notifier::new(env(&[("NOTIFY_SOCKET", &format!("@{name}"))])).unwrap(),
            &manager,
        );
    }

    #[test]
    fn without_systemd_nothing_happens() {
        for pairs in [&[][..], &[("NOTIFY_SOCKET", "")]] {
            let notifier = Notifier::new(env(pairs)).unwrap();
            notifier.ready("up").unwrap();
            notifier.reloading().unwrap();
            assert_eq!(notifier.watchdog_interval(), None);
        }
        Notifier::default().stopping().unwrap();
    }

    #[test]
    fn a_bad_address_is_named() {
        for bad in ["run/notify", "@", "vsock:2:1234"] {
            let error = Notifier::new(env(&[("NOTIFY_SOCKET", bad)])).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("absolute path"), "{error}");
        }
        let gone = Notifier::new(env(&[("NOTIFY_SOCKET", "/nonexistent/notify")])).unwrap_err();
        assert!(matches!(gone, NotifyError::Connect { .. }), "{gone}");
    }

    #[test]
    fn a_manager_that_does_not_read_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(env(&[("NOTIFY_SOCKET", path.to_str().unwrap())])).unwrap();
        let refused = (0..100_000).find_map(|_| notifier.watchdog().err());
        assert_eq!(refused.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn the_watchdog_interval_is_half_the_timeout_of_this_process() {
        let own = std::process::id().to_string();
        let other = (std::process::id() + 1).to_string();
        let half = Some(Duration::from_secs(15));
        let table = [
            ("", "", None),
            ("", own.as_str(), None),
            ("30000000", "", half),
            ("30000000", &own, half),
            ("30000000", &other, None),
            ("30000000", "x", None),
        ];
        for (usec, pid, expected) in table {
            let notifier =
                Notifier::new(env(&[("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)])).unwrap();
            assert_eq!(notifier.watchdog_interval(), expected, "{usec} {pid}");
        }
        for bad in ["0", "-1", "30s"] {
            let error = Notifier::new(env(&[("WATCHDOG_USEC", bad)])).unwrap_err();
            assert!(matches!(error, NotifyError::Watchdog { .. }), "{error}");
        }
    }
}
