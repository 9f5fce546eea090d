//! Samples, limits, and the table that they end in.

use std::time::Duration;

/// What was measured, in the unit of its row.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// A figure that needs no repetition.
    pub fn one(value: f64) -> Sample {
        Sample(vec![value])
    }

    /// In milliseconds.
    pub fn millis(times: impl IntoIterator<Item = Duration>) -> Sample {
        Sample(times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The smallest value that at least this share of all values does not exceed.
    pub fn percentile(&self, share: f64) -> f64 {
        assert!(!self.0.is_empty(), "nothing was measured");
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    fn spread(&self) -> (f64, f64) {
        let fold =
            |pick: fn(f64, f64) -> f64| self.0.iter().copied().reduce(pick).unwrap_or_default();
        (fold(f64::min), fold(f64::max))
    }
}

/// What a figure is held to.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// Stands beside another row for comparison.
    Reference,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    figure: String,
    limit: Limit,
    unit: &'static str,
    value: f64,
    sample: Sample,
}

impl Row {
    /// Held to its median.
    pub fn new(figure: impl Into<String>, limit: Limit, unit: &'static str, sample: Sample) -> Row {
        Row { figure: figure.into(), limit, unit, value: sample.median(), sample }
    }

    /// Held to a percentile.
    pub fn percentile(
        figure: impl Into<String>,
        share: f64,
        limit: Limit,
        unit: &'static str,
        sample: &Sample,
    ) -> Row {
        Row {
            figure: figure.into(),
            limit,
            unit,
            value: sample.percentile(share),
            sample: sample.clone(),
        }
    }

    fn limit(&self) -> String {
        match self.limit {
            Limit::AtMost(limit) => join(&format!("≤ {limit}"), self.unit),
            Limit::AtLeast(limit) => join(&format!("≥ {limit}"), self.unit),
            Limit::Reference => String::new(),
        }
    }

    fn measured(&self) -> String {
        let value = join(&number(self.value), self.unit);
        match self.sample.len() {
            1 => value,
            runs => {
                let (least, most) = self.sample.spread();
                format!("{value}  ({}–{}, {runs}×)", number(least), number(most))
            }
        }
    }

    fn verdict(&self) -> &'static str {
        let met = match self.limit {
            Limit::AtMost(limit) => self.value <= limit,
            Limit::AtLeast(limit) => self.value >= limit,
            Limit::Reference => return "",
        };
        if met { "met" } else { "MISSED" }
    }
}

/// What one figure's measurement found.
#[derive(Debug, Default)]
pub struct Findings {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Findings {
    pub fn of(rows: impl IntoIterator<Item = Row>) -> Findings {
        Findings { rows: rows.into_iter().collect(), notes: Vec::new() }
    }

    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn append(&mut self, other: Findings) {
        self.rows.extend(other.rows);
        self.notes.extend(other.notes);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// All findings.
#[derive(Debug)]
pub struct Report {
    server: String,
    load_before: String,
    findings: Findings,
    missing: Vec<String>,
}

impl Report {
    pub fn new(server: String) -> Report {
        Report { server, load_before: load(), findings: Findings::default(), missing: Vec::new() }
    }

    pub fn add(&mut self, findings: Findings) {
        self.findings.append(findings);
    }

    pub fn not_taken(&mut self, name: &str, why: &str) {
        self.missing.push(format!("{name}: {why}"));
    }

    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    pub fn print(&self, took: Duration) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!();
        println!(
            "pgsteward {} on {}, {cores} cores, load {} before and {} after, {:.0} s",
            env!("CARGO_PKG_VERSION"),
            self.server,
            self.load_before,
            load(),
            took.as_secs_f64()
        );
        let mut lines = vec![["figure", "limit", "measured", "verdict"].map(str::to_owned)];
        lines.extend(
            self.findings
                .rows
                .iter()
                .map(|r| [r.figure.clone(), r.limit(), r.measured(), r.verdict().to_owned()]),
        );
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let widths = [width(0), width(1), width(2)];
        for [figure, limit, measured, verdict] in &lines {
            let line = format!(
                "{figure:<0$}  {limit:<1$}  {measured:<2$}  {verdict}",
                widths[0], widths[1], widths[2]
            );
            println!("{}", line.trim_end());
        }
        for note in &self.findings.notes {
            println!("- {note}");
        }
        for missing in &self.missing {
            println!("! could not be measured: {missing}");
        }
    }
}

/// Of the last minute. A busy machine makes every figure worse.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 || magnitude == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn join(number: &str, unit: &str) -> String {
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}
