//! `pgsteward audit verify`

use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

use crate::audit::verify::{AuditFinding, SealedRow, Verification, VerifyOptions, verify};
use crate::audit::{Head, publish};
use crate::cli::job::failed;
use crate::cli::{Exit, Selection, Session, print, print_json, say};
use crate::db::Purpose;

/// A file of heads is two of these at most; more is something else.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub struct Verify {
    /// A head kept outside the database: NUMBER:HASH, or a file of such lines or of the daemon's own
    #[arg(long, value_name = "HEAD|FILE")]
    against: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

impl Verify {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let mut against = Vec::new();
        for text in &self.against {
            against.extend(heads(text).map_err(|why| {
                say(&format!("--against {text}: {why}"));
                Exit::Usage
            })?);
        }
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let question = VerifyOptions { against, min_keep: session.config().retention.min_keep };
        let found = async {
            let conn = &mut *db.acquire(Purpose::Check).await?;
            verify(conn, &question).await
        };
        let found = found.await.map_err(|error| failed(db.name(), &error))?;
        if session.json {
            print_json(&found);
        } else {
            print(&text(db.name(), &found, question.against.is_empty()));
        }
        Ok(if found.is_sound() { Exit::Ok } else { Exit::Audit })
    }
}

/// One head, or those of a file.
fn heads(text: &str) -> Result<Vec<Head>, String> {
    let wrong = match text.parse::<Head>() {
        Ok(head) => return Ok(vec![head]),
        Err(wrong) => wrong,
    };
    let path = Path::new(text);
    let size = match path.metadata() {
        Ok(file) => file.len(),
        Err(error) => return Err(format!("{wrong}, or a file ({error})")),
    };
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "found a file of {size} bytes, wanted one of heads, at most {FILE_BYTES_MAX}"
        ));
    }
    let lines = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut heads: Vec<Head> = publish::parse(&lines).filter_map(|line| line.head()).collect();
    heads.extend(lines.lines().filter_map(|line| line.parse::<Head>().ok()));
    match heads.is_empty() {
        true => Err(
            "found no head in the file, wanted lines NUMBER:HASH or those that the daemon writes"
                .to_owned(),
        ),
        false => Ok(heads),
    }
}

fn text(database: &str, found: &Verification, alone: bool) -> String {
    let mut lines = vec![match found.is_sound() {
        true => format!("database {database}: the audit trail is as it was sealed"),
        false => format!("database {database}: the audit trail is NOT as it was sealed"),
    }];
    let newest = found
        .head
        .as_ref()
        .map_or_else(|| "none".to_owned(), |head| format!("the newest is {head}"));
    lines.push(format!("  seals         {}; {newest}", found.entries));
    let purged = match found.purged {
        0 => String::new(),
        purged => format!("; {purged} more are gone with purges that the seals tell of"),
    };
    lines.push(format!("  rows          {} as they were sealed{purged}", found.rows));
    if found.unsealed > 0 {
        let since = found
            .unsealed_since
            .map(|at| format!(", the oldest of {}", instant(at)))
            .unwrap_or_default();
        lines.push(format!(
            "  not sealed    {} rows{since}: nothing is known of these",
            found.unsealed
        ));
    }
    if found.restored {
        lines.push(
            "  restored      from another server, and nothing was sealed here yet".to_owned(),
        );
    }
    for epoch in found.epochs.iter().skip(1) {
        lines.push(format!(
            "  epoch         {} from seal {}: a failover, or a restore",
            epoch.epoch, epoch.from_entry
        ));
    }
    lines.push(match (alone, found.heads_matched) {
        (true, _) => {
            "  from outside  no head was given (--against): whoever may do everything in this database could have \
                      rewritten rows and seals together, and that would not show"
                .to_owned()
        }
        (false, matched) => format!("  from outside  {matched} heads are in the chain"),
    });
    lines.extend(found.findings.iter().map(|finding| format!("- {}", told(finding))));
    let more = found.findings_total - found.findings.len() as u64;
    if more > 0 {
        lines.push(format!("- and {more} more"));
    }
    lines.join("\n")
}

fn told(finding: &AuditFinding) -> String {
    match finding {
        AuditFinding::EntryAltered { entry } => {
            format!("seal {entry} was altered: it does not say what its head says")
        }
        AuditFinding::EntriesMissing { from, to } if from == to => {
            format!("seal {from} is missing")
        }
        AuditFinding::EntriesMissing { from, to } => format!("seals {from} to {to} are missing"),
        AuditFinding::ChainBroken { entry } => {
            format!("seal {entry} does not follow the one before it")
        }
        AuditFinding::LeavesAltered { entry, rows_as_sealed: true } => {
            format!("the leaves of seal {entry} were altered; its rows are as they were sealed")
        }
        AuditFinding::LeavesAltered { entry, rows_as_sealed: false } => {
            format!(
                "the leaves of seal {entry} were altered, and rows of it too: which ones cannot be said any more"
            )
        }
        AuditFinding::RowAltered(SealedRow { entry, id, created_at }) => {
            format!("event {id} of {} was altered after seal {entry}", instant(*created_at))
        }
        AuditFinding::RowMissing(SealedRow { entry, id, created_at }) => {
            format!("event {id} of {} is missing; seal {entry} had it", instant(*created_at))
        }
        AuditFinding::RowAdded(SealedRow { entry, id, created_at }) => {
            format!(
                "event {id} of {} was added later to what seal {entry} had sealed",
                instant(*created_at)
            )
        }
        AuditFinding::RowsFromTheFuture { rows } => {
            format!("{rows} events claim transactions that have not begun")
        }
        AuditFinding::PurgedTooEarly { entry, cutoff, sealed_at } => format!(
            "seal {entry} of {} allows events before {} to be gone, which is sooner than retention.min_keep",
            instant(*sealed_at),
            instant(*cutoff)
        ),
        AuditFinding::HeadDiffers { published, chain_has: Some(has) } => {
            format!(
                "head {published} was published, but the chain has {has}: it was rewritten, or put back and went on"
            )
        }
        AuditFinding::HeadDiffers { published, chain_has: None } => {
            format!(
                "head {published} was published, but the chain ends before: it was cut, or put back to an earlier state"
            )
        }
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}
