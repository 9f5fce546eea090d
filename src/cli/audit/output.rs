//! Where an export goes: standard output, or a file that appears when it is whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::shown;

/// For its owner alone: a trail names people.
const MODE: u32 = 0o600;

/// Takes what is written.
pub enum Output {
    Stdout {
        /// Whether a person looks on.
        terminal: bool,
    },
    File(Partial),
}

/// A file under way, beside the one that it will be.
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    force: bool,
}

/// Whether the other end takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// It has closed: `head`, a pager.
    Closed,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Output {
        Output::Stdout { terminal: io::stdout().is_terminal() }
    }

    /// A file, which must not exist unless `force` says so.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn file(target: &Path, force: bool) -> Result<Output, String> {
        free(target, force)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = target.with_file_name(name);
        let shown = path.display();
        let file = begin(&path).map_err(|error| format!("{shown}: {error}"))?;
        file.try_lock().map_err(|error| format!("{shown}: another export writes it ({error})"))?;
        file.set_len(0).map_err(|error| format!("{shown}: {error}"))?;
        Ok(Output::File(Partial { file, path, target: target.to_owned(), force }))
    }

    /// Writes a page.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Taken> {
        let written = match self {
            Output::File(partial) => partial.file.write_all(bytes),
            Output::Stdout { terminal: false } => io::stdout().lock().write_all(bytes),
            Output::Stdout { terminal: true } => {
                let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
                io::stdout().lock().write_all(shown::escaped(&text, &['\n']).as_bytes())
            }
        };
        taken(written)
    }

    /// Ends it: the file gets its name once it is on the disk.
    pub fn finish(self) -> io::Result<Taken> {
        match self {
            Output::Stdout { .. } => taken(io::stdout().lock().flush()),
            Output::File(partial) => {
                let finished = partial.finish();
                if finished.is_err() {
                    partial.abandon();
                }
                finished.map(|()| Taken::Yes)
            }
        }
    }

    /// Gives up: what was written so far goes.
    pub fn abandon(self) {
        if let Output::File(partial) = self {
            partial.abandon();
        }
    }
}

impl Partial {
    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        // Somebody may have made it meanwhile.
        free(&self.target, self.force).map_err(io::Error::other)?;
        std::fs::rename(&self.path, &self.target)?;
        match self.target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    fn abandon(&self) {
        // At worst it stays, and the next export writes over it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens a file that may be there from an export that was interrupted, and leaves what is in it. No link is
/// followed: in a folder that others write to, it may be theirs.
fn begin(path: &Path) -> io::Result<File> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(no_link)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

fn taken(written: io::Result<()>) -> io::Result<Taken> {
    match written {
        Ok(()) => Ok(Taken::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Taken::Closed),
        Err(error) => Err(error),
    }
}

/// Whether a file may take this name. What is no file is never replaced: `--force --output /dev/null` by root
/// would do harm.
fn free(target: &Path, force: bool) -> Result<(), String> {
    let shown = target.display();
    if target.file_name().is_none() {
        return Err(format!("found {shown}, wanted the name of a file"));
    }
    match target.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            Err(format!("{shown} is no file; wanted a file, or a name that is free"))
        }
        Ok(_) if !force => Err(format!("{shown} exists; --force replaces it")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}
