//! `pgsteward audit export`: all that is wanted, page by page, in constant memory.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};

use super::filter::Chosen;
use crate::audit::written;
use crate::cli::job::failed;
use crate::cli::{Exit, Selection, Session, say};
use crate::db::{Conn, Database, Error, Purpose, TxOptions};
use crate::store::events::{self, Cursor, Filter, Walk};
use crate::store::trail::TrailRow;

/// Events in one transaction: short enough to hold no snapshot for long.
const PAGE: i64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Ndjson,
    /// RFC 4180, with a head line
    Csv,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    chosen: Chosen,
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Into this file, which is there when it is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long, requires = "output")]
    force: bool,
    #[command(flatten)]
    selection: Selection,
}

impl Export {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let mut sink = match &self.output {
            None => Sink::new(io::stdout(), self.format),
            Some(path) => Sink::new(self.begin(path)?, self.format),
        };
        let outcome = walk(&opened.db, self.chosen.filter(), &mut sink).await;
        let exported = sink.count;
        match (outcome, sink.end()) {
            // Who reads no further wants no more.
            (_, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            (_, Err(error)) => return Err(self.cannot_write(&error)),
            (Err(error), Ok(())) => return Err(failed(opened.db.name(), &error)),
            (Ok(()), Ok(())) => {}
        }
        if let Some(path) = &self.output {
            std::fs::rename(partial(path), path).map_err(|error| self.cannot_write(&error))?;
        }
        say(&format!("{exported} events of database {} exported", opened.db.name()));
        Ok(Exit::Ok)
    }

    fn begin(&self, path: &Path) -> Result<File, Exit> {
        if path.exists() && !self.force {
            say(&format!("--output {}: it exists; --force replaces it", path.display()));
            return Err(Exit::Usage);
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(partial(path))
            .map_err(|error| self.cannot_write(&error))
    }

    fn cannot_write(&self, error: &io::Error) -> Exit {
        let to = self.output.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        say(&format!("write to {to}: {error}"));
        Exit::Unavailable
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Page after page, each where the last one ended, up to the clock of the beginning.
async fn walk(db: &Database, mut filter: Filter, sink: &mut Sink) -> Result<(), Error> {
    let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
    let options = &TxOptions::within(db.query_timeout()).read_only();
    if filter.until.is_none() {
        filter.until = Some(conn.transaction(options, |tx| Box::pin(events::now(tx))).await?);
    }
    loop {
        let (before, after) = (sink.count, sink.last);
        page(conn, options, &filter, after, sink).await?;
        if sink.count - before < PAGE as u64 || sink.failed.is_some() {
            return Ok(());
        }
    }
}

async fn page(
    conn: &mut Conn,
    options: &TxOptions,
    filter: &Filter,
    after: Option<Cursor>,
    sink: &mut Sink,
) -> Result<(), Error> {
    let sink = &Mutex::new(sink);
    conn.transaction(options, |tx| {
        Box::pin(async move {
            let walk = Walk::OldestFirst { after };
            events::page(tx, filter, walk, PAGE, |row| {
                sink.lock().unwrap_or_else(PoisonError::into_inner).take(&row);
                Ok(())
            })
            .await
        })
    })
    .await
}

/// Where events go, and how far they have come.
struct Sink {
    out: BufWriter<Box<dyn Write + Send>>,
    format: Format,
    line: Vec<u8>,
    count: u64,
    last: Option<Cursor>,
    /// Why nothing more is written.
    failed: Option<io::Error>,
}

impl Sink {
    fn new(out: impl Write + Send + 'static, format: Format) -> Sink {
        let out = BufWriter::with_capacity(64 * 1024, Box::new(out) as Box<dyn Write + Send>);
        let mut sink = Sink { out, format, line: Vec::new(), count: 0, last: None, failed: None };
        if format == Format::Csv {
            sink.line.extend(written::csv_head().as_bytes());
            sink.write();
        }
        sink
    }

    fn take(&mut self, row: &TrailRow) {
        // A conflict would have the page read again; each event goes out once.
        let place = Cursor { created_at: row.created_at(), id: row.id() };
        if self.failed.is_some() || self.last.is_some_and(|last| place <= last) {
            return;
        }
        match self.format {
            Format::Ndjson => {
                written::json(row, &mut self.line);
                self.line.push(b'\n');
            }
            Format::Csv => written::csv(row, &mut self.line),
        }
        self.write();
        self.count += 1;
        self.last = Some(place);
    }

    fn write(&mut self) {
        if let Err(error) = self.out.write_all(&self.line) {
            self.failed = Some(error);
        }
        self.line.clear();
    }

    fn end(mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
