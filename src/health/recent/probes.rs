//! Probes.

use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::store::audit_query::Cursor;
use crate::store::measurement_query::health::{Counts, HealthBucket, Latency};
use crate::store::measurement_query::{Filter, Page, TooManyBuckets, bucket_of, check_buckets};
use crate::store::measurements::HealthRow;

use super::{BYTES_MAX, in_range, page};

/// Longer messages are cut.
const MESSAGE_MAX: usize = 500;
/// Longer details are left out.
const DETAILS_MAX: usize = 1024;
/// Names of components and reasons, which are codes of ours. What there is no room for is told as [`OTHER`].
const NAMES_MAX: usize = u8::MAX as usize;
const OTHER: &str = "other";

/// Oldest first.
#[derive(Debug, Default)]
pub struct Probes {
    probes: VecDeque<Probe>,
    /// Of the probes; names are few and not counted.
    bytes: usize,
    names: Vec<Box<str>>,
}

#[derive(Debug)]
struct Probe {
    at: DateTime<Utc>,
    instance: Arc<str>,
    latency_ms: Option<f64>,
    components: Box<[State]>,
    /// What is told of it row by row.
    rows: Box<[Kept]>,
}

/// One component of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Places among the names.
    component: u8,
    reason: u8,
    /// And among [`STATUSES`].
    status: u8,
}

const STATUSES: [&str; 4] = ["healthy", "degraded", "unhealthy", "unknown"];

impl State {
    fn status(self) -> &'static str {
        STATUSES[usize::from(self.status)]
    }
}

#[derive(Debug)]
struct Kept {
    id: Uuid,
    /// Its place among the components.
    place: usize,
    message: Box<str>,
    /// JSON.
    details: Option<Box<str>>,
}

impl Probe {
    fn bytes(&self) -> usize {
        let texts = |kept: &Kept| {
            kept.message.len() + kept.details.as_ref().map_or(0, |details| details.len())
        };
        size_of::<Probe>()
            + self.components.len() * size_of::<State>()
            + self.rows.len() * size_of::<Kept>()
            + self.rows.iter().map(texts).sum::<usize>()
    }
}

impl Probes {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the rows of one probe, unless it is there already.
    pub fn take(&mut self, rows: &[&HealthRow]) {
        let Some(first) = rows.first() else { return };
        let place = self.probes.partition_point(|probe| probe.at <= first.created_at);
        let known = |probe: &&Probe| probe.at == first.created_at;
        if self
            .probes
            .range(..place)
            .rev()
            .take_while(known)
            .any(|probe| *probe.instance == *first.instance)
        {
            return;
        }
        let components: Box<[State]> = rows.iter().map(|row| self.state(row)).collect();
        let before =
            self.probes.range(..place).rev().find(|probe| *probe.instance == *first.instance);
        let kept = rows.iter().zip(&components).enumerate().filter_map(|(place, (row, state))| {
            let changed = before.is_none_or(|before| !before.components.contains(state));
            (changed || row.component == "connectivity").then(|| Kept::of(row, place))
        });
        let rows = kept.collect();
        let instance = before
            .map_or_else(|| first.instance.as_str().into(), |before| Arc::clone(&before.instance));
        let probe = Probe {
            at: first.created_at,
            instance,
            latency_ms: first.latency_ms,
            components,
            rows,
        };
        self.bytes += probe.bytes();
        self.probes.insert(place, probe);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.probes.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    fn state(&mut self, row: &HealthRow) -> State {
        let status =
            STATUSES.iter().position(|status| *status == row.status).unwrap_or(STATUSES.len() - 1);
        // Four of them.
        State {
            component: self.place(&row.component),
            reason: self.place(&row.reason),
            status: status as u8,
        }
    }

    fn place(&mut self, name: &str) -> u8 {
        let place = self.names.iter().position(|known| **known == *name).unwrap_or_else(|| {
            if self.names.len() < NAMES_MAX {
                self.names.push(name.into());
                return self.names.len() - 1;
            }
            NAMES_MAX
        });
        u8::try_from(place).unwrap_or(u8::MAX)
    }

    fn name(&self, place: u8) -> &str {
        self.names.get(usize::from(place)).map_or(OTHER, |name| name)
    }

    fn passes(&self, filter: &Filter, state: State) -> bool {
        filter.component.as_deref().is_none_or(|wanted| wanted == self.name(state.component))
            && filter.status.as_deref().is_none_or(|wanted| wanted == state.status())
    }

    fn row(&self, probe: &Probe, kept: &Kept) -> HealthRow {
        let state = probe.components[kept.place];
        let details = kept.details.as_deref().and_then(|text| serde_json::from_str(text).ok());
        HealthRow {
            id: kept.id,
            created_at: probe.at,
            instance: probe.instance.to_string(),
            component: self.name(state.component).to_owned(),
            status: state.status().to_owned(),
            reason: self.name(state.reason).to_owned(),
            message: kept.message.to_string(),
            latency_ms: probe.latency_ms,
            details: details.unwrap_or(Value::Null),
        }
    }

    pub fn page(&self, filter: &Filter, behind: Option<Cursor>, limit: usize) -> Page<HealthRow> {
        let found = self.probes.iter().filter(|probe| in_range(filter, probe.at, &probe.instance));
        let rows = found.flat_map(|probe| {
            let wanted = |kept: &&Kept| self.passes(filter, probe.components[kept.place]);
            probe.rows.iter().filter(wanted).map(|kept| self.row(probe, kept))
        });
        page(rows.collect(), behind, limit, |row| Cursor { created_at: row.created_at, id: row.id })
    }

    pub fn buckets(
        &self,
        filter: &Filter,
        bucket_seconds: u32,
    ) -> Result<Vec<HealthBucket>, TooManyBuckets> {
        let found =
            || self.probes.iter().filter(|probe| in_range(filter, probe.at, &probe.instance));
        if let (Some(first), Some(last)) = (found().next(), found().next_back()) {
            check_buckets(first.at, last.at, bucket_seconds)?;
        }
        let mut buckets: BTreeMap<DateTime<Utc>, (Counts, Vec<f64>)> = BTreeMap::new();
        for probe in found() {
            let (mut components, mut any) = (Counts::default(), false);
            for state in probe.components.iter().filter(|state| self.passes(filter, **state)) {
                components.take(state.status());
                any = true;
            }
            if any {
                let (counts, latencies) =
                    buckets.entry(bucket_of(probe.at, bucket_seconds)).or_default();
                counts.take(components.of_a_probe());
                latencies.extend(probe.latency_ms);
            }
        }
        Ok(buckets
            .into_iter()
            .map(|(at, (counts, took))| HealthBucket::new(at, counts, latency(&took)))
            .collect())
    }
}

fn latency(took: &[f64]) -> Option<Latency> {
    let min = took.iter().copied().reduce(f64::min)?;
    let max = took.iter().copied().reduce(f64::max)?;
    Some(Latency { min, avg: took.iter().sum::<f64>() / took.len() as f64, max })
}

impl Kept {
    fn of(row: &HealthRow, place: usize) -> Kept {
        let end = row.message.floor_char_boundary(MESSAGE_MAX);
        let details = row.details.to_string();
        let details =
            (details.len() <= DETAILS_MAX && !row.details.is_null()).then(|| details.into());
        Kept { id: row.id, place, message: row.message[..end].into(), details }
    }
}
