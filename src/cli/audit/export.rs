//! `pgsteward audit export`

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use super::filter::Asked;
use super::output::{Output, Taken};
use super::{unread, warn};
use crate::cli::{Exit, Selection, Session, bounded, say};
use crate::db::{Conn, Database, Error, Purpose};
use crate::store::audit_query::{
    self, AuditEvent, Cursor, EventOrder, Filter, PageQuery, TimestampText, csv,
};

/// About so many bytes are read and written at once.
const PAGE_BYTES: usize = 1024 * 1024;
/// A page ends here whatever was asked for: events differ in size.
const PAGE_BYTES_MAX: usize = 4 * PAGE_BYTES;
/// Events in the first page, whose size nobody knows, and in any.
const FIRST_LIMIT: i64 = 500;
const LIMIT_MIN: i64 = 50;
const LIMIT_MAX: i64 = 10_000;
/// A page without an index reads until it is full.
const PAGE_BOUND: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    asked: Asked,
    /// An object on each line, or comma-separated values
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Into this file, which gets its name when it is whole [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "output")]
    force: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Ndjson,
    Csv,
}

impl Format {
    fn begin(self, out: &mut Vec<u8>) {
        if self == Format::Csv {
            csv::header(out);
        }
    }

    fn event(self, out: &mut Vec<u8>, event: &AuditEvent<'_>) {
        match self {
            Format::Csv => csv::event(out, event),
            Format::Ndjson => {
                // Into memory, of texts and JSON: it cannot fail.
                if serde_json::to_writer(&mut *out, event).is_ok() {
                    out.push(b'\n');
                }
            }
        }
    }
}

/// A page, as it is written.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    count: i64,
    first_at: Option<DateTime<Utc>>,
    last: Option<Cursor>,
    /// Whether it ended for its size.
    full: bool,
}

impl Written {
    fn take(&mut self, event: &AuditEvent<'_>, format: Format) {
        self.full = self.full || self.bytes.len() >= PAGE_BYTES_MAX;
        if self.full {
            return;
        }
        format.event(&mut self.bytes, event);
        self.count += 1;
        self.first_at.get_or_insert(event.created_at);
        self.last = Some(event.cursor());
    }

    /// How many events make the next page.
    fn next_limit(&self) -> i64 {
        let one = self.bytes.len() as i64 / self.count.max(1);
        (PAGE_BYTES as i64 / one.max(1)).clamp(LIMIT_MIN, LIMIT_MAX)
    }
}

/// What was exported so far.
#[derive(Default)]
struct Progress {
    count: i64,
    first_at: Option<DateTime<Utc>>,
    last: Option<Cursor>,
}

/// Why it ended early.
enum Stop {
    Closed,
    Failed(Exit),
}

impl Export {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let filter = self.filter(db).await?;
        let mut output = match &self.output {
            None => Output::stdout(),
            Some(path) => Output::file(path, self.force).map_err(usage)?,
        };
        let mut progress = Progress::default();
        let ended = self.copy(db, &filter, &mut output, &mut progress).await;
        let ended = match ended {
            Ok(()) => match output.finish() {
                Ok(Taken::Yes) => Ok(()),
                Ok(Taken::Closed) => Err(Stop::Closed),
                Err(error) => Err(Stop::Failed(unwritten(&error))),
            },
            Err(stop) => {
                output.abandon();
                Err(stop)
            }
        };
        match ended {
            Ok(()) => say(&progress.told()),
            Err(Stop::Closed) => {}
            Err(Stop::Failed(exit)) => return Err(exit),
        }
        Ok(Exit::Ok)
    }

    /// What is exported: nothing that comes after the beginning, so that there is an end.
    async fn filter(&self, db: &Database) -> Result<Filter, Exit> {
        let bound = db.query_timeout();
        let found = bounded("look at the trail", bound * 3, async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            let reader = audit_query::reader(conn, bound).await?;
            warn(&reader);
            let mut filter = match self.asked.filter(reader.now, Some(reader.now)) {
                Ok(filter) => filter,
                Err(wrong) => return Ok(Err(wrong)),
            };
            filter.resolve_prefix(conn, bound).await?;
            Ok(Ok(filter))
        });
        found.await.map_err(|error| unread(db.name(), &error))?.map_err(usage)
    }

    async fn copy(
        &self,
        db: &Database,
        filter: &Filter,
        to: &mut Output,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let mut head = Vec::new();
        self.format.begin(&mut head);
        put(to, &head)?;
        let mut limit = FIRST_LIMIT;
        loop {
            let page =
                PageQuery { filter, order: EventOrder::OldestFirst, behind: progress.last, limit };
            let written = match self.read(db, &page).await {
                Ok(written) => written,
                Err(error) => return Err(Stop::Failed(unread(db.name(), &error))),
            };
            put(to, &written.bytes)?;
            progress.count += written.count;
            progress.first_at = progress.first_at.or(written.first_at);
            progress.last = written.last.or(progress.last);
            if !written.full && written.count < limit {
                return Ok(());
            }
            limit = written.next_limit();
        }
    }

    /// A connection for each page: while the other end takes its time none is held, and one that was ended
    /// meanwhile is replaced.
    async fn read(&self, db: &Database, page: &PageQuery<'_>) -> Result<Written, Error> {
        bounded("read events", PAGE_BOUND + db.query_timeout(), async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            page.fold(conn, PAGE_BOUND, |written: &mut Written, event| {
                written.take(event, self.format);
            })
            .await
        })
        .await
    }
}

impl Progress {
    fn told(&self) -> String {
        match (self.count, self.first_at, self.last) {
            (1, Some(at), _) => format!("1 event exported, of {}", TimestampText::of(at)),
            (count, Some(from), Some(last)) => {
                format!(
                    "{count} events exported, from {} to {}",
                    TimestampText::of(from),
                    TimestampText::of(last.created_at)
                )
            }
            _ => "no event exported: there is none".to_owned(),
        }
    }
}

fn put(to: &mut Output, bytes: &[u8]) -> Result<(), Stop> {
    match to.write(bytes) {
        Ok(Taken::Yes) => Ok(()),
        Ok(Taken::Closed) => Err(Stop::Closed),
        Err(error) => Err(Stop::Failed(unwritten(&error))),
    }
}

fn unwritten(error: &std::io::Error) -> Exit {
    say(&format!("write the export: {error}"));
    Exit::Unavailable
}

fn usage(wrong: String) -> Exit {
    say(&wrong);
    Exit::Usage
}
