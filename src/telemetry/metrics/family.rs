//! The macro that declares metric families, and the types that it expands to.
//!
//! An entry names a family, its type and its labels; its doc comment is the HELP text. The field of
//! `Metrics`, the registration and the zero-initialised series all derive from the entry.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Error, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

/// The declaration of one family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets; empty for other types.
    pub buckets: &'static [f64],
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
}

/// A registry with the declarations of everything registered in it.
#[derive(Debug, Default)]
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) declared: Vec<Family>,
}

impl Families {
    /// Registers a family. Fails if the name or a label is invalid, or the name is taken.
    pub(super) fn add<M: Metric>(&mut self, family: Family) -> Result<M, Error> {
        let metric = M::create(Opts::new(family.name, family.help), &family)?;
        self.registry.register(Box::new(metric.clone()))?;
        self.declared.push(Family { kind: M::KIND, ..family });
        Ok(metric)
    }
}

/// A type that an entry may have.
pub(super) trait Metric: Collector + Clone + 'static {
    const KIND: &'static str;

    fn create(opts: Opts, family: &Family) -> Result<Self, Error>;

    /// Creates the series of these label values. Does nothing for a type without labels.
    fn create_series(&self, _values: &[&str]) {}
}

macro_rules! scalars {
    ($($type:ident $kind:literal)+) => {$(
        impl Metric for $type {
            const KIND: &'static str = $kind;

            fn create(opts: Opts, _: &Family) -> Result<$type, Error> {
                $type::with_opts(opts)
            }
        }
    )+};
}

macro_rules! vectors {
    ($($type:ident $kind:literal)+) => {$(
        impl Metric for $type {
            const KIND: &'static str = $kind;

            fn create(opts: Opts, family: &Family) -> Result<$type, Error> {
                $type::new(opts, family.labels)
            }

            fn create_series(&self, values: &[&str]) {
                self.with_label_values(values);
            }
        }
    )+};
}

scalars! { IntGauge "gauge" Gauge "gauge" IntCounter "counter" }
vectors! { IntGaugeVec "gauge" GaugeVec "gauge" IntCounterVec "counter" CounterVec "counter" }

impl Metric for HistogramVec {
    const KIND: &'static str = "histogram";

    fn create(opts: Opts, family: &Family) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(opts).buckets(family.buckets.to_vec());
        HistogramVec::new(opts, family.labels)
    }
}

/// Declares the struct `Metrics`: a public field for each entry, named as the family without its
/// prefix.
macro_rules! metrics {
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { &$buckets };
    ($(prefix $prefix:literal { $(
        $(#[doc = $help:literal])+
        $name:ident: $type:ident $([$($label:literal),*])? $(buckets $buckets:ident)?;
    )+ })+) => {
        /// Every metric family, on a registry of its own.
        #[derive(Debug)]
        pub struct Metrics {
            families: Families,
            $($( $(#[doc = $help])+ pub $name: $type, )+)+
        }

        impl Metrics {
            fn register() -> Result<Metrics, prometheus::Error> {
                let mut families = Families::default();
                Ok(Metrics {
                    $($( $name: families.add(Family {
                        name: concat!($prefix, stringify!($name)),
                        help: concat!($($help),+).trim_ascii(),
                        labels: &[$($($label),*)?],
                        buckets: metrics!(@buckets $($buckets)?),
                        kind: "",
                    })?, )+)+
                    families,
                })
            }

            /// Creates the series with these label values in every counter with these labels.
            fn create_counters(&self, labels: &[&str], values: &[&str]) {
                $($(
                    let declared: &[&str] = &[$($($label),*)?];
                    if $type::KIND == "counter" && declared == labels {
                        self.$name.create_series(values);
                    }
                )+)+
            }
        }
    };
}

pub(super) use metrics;
