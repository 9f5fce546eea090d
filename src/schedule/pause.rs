//! The kill switch of a database: a flag in it, and a local file that works with it down.

use std::path::PathBuf;

use crate::config::Config;
use crate::telemetry::Metrics;

/// By whom all jobs are paused.
#[derive(Debug, Default)]
pub struct Pause {
    /// In the database, as last read.
    flag: Option<String>,
    /// By the local file.
    here: bool,
    /// In the database or by the local file.
    by: Option<String>,
}

impl Pause {
    /// What the database said.
    pub fn set_flag(&mut self, flag: Option<String>) {
        self.flag = flag;
    }

    /// By whom, where they are.
    pub fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Whether the local file is there.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// Takes flag and file together, and says so where that changed anything.
    pub fn settle(&mut self, config: &Config, database: &str, metrics: &Metrics) {
        let file = file(config).filter(|file| file.exists());
        self.here = file.is_some();
        let by = self.flag.clone().or_else(|| file.map(|file| format!("the file {}", file.display())));
        if by != self.by {
            match &by {
                Some(by) => tracing::warn!(database, by, "all jobs are paused"),
                None => tracing::info!(database, "all jobs are resumed"),
            }
            self.by = by;
        }
        metrics.paused.with_label_values(&[database]).set(i64::from(self.by.is_some()));
    }
}

/// `PAUSE` in the state folder: pauses this instance, also with the database down.
fn file(config: &Config) -> Option<PathBuf> {
    config.state_dir.as_ref().map(|dir| dir.join("PAUSE"))
}
