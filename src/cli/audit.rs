//! `pgsteward audit …`: the trail read, verified and proven from the command line.

mod export;
mod filter;
mod hold;
mod list;
mod output;
mod prove;
mod shown;
mod verify;

use clap::Subcommand;

use super::job::told;
use super::{Exit, Session, say};
use crate::db::{Error, Kind};
use crate::store::audit_query::Reader;

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List events, newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(list::List),
    /// Write all events that are asked for, oldest first, as NDJSON or CSV
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
TIME is an instant (2026-11-27T09:30:00Z), a date (2026-11-27, midnight UTC) or an age (90s, 15m, \
2h, 30d, 4w). By user, resource, action and time events are found by an index; by anything else, \
bound the time as well.

Examples:
  pgsteward audit list --user user-123 --since 7d
  pgsteward audit list --resource public.vms/42 --action 'vm.*'
  pgsteward audit list --source trigger --json | jq -r '.[].action'";

const EXPORT_EXAMPLES: &str = "\
NDJSON has one object with all columns on each line. CSV is that of RFC 4180 with a header: nothing \
between two commas is null, \"\" is an empty text. Without --until the export ends with what is \
there when it begins. An event shows when its transaction has committed: where one export goes on \
from another, let --until lie further back than the longest transaction.

Examples:
  pgsteward audit export --since 2026-10-01 --until 2026-11-01 --output october.ndjson
  pgsteward audit export --user user-123 --format csv > user-123.csv
  pgsteward audit export --action 'billing.*' | gzip > billing.ndjson.gz";

const VERIFY_EXAMPLES: &str = "\
Exit codes: 0 everything is as it was sealed; 5 it is not, and what was altered, is missing or was added is \
named. Without --against nobody can say whether rows and seals were rewritten together.

Examples:
  pgsteward audit verify
  pgsteward audit verify --against NUMBER:HASH
  pgsteward audit verify --against /var/lib/pgsteward/audit-heads-main.jsonl";

const PROVE_EXAMPLES: &str = "\
Prints a proof as JSON. Who has it and a head that it leads to needs neither pgsteward nor the database: \
scripts/check-proof.py PROOF HEAD, where --to has the number of that head. Exit code 75 while the event is \
not sealed yet, 5 where it is not as it was sealed.

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

/// Tells that events could not be read.
fn unread(database: &str, error: &Error) -> Exit {
    let narrow =
        if error.kind() == Kind::Timeout { "; narrow it with --since and --until" } else { "" };
    say(&format!("database {database}: {}{narrow}", told(error)));
    Exit::Unavailable
}

/// Says that there may be more than is seen.
fn warn(reader: &Reader) {
    if reader.restricted {
        say(
            "row security is on for this role: events that no policy of its own shows are not here",
        );
    }
}
