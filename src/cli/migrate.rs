//! `pgsteward migrate up | status | down`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Opened, Selection, Session, actor, print, print_json, say};
use crate::db::Purpose;
use crate::migrate::{self, Options, Target, plan::Line, source, source::Set, undo::Undo};
use crate::sets::STEWARD;

#[derive(Debug, Subcommand)]
pub enum Migrate {
    /// Apply what is pending
    #[command(after_help = UP_EXAMPLES)]
    Up(Up),
    /// List every version and where it stands; changes nothing
    #[command(after_help = STATUS_EXAMPLES)]
    Status(Status),
    /// Roll back: the newest version, or more
    #[command(after_help = DOWN_EXAMPLES)]
    Down(Down),
}

#[derive(Debug, Args)]
struct Files {
    /// This folder of SQL files as the application's set, and nothing else
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Args)]
pub struct Down {
    /// The set to roll back [default: the only application set]
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Roll back everything above this version; 0 for everything
    #[arg(long, value_name = "VERSION", conflicts_with = "all")]
    to: Option<i64>,
    /// Roll back every version of the set
    #[arg(long)]
    all: bool,
    /// Go on although data goes with it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    files: Files,
}

const UP_EXAMPLES: &str = "\
Files are named 001_create_users.sql, with 001_create_users.down.sql beside it to undo it. Each runs \
once, in a transaction of its own; several migrators may be started at once.

Examples:
  pgsteward migrate up                          what the configuration names
  DATABASE_URL=postgres://… pgsteward migrate up --dir ./migrations";

const STATUS_EXAMPLES: &str = "\
States: applied; reformatted (comments or white space differ); edited (its SQL differs from what was \
applied); no_file (applied, but not among the files); pending; out_of_order (below the newest applied).

Examples:
  pgsteward migrate status
  pgsteward migrate status --json | jq -r '.[] | [.state, .name] | @tsv'";

const DOWN_EXAMPLES: &str = "\
Examples:
  pgsteward migrate down                        the newest version of the only application set
  pgsteward migrate down --set zentry --to 1    everything above version 1
  pgsteward migrate down --set app --all --yes  everything, data included";

impl Migrate {
    /// `--dir`, which is part of the configuration.
    pub fn dir(&self) -> Option<&PathBuf> {
        match self {
            Migrate::Up(up) => up.files.dir.as_ref(),
            Migrate::Status(status) => status.files.dir.as_ref(),
            Migrate::Down(down) => down.files.dir.as_ref(),
        }
    }

    pub async fn execute(self, session: Session) -> Exit {
        let outcome = match &self {
            Migrate::Up(up) => up.execute(&session).await,
            Migrate::Status(status) => status.execute(&session).await,
            Migrate::Down(down) => down.execute(&session).await,
        };
        outcome.unwrap_or_else(|exit| exit)
    }
}

impl Files {
    fn open(&self, session: &Session) -> Result<(Opened, Vec<Set>), Exit> {
        let sets = match &self.dir {
            Some(dir) => source::read_dir(source::APP, dir)
                .map(|set| vec![set])
                .map_err(migrate::Error::from),
            None => migrate::configured_sets(session.config()),
        };
        let sets = sets.map_err(|error| failed(&error))?;
        Ok((session.open(&self.selection)?, sets))
    }
}

impl Up {
    async fn execute(&self, session: &Session) -> Result<Exit, Exit> {
        let (opened, sets) = self.files.open(session)?;
        let options = Options::new(&session.config().migrations, actor());
        let outcome =
            migrate::up(&opened.db, &sets, &options).await.map_err(|error| failed(&error))?;
        if session.json {
            print_json(
                &serde_json::json!({ "applied": outcome.changed, "migrations": outcome.lines }),
            );
        } else {
            for line in &outcome.changed {
                print(&format!(
                    "applied {} in {} ms",
                    line.label(),
                    line.duration_ms.unwrap_or_default()
                ));
            }
            let known = outcome.lines.len();
            print(&format!(
                "{} applied now, {known} in all, {} ms",
                outcome.changed.len(),
                outcome.took.as_millis()
            ));
        }
        let edited = outcome.edited();
        if edited.is_empty() {
            return Ok(Exit::Ok);
        }
        // The daemon serves next to an edited file. Who asks for it to be applied is told that it was not.
        say(&format!(
            "{} changed after being applied, and did not run again; restore the file, or write the change as a new \
             migration",
            edited.join(", ")
        ));
        Err(Exit::Migration)
    }
}

impl Status {
    async fn execute(&self, session: &Session) -> Result<Exit, Exit> {
        let (opened, sets) = self.files.open(session)?;
        migrate::require_trusted(&opened.db).await.map_err(|error| failed(&error))?;
        let lines = migrate::status(&opened.db, Purpose::Migrate, &sets)
            .await
            .map_err(|error| failed(&error))?;
        if session.json {
            print_json(&lines);
        } else {
            print(&table(&lines));
        }
        Ok(Exit::Ok)
    }
}

impl Down {
    async fn execute(&self, session: &Session) -> Result<Exit, Exit> {
        let (opened, sets) = self.files.open(session)?;
        let set = self.set(&sets)?;
        let target = match (self.to, self.all) {
            (Some(version), _) => Target::To(version),
            (None, true) => Target::All,
            (None, false) => Target::One,
        };
        let planned = migrate::plan_down(&opened.db, &sets, &set, target)
            .await
            .map_err(|error| failed(&error))?;
        if planned.is_empty() && sets.iter().all(|known| known.name != set) {
            say(&format!(
                "found no migration of a set {set:?}, neither applied nor among the files"
            ));
            return Err(Exit::Usage);
        }
        let lossy: Vec<String> = planned
            .iter()
            .filter(|undo| crate::sql::loses_data(&undo.sql))
            .map(Undo::label)
            .collect();
        if !lossy.is_empty() && !self.yes {
            say(&format!(
                "rolling back {} removes data; nothing was done; add --yes to go on",
                lossy.join(", ")
            ));
            return Err(Exit::Usage);
        }
        let options = Options::new(&session.config().migrations, actor());
        let outcome = migrate::down(&opened.db, &sets, &set, target, &options)
            .await
            .map_err(|error| failed(&error))?;
        if session.json {
            print_json(&serde_json::json!({ "rolled_back": outcome.changed }));
        } else {
            for line in &outcome.changed {
                print(&format!("rolled back {}", line.label()));
            }
            print(&format!(
                "{} rolled back, {} ms",
                outcome.changed.len(),
                outcome.took.as_millis()
            ));
        }
        Ok(Exit::Ok)
    }

    /// pgsteward's own set is rolled back only by its name.
    fn set(&self, sets: &[Set]) -> Result<String, Exit> {
        if let Some(name) = &self.set {
            return Ok(name.clone());
        }
        let names: Vec<&str> =
            sets.iter().map(|set| set.name.as_str()).filter(|name| *name != STEWARD.name).collect();
        match names.as_slice() {
            [name] => Ok((*name).to_owned()),
            _ => {
                let found = if names.is_empty() {
                    "no application set".to_owned()
                } else {
                    names.join(", ")
                };
                say(&format!("found {found}, wanted one set to roll back: name it with --set"));
                Err(Exit::Usage)
            }
        }
    }
}

fn failed(error: &migrate::Error) -> Exit {
    say(&error.to_string());
    Exit::from(error)
}

fn table(lines: &[Line]) -> String {
    let rows: Vec<[String; 4]> = lines
        .iter()
        .map(|line| {
            let applied = line
                .applied_at
                .map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string());
            [
                line.label(),
                line.state.as_str().to_owned(),
                applied,
                line.applied_by.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = ["migration", "state", "applied at", "by"].map(str::to_owned);
    let widths: Vec<usize> = (0..4)
        .map(|column| {
            std::iter::once(&head)
                .chain(&rows)
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    std::iter::once(&head)
        .chain(&rows)
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}
