//! Where a server's folder may lie: in memory where there is room, and where a socket's path fits.

use std::path::{Path, PathBuf};

use super::account::Account;
use super::folder::{ID_BYTES, PREFIX};

/// What a tmpfs must have free to be used: a development database fits, and its memory is there.
const TMPFS_FREE_BYTES: u64 = 1 << 30;

/// `sun_path` less its end mark: 108 bytes on Linux, 104 on the BSDs and macOS.
const SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// The longest name that a server gives its socket.
const SOCKET_NAME: &str = ".s.PGSQL.65535";

/// Where a folder may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// In memory, if it is a tmpfs with enough room.
    Tmpfs(PathBuf),
    Disk(PathBuf),
}

impl Base {
    /// Shared memory, then `$TMPDIR`, then `/tmp`, whose path is short enough for any socket.
    pub fn usual() -> Vec<Base> {
        let mut bases = vec![Base::Tmpfs("/dev/shm".into()), Base::Disk(std::env::temp_dir())];
        if std::env::temp_dir() != Path::new("/tmp") {
            bases.push(Base::Disk("/tmp".into()));
        }
        bases
    }

    pub fn path(&self) -> &Path {
        match self {
            Base::Tmpfs(path) | Base::Disk(path) => path,
        }
    }

    /// Whether a folder there could serve, or why not.
    pub fn fit(&self, account: Option<Account>) -> Result<(), String> {
        let socket =
            self.path().as_os_str().len() + 1 + PREFIX.len() + ID_BYTES + 1 + SOCKET_NAME.len();
        if !self.path().is_absolute() {
            return Err("not an absolute path".to_owned());
        }
        if socket > SOCKET_PATH_BYTES {
            return Err(format!(
                "too long: a socket's path may have {SOCKET_PATH_BYTES} bytes, there it has {socket}"
            ));
        }
        if let Some(account) = account {
            account.can_reach(self.path())?;
        }
        match self {
            Base::Disk(_) => Ok(()),
            Base::Tmpfs(path) => tmpfs_with_room(path),
        }
    }
}

#[cfg(target_os = "linux")]
fn tmpfs_with_room(path: &Path) -> Result<(), String> {
    // statfs(2): TMPFS_MAGIC.
    const TMPFS: i64 = 0x0102_1994;
    let stat = rustix::fs::statfs(path).map_err(|error| error.to_string())?;
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    // The width differs by architecture.
    let (kind, free) = (stat.f_type as i64, stat.f_bavail as u64 * stat.f_bsize as u64);
    if kind != TMPFS {
        return Err("not a tmpfs".to_owned());
    }
    if free < TMPFS_FREE_BYTES {
        return Err(format!("{} MiB free, wanted {} MiB", free >> 20, TMPFS_FREE_BYTES >> 20));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn tmpfs_with_room(_: &Path) -> Result<(), String> {
    Err("not a tmpfs".to_owned())
}
