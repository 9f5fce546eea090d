//! How a throw-away server is started, and with which settings.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::base::Base;

/// What such a server needs: speed, little memory, nothing durable. Later lines of
/// `postgresql.conf` win, so [`Options::settings`] override these.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    // Costs nothing without fsync, and a server that dies alone has then lost no commit: it is started
    // again on its data.
    ("synchronous_commit", "on"),
    ("full_page_writes", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "50"),
    ("min_wal_size", "32MB"),
    ("max_wal_size", "256MB"),
    // Segments of parallel queries go away with the folder, also when the server is killed.
    ("dynamic_shared_memory_type", "mmap"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("timezone", "UTC"),
    ("ssl", "off"),
];

/// How to start one.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of `postgres` and `initdb` to use and no other (`PGSTEWARD_PG_BIN`).
    pub bin: Option<PathBuf>,
    /// Where else to look first (`PATH`).
    pub path: Option<OsString>,
    /// Make the folder here instead of in shared memory or `$TMPDIR`.
    pub base: Option<PathBuf>,
    /// Settings beyond the usual ones, for `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// How long `initdb`, and then the server's start, may each take. Default 30 s.
    pub start_timeout: Duration,
}

impl Options {
    /// As the environment says.
    pub fn from_env() -> Options {
        Options {
            bin: std::env::var_os("PGSTEWARD_PG_BIN")
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            path: std::env::var_os("PATH"),
            base: None,
            settings: Vec::new(),
            start_timeout: Duration::from_secs(30),
        }
    }

    /// Where the folder may be made, the best first.
    pub(super) fn bases(&self) -> Vec<Base> {
        self.base.clone().map_or_else(Base::usual, |base| vec![Base::Disk(base)])
    }

    /// What is added to `postgresql.conf`.
    pub(super) fn conf(&self) -> String {
        let usual = SETTINGS.iter().copied();
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let lines = usual
            .chain(own)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        std::iter::once("\n# Throw-away server\n".to_owned()).chain(lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_settings_come_last_and_are_quoted() {
        let mut options = Options::from_env();
        options.settings = vec![
            ("fsync".to_owned(), "on".to_owned()),
            ("search_path".to_owned(), "'a', b".to_owned()),
        ];
        let conf = options.conf();
        let (usual, own) =
            (conf.find("fsync = 'off'\n").unwrap(), conf.find("fsync = 'on'\n").unwrap());
        assert!(usual < own, "the last line wins: {conf}");
        assert!(conf.ends_with("search_path = '''a'', b'\n"), "{conf}");
    }
}
