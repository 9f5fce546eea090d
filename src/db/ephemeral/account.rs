//! Who a server runs as.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::EphemeralError;

/// A user and its first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account to become: none for an ordinary user, who stays who they are; `postgres` or else
    /// `nobody` for root, whom a server refuses.
    pub fn for_server() -> Result<Option<Account>, EphemeralError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd =
            fs::read_to_string("/etc/passwd").map_err(EphemeralError::io("read /etc/passwd"))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Account::named(name, &passwd))
            .map(Some)
            .ok_or(EphemeralError::NoAccount)
    }

    fn named(name: &str, passwd: &str) -> Option<Account> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then_some(Account { uid, gid })
        })
    }

    /// Whether this account gets to a folder: root's own temporary folder is often closed to others.
    pub fn can_reach(self, folder: &Path) -> Result<(), String> {
        for part in folder.ancestors() {
            let meta = fs::metadata(part).map_err(|error| error.to_string())?;
            let may_search = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & may_search == 0 {
                return Err(format!(
                    "{} is closed to the server's account (uid {})",
                    part.display(),
                    self.uid
                ));
            }
        }
        Ok(())
    }

    /// Makes a file or folder this account's.
    pub fn give(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_whole_name_and_root_is_none() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:5:5::/:/bin/sh\npostgres:x:101:104:,,,:/var/lib:/bin/sh\n";
        assert_eq!(Account::named("postgres", passwd), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::named("root", passwd), None);
        assert_eq!(Account::named("nobody", passwd), None);
        assert_eq!(Account::named("postgres", "postgres:x:many:104:"), None);
    }
    #[test]
    fn a_closed_folder_on_the_way_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let outer = std::path::PathBuf::from(format!(
            "/tmp/pgsteward-account-{}",
            uuid::Uuid::new_v4().simple()
        ));
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let stranger = Account { uid: 4_000_000_001, gid: 4_000_000_001 };
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(stranger.can_reach(&inner), Ok(()));
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o700)).unwrap();
        let refused = stranger.can_reach(&inner).unwrap_err();
        assert!(refused.starts_with(&format!("{} is closed", outer.display())), "{refused}");
        fs::remove_dir_all(outer).unwrap();
    }
}
