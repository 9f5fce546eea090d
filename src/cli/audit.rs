//! `pgsteward audit …`: the trail read, verified and proven from the command line.

mod export;
mod filter;
mod hold;
mod list;
mod prove;
mod verify;

use clap::Subcommand;

use super::{Exit, Session};

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List events, the newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(list::List),
    /// Write events out, the oldest first
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(export::Export),
    /// Hold the trail against its seals
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(verify::Verify),
    /// Prove that an event was sealed as it is
    #[command(after_help = PROVE_EXAMPLES)]
    Prove(prove::Prove),
    /// Keep events from being purged: place, release and list legal holds
    #[command(subcommand)]
    Hold(hold::Hold),
}

const LIST_EXAMPLES: &str = "\
Examples:
  pgsteward audit list --user user-123 --since 7d
  pgsteward audit list --resource public.users/42
  pgsteward audit list --action 'user.*' --ip 192.0.2.0/24 --json";

const EXPORT_EXAMPLES: &str = "\
What is written while it runs is left out: it ends at the clock of its beginning, or at --until.

Examples:
  pgsteward audit export --since 2026-11-01 --until 2026-12-01 --output november.ndjson
  pgsteward audit export --format csv --user user-123 > events.csv";

const VERIFY_EXAMPLES: &str = "\
Exit codes: 0 everything is as it was sealed; 5 it is not, and what was altered, is missing or was added is
named. Without --against nobody can say whether rows and seals were rewritten together.

Examples:
  pgsteward audit verify
  pgsteward audit verify --against 57:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  pgsteward audit verify --against /var/lib/pgsteward/audit-heads-main.jsonl";

const PROVE_EXAMPLES: &str = "\
Prints a proof as JSON. Who has it and a head that it leads to needs neither pgsteward nor the database:
scripts/check-proof.py PROOF HEAD. Exit code 75 while the event is not sealed yet, 5 where it is not as it
was sealed.

Examples:
  pgsteward audit prove 01a21a97-05e3-7685-9433-1c2e3e46558e > proof.json
  pgsteward audit prove 01a21a97-05e3-7685-9433-1c2e3e46558e --to 57 > proof.json";

impl Audit {
    pub async fn execute(self, session: Session) -> Exit {
        let outcome = match self {
            Audit::List(list) => list.execute(&session).await,
            Audit::Export(export) => export.execute(&session).await,
            Audit::Verify(verify) => verify.execute(&session).await,
            Audit::Prove(prove) => prove.execute(&session).await,
            Audit::Hold(hold) => hold.execute(&session).await,
        };
        outcome.unwrap_or_else(|exit| exit)
    }
}
