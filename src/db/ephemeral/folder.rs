//! The folder of a throw-away server, and what earlier ones left behind.
//!
//! A folder is born under a hidden name and gets its final one only with its `lock` file locked
//! (flock). The lock is shared with the supervisor, so it is free only when both are gone: a folder
//! whose lock can be taken is a leftover. Process ids are never trusted for that.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use super::account::Account;
use super::base::Base;
use super::error::EphemeralError;

pub(super) const PREFIX: &str = "pgsteward-ephemeral-";
/// What follows the prefix.
pub(super) const ID_BYTES: usize = 12;
/// Not yet locked, therefore not yet to be judged by the lock.
const UNBORN: &str = ".pgsteward-ephemeral-";
/// First line of the lock file: what else is in such a folder may be deleted.
const MARKER: &str = "pgsteward throw-away server\n";
/// Birth takes milliseconds.
const UNBORN_KEPT: Duration = Duration::from_secs(600);

/// One server's folder, held by its lock.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes one in the first of `bases` that can have it, owned by the account the server gets.
    pub fn create(bases: &[Base], account: Option<Account>) -> Result<Folder, EphemeralError> {
        let mut refused = Vec::new();
        for base in bases {
            match base.fit(account).and_then(|()| {
                Folder::create_in(base.path(), account).map_err(|error| error.to_string())
            }) {
                Ok(folder) => return Ok(folder),
                Err(reason) => refused.push(format!("{}: {reason}", base.path().display())),
            }
        }
        Err(EphemeralError::NoFolder(refused))
    }

    fn create_in(base: &Path, account: Option<Account>) -> io::Result<Folder> {
        let id = &uuid::Uuid::new_v4().simple().to_string()[..ID_BYTES];
        let unborn = base.join(format!("{UNBORN}{id}"));
        DirBuilder::new().mode(0o700).create(&unborn)?;
        let born = base.join(format!("{PREFIX}{id}"));
        let made = (|| {
            let mut lock = create_private(&unborn.join("lock"))?;
            lock.write_all(MARKER.as_bytes())?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            if let Some(account) = account {
                account.give(&unborn)?;
            }
            fs::rename(&unborn, &born)?;
            Ok(lock)
        })();
        match made {
            Ok(lock) => Ok(Folder { path: born, lock }),
            Err(error) => {
                // The error to tell is the first one.
                let _ = fs::remove_dir_all(&unborn);
                Err(error)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// A second handle to the same lock, for the supervisor.
    pub fn share_lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Writes a new file that only its owner may read.
    pub fn write_private(
        &self,
        name: &str,
        text: &str,
        owner: Option<Account>,
    ) -> Result<PathBuf, EphemeralError> {
        let path = self.path.join(name);
        let write = || {
            let mut file = create_private(&path)?;
            file.write_all(text.as_bytes())?;
            owner.map_or(Ok(()), |account| account.give(&path))
        };
        write().map_err(EphemeralError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// The end of the server's log, whole lines.
    pub fn log_tail(&self) -> String {
        const TAIL_BYTES: usize = 4096;
        let text = fs::read(self.log()).unwrap_or_default();
        let start = text.len().saturating_sub(TAIL_BYTES);
        let tail = String::from_utf8_lossy(&text[start..]).into_owned();
        match tail.split_once('\n') {
            Some((_, whole)) if start > 0 => whole.to_owned(),
            _ => tail,
        }
    }

    /// Ends a server that lost its supervisor, and removes the folder. Blocks.
    #[allow(clippy::disallowed_methods, reason = "sleeps on a thread for blocking work")]
    pub fn remove(self) -> io::Result<()> {
        end_orphan(&self.data());
        // Files of backends that are just ending may still appear.
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            match fs::remove_dir_all(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.path.exists() => {
                    return Ok(());
                }
                Err(error) if Instant::now() > patience => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Removes what dead processes left in `bases`. Blocks. Returns how many folders went.
    pub fn sweep(bases: &[Base], account: Option<Account>) -> usize {
        let ours = |uid: u32| {
            uid == rustix::process::geteuid().as_raw() || account.is_some_and(|one| one.uid == uid)
        };
        let mut swept = 0;
        for base in bases {
            let Ok(entries) = fs::read_dir(base.path()) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                if !meta.is_dir() || !ours(meta.uid()) {
                    continue;
                }
                swept += usize::from(sweep_one(&entry.file_name(), &path, &meta));
            }
        }
        swept
    }
}

fn sweep_one(name: &OsStr, path: &Path, meta: &fs::Metadata) -> bool {
    if name.as_bytes().starts_with(UNBORN.as_bytes()) {
        let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        return age.is_some_and(|age| age > UNBORN_KEPT) && fs::remove_dir_all(path).is_ok();
    }
    if !name.as_bytes().starts_with(PREFIX.as_bytes()) {
        return false;
    }
    let Some(lock) = take_lock(&path.join("lock")) else { return false };
    let leftover = Folder { path: path.to_owned(), lock };
    match leftover.remove() {
        Ok(()) => {
            tracing::info!(folder = %path.display(), "removed a leftover throw-away server");
            true
        }
        Err(error) => {
            tracing::warn!(folder = %path.display(), %error, "cannot remove a leftover throw-away server");
            false
        }
    }
}

/// The lock of a leftover: it carries our mark, and nobody holds it.
fn take_lock(path: &Path) -> Option<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file =
        OpenOptions::new().read(true).write(true).custom_flags(no_follow).open(path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let mut mark = String::new();
    Read::by_ref(&mut file).take(MARKER.len() as u64).read_to_string(&mut mark).ok()?;
    (mark == MARKER).then_some(file)
}

/// The server process of a data folder: named by `postmaster.pid`, and believed only because it
/// works in that folder (elsewhere than on Linux that cannot be seen, and it is not believed).
pub(super) fn postmaster(data: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?)?;
    let works_in = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok()?;
    (works_in == data).then_some(pid)
}

/// Ends a server that lost its supervisor: immediate shutdown, then the hard way. Blocks.
#[allow(clippy::disallowed_methods, reason = "sleeps on a thread for blocking work")]
pub(super) fn end_orphan(data: &Path) {
    let Some(pid) = postmaster(data) else { return };
    tracing::warn!(data = %data.display(), pid = pid.as_raw_nonzero().get(), "ending an orphaned throw-away server");
    for signal in [Signal::QUIT, Signal::KILL] {
        // An error says that it is gone, which the loop below sees.
        let _ = rustix::process::kill_process(pid, signal);
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience {
            if postmaster(data) != Some(pid) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // The umask may have taken more away; the owner must be able to read.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base of its own, so that a sweep meets nobody else's folders.
    fn base(name: &str) -> (PathBuf, Vec<Base>) {
        let path = PathBuf::from(format!(
            "/tmp/pgsteward-folder-{}-{name}",
            &uuid::Uuid::new_v4().simple().to_string()[..8]
        ));
        fs::create_dir(&path).unwrap();
        (path.clone(), vec![Base::Disk(path)])
    }

    #[test]
    fn a_held_folder_survives_a_sweep_and_a_left_one_does_not() {
        let (path, bases) = base("sweep");
        let held = Folder::create(&bases, None).unwrap();
        assert_eq!(Folder::sweep(&bases, None), 0, "the lock is held");
        let second = held.share_lock().unwrap();
        let folder = held.path().to_owned();
        drop(held);
        assert_eq!(Folder::sweep(&bases, None), 0, "its second handle is held");
        drop(second);
        assert_eq!(Folder::sweep(&bases, None), 1);
        assert!(!folder.exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_sweep_touches_nothing_without_the_mark() {
        let (path, bases) = base("mark");
        let foreign = path.join(format!("{PREFIX}foreign"));
        fs::create_dir(&foreign).unwrap();
        assert_eq!(Folder::sweep(&bases, None), 0, "no lock file");
        fs::write(foreign.join("lock"), "something else").unwrap();
        assert_eq!(Folder::sweep(&bases, None), 0, "a lock file without the mark");
        fs::create_dir(path.join(format!("{UNBORN}young"))).unwrap();
        assert_eq!(Folder::sweep(&bases, None), 0, "a birth under way");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_passed_over() {
        let (short, bases) = base("short");
        let long = short.join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let both = [Base::Disk(long), bases[0].clone()];
        let folder = Folder::create(&both, None).unwrap();
        assert_eq!(folder.path().parent(), Some(short.as_path()));
        let text = Folder::create(&both[..1], None).unwrap_err().to_string();
        assert!(text.contains("too long: a socket's path may have"), "{text}");
        fs::remove_dir_all(short).unwrap();
    }

    #[test]
    fn a_base_that_cannot_be_written_says_why() {
        let text =
            Folder::create(&[Base::Disk("/nonexistent".into())], None).unwrap_err().to_string();
        assert!(text.contains("/nonexistent: No such file or directory"), "{text}");
    }

    #[test]
    fn what_is_private_is_readable_by_its_owner_only() {
        let (path, bases) = base("mode");
        let folder = Folder::create(&bases, None).unwrap();
        let file = folder.write_private("password", "secret", None).unwrap();
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_pid_file_that_names_a_stranger_is_not_believed() {
        let (path, _) = base("pid");
        fs::write(path.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(postmaster(&path), None);
        fs::remove_dir_all(path).unwrap();
    }
}
