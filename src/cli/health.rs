//! `pgsteward health`

use std::time::Duration;

use clap::Args;

use super::{Exit, Selection, Session, print, print_json};
use crate::health::{Board, Inputs, Report};
use crate::jobs::probe::{self, Probe, ProbeState};
use crate::telemetry::Metrics;

/// For the whole measurement; a monitoring plugin gives itself about as much.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    selection: Selection,
}

impl Health {
    /// Measures once over a connection of its own; asks no daemon and writes nothing.
    pub async fn execute(self, session: Session) -> Exit {
        let opened = match session.open(&self.selection) {
            Ok(opened) => opened,
            Err(exit) => return exit,
        };
        let Ok(metrics) = Metrics::new() else { return Exit::Internal };
        let limits = &session.config().health;
        let board = Board::new(opened.db.name(), limits.stale_after);
        let probe = Probe {
            db: &opened.db,
            board: &board,
            metrics: &metrics,
            limits,
            instance: "cli",
            watched: &[],
            writable: false,
            bound: BOUND,
        };
        let outcome = probe::run(&probe, &mut ProbeState::new(limits), &Inputs::default()).await;
        if session.json {
            print_json(outcome.report.as_ref());
        } else {
            print(&text(&outcome.report));
        }
        Exit::Health(outcome.report.status)
    }
}

fn text(report: &Report) -> String {
    let response = report.response_ms.map_or_else(String::new, |ms| format!(", answered in {ms:.1} ms"));
    let head = format!("database {}: {}{response}", report.target, report.status.as_str());
    let components = report
        .components
        .iter()
        .map(|component| format!("  {:<13} {:<9}  {}", component.name, component.status.as_str(), component.message));
    std::iter::once(head).chain(components).collect::<Vec<_>>().join("\n")
}
