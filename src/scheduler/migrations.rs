//! How one database's migrations stand, for whoever shows it, and the attempt that somebody asked for.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use crate::sets::Manifest;

/// The current standing; changes can be waited for.
#[derive(Debug)]
pub struct Migrations(watch::Sender<MigrationStatus>);

/// Where the migrations are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// To be looked at; where that failed for a passing reason, again in a while.
    #[default]
    Waiting,
    Migrating,
    Failed,
    Ready,
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MigrationStatus {
    pub state: Stage,
    /// Which file failed, and why.
    pub failed: Option<String>,
    /// Edited files and missing objects.
    pub mismatches: Vec<String>,
    /// The bundled sets that are applied.
    #[serde(skip)]
    pub sets: Vec<&'static Manifest>,
    /// The last attempts that somebody asked for, oldest first.
    #[serde(skip)]
    pub asked: Vec<Attempt>,
}

/// So many of them are remembered.
const ASKED_MAX: usize = 16;

/// An attempt that somebody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub id: Uuid,
    pub actor: String,
    pub asked_at: DateTime<Utc>,
    /// Whether it is under way: files that were there when it was asked for are in its plan.
    pub begun: bool,
    pub outcome: Option<Outcome>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub finished_at: DateTime<Utc>,
    /// What was applied, `set/version_name`; of a failed attempt, see the history.
    pub applied: Vec<String>,
    /// Why not all was, in words that may be told: they name files and lines, not what is in them.
    pub error: Option<String>,
}

impl MigrationStatus {
    /// Begins what was asked for since; by whom, where anybody has.
    pub(super) fn begin(&mut self) -> Option<String> {
        let waiting = self.asked.iter_mut().filter(|attempt| attempt.outcome.is_none());
        let mut by = None;
        for attempt in waiting {
            attempt.begun = true;
            by.get_or_insert_with(|| attempt.actor.clone());
        }
        by
    }

    /// Ends the attempts under way.
    pub(super) fn end(&mut self, applied: &[String], error: Option<String>) {
        for attempt in
            self.asked.iter_mut().filter(|attempt| attempt.begun && attempt.outcome.is_none())
        {
            let error = error.clone();
            attempt.outcome =
                Some(Outcome { finished_at: Utc::now(), applied: applied.to_vec(), error });
        }
    }
}

impl Default for Migrations {
    fn default() -> Migrations {
        Migrations(watch::Sender::new(MigrationStatus::default()))
    }
}

impl Migrations {
    /// What is known.
    pub fn read(&self) -> MigrationStatus {
        self.0.borrow().clone()
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<MigrationStatus> {
        self.0.subscribe()
    }

    /// Notes what somebody asks for; the pipeline is told of it beside this.
    pub fn ask(&self, id: Uuid, actor: &str) {
        let attempt = Attempt {
            id,
            actor: actor.to_owned(),
            asked_at: Utc::now(),
            begun: false,
            outcome: None,
        };
        self.update(|standing| {
            standing.asked.push(attempt);
            if standing.asked.len() > ASKED_MAX {
                standing.asked.remove(0);
            }
        });
    }

    /// Changes what is known, and tells who follows.
    pub(super) fn update(&self, change: impl FnOnce(&mut MigrationStatus)) {
        self.0.send_modify(change);
    }
}
