//! The kill switch of a database: a flag in it, and a local file that works with it down.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Config;
use crate::store::pauses;
use crate::telemetry::Metrics;

/// By whom all jobs are paused, and what is known of it beside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    pub by: String,
    /// Absent where a file does it.
    pub at: Option<DateTime<Utc>>,
    pub reason: Option<String>,
}

impl From<pauses::Pause> for Paused {
    fn from(pauses::Pause { by, at, reason }: pauses::Pause) -> Paused {
        Paused { by, at: Some(at), reason }
    }
}

/// Whether all jobs are paused.
#[derive(Debug, Default)]
pub struct Pause {
    /// In the database, as last read.
    flag: Option<Paused>,
    /// By the local file.
    here: bool,
    /// In the database or by the local file.
    paused: Option<Paused>,
}

impl Pause {
    /// What the database said.
    pub fn set_flag(&mut self, flag: Option<Paused>) {
        self.flag = flag;
    }

    /// By whom, where they are.
    pub fn by(&self) -> Option<&str> {
        self.paused.as_ref().map(|paused| paused.by.as_str())
    }

    /// The same in full.
    pub fn paused(&self) -> Option<&Paused> {
        self.paused.as_ref()
    }

    /// Whether the local file is there.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// Takes flag and file together, and says so where that changed anything.
    pub fn settle(&mut self, config: &Config, database: &str, metrics: &Metrics) {
        let file = file(config).filter(|file| file.exists());
        self.here = file.is_some();
        let by_file = |file: PathBuf| Paused {
            by: format!("the file {}", file.display()),
            at: None,
            reason: None,
        };
        let paused = self.flag.clone().or_else(|| file.map(by_file));
        if paused != self.paused {
            match &paused {
                Some(Paused { by, reason, .. }) => {
                    tracing::warn!(database, by, reason, "all jobs are paused");
                }
                None => tracing::info!(database, "all jobs are resumed"),
            }
            self.paused = paused;
        }
        metrics.paused.with_label_values(&[database]).set(i64::from(self.paused.is_some()));
    }
}

/// `PAUSE` in the state folder: pauses this instance, also with the database down.
fn file(config: &Config) -> Option<PathBuf> {
    config.state_dir.as_ref().map(|dir| dir.join("PAUSE"))
}
