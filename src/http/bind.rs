//! Taking the address, and saying who has it where it is taken.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Why the address cannot be listened on. The exit code is `EX_UNAVAILABLE` (69).
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen on {address}: it is taken by {}; stop that, or set http.listen (--listen) to another address",
        owner.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    )]
    InUse { address: SocketAddr, owner: Option<Owner> },
    #[error(
        "cannot listen on {address}: not permitted; take a port of 1024 or above (http.listen), \
         or grant CAP_NET_BIND_SERVICE"
    )]
    Denied { address: SocketAddr },
    #[error(
        "cannot listen on {address}: this machine has no such address; set http.listen (--listen) to one it has"
    )]
    NoAddress { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Other { address: SocketAddr, source: io::Error },
}

/// The process behind a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub pid: u32,
    /// The command's name without its arguments, which may hold secrets.
    pub command: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Listens on `address`. Port 0 takes a free one.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address, owner: owner::of(address) },
        io::ErrorKind::PermissionDenied => BindError::Denied { address },
        io::ErrorKind::AddrNotAvailable => BindError::NoAddress { address },
        _ => BindError::Other { address, source },
    })
}

#[cfg(not(target_os = "linux"))]
mod owner {
    pub fn of(_: std::net::SocketAddr) -> Option<super::Owner> {
        None
    }
}

/// Read from /proc, as far as it may be read: the sockets of other users are visible, their owners
/// only to root. Runs once, on the way out of a failed start.
#[cfg(target_os = "linux")]
mod owner {
    use std::fs;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::os::unix::ffi::OsStrExt;

    use super::Owner;

    pub fn of(address: SocketAddr) -> Option<Owner> {
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| table.lines().skip(1).find_map(|line| inode(line, address)))?;
        let link = format!("socket:[{inode}]");
        let pids = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let pid = pids.into_iter().find(|pid| holds(*pid, &link))?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // A process chooses its own name.
        let command: String = name.trim_end().chars().filter(|c| !c.is_control()).collect();
        Some(Owner {
            pid,
            command: if command.is_empty() { "a process".to_owned() } else { command },
        })
    }

    fn holds(pid: u32, link: &str) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|target| target.as_os_str().as_bytes() == link.as_bytes())
    }

    /// The inode of a line of `/proc/net/tcp` or `tcp6` that listens where `address` wants to: `sl
    /// local_address rem_address st … inode`, see proc_net_tcp in the kernel's documentation.
    pub(super) fn inode(line: &str, address: SocketAddr) -> Option<u64> {
        const LISTEN: &str = "0A";
        let mut columns = line.split_ascii_whitespace();
        let (ip, port) = columns.nth(1)?.split_once(':')?;
        if u16::from_str_radix(port, 16).ok()? != address.port() || columns.nth(1)? != LISTEN {
            return None;
        }
        let ip = local(ip)?;
        let clash = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        let inode = columns.nth(5)?.parse().ok()?;
        (clash && inode != 0).then_some(inode)
    }

    /// Words of four bytes in the machine's order.
    fn local(hex: &str) -> Option<IpAddr> {
        let mut bytes = Vec::with_capacity(16);
        for start in (0..hex.len()).step_by(8) {
            bytes.extend(u32::from_str_radix(hex.get(start..start + 8)?, 16).ok()?.to_ne_bytes());
        }
        match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b))),
            16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).to_canonical()),
            _ => None,
        }
    }
}

#[cfg(all(test, target_os = "linux", target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn finds_the_listener_among_sockets() {
        let v4 = "   0: 0100007F:20F0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x";
        let any = v4.replace("0100007F", "00000000");
        let v6 = v4.replace("0100007F", "00000000000000000000000001000000");
        let mapped = v4.replace("0100007F", "0000000000000000FFFF00000100007F");
        let open = v4.replace(" 0A ", " 01 ");
        let table = [
            (v4, "127.0.0.1:8432", Some(4711)),
            (v4, "0.0.0.0:8432", Some(4711)),
            (v4, "127.0.0.2:8432", None),
            (v4, "127.0.0.1:8433", None),
            (&any, "127.0.0.2:8432", Some(4711)),
            (&v6, "[::1]:8432", Some(4711)),
            (&v6, "127.0.0.1:8432", None),
            (&mapped, "127.0.0.1:8432", Some(4711)),
            (&open, "127.0.0.1:8432", None),
            ("  sl  local_address", "127.0.0.1:8432", None),
            ("1: zz:zz", "127.0.0.1:8432", None),
            ("", "127.0.0.1:8432", None),
        ];
        for (line, address, expected) in table {
            assert_eq!(owner::inode(line, address.parse().unwrap()), expected, "{line} {address}");
        }
    }
}
