//! Telemetry: every metric is described once, as data, and shown to Prometheus, to CloudWatch and in the documents.
//!
//! Code counts through the `metrics` macros where things happen. What each name means stands in a catalogue: this
//! crate's is [`catalogue`], and each crate on top of it has its own. A test holds the code, the catalogues and
//! `docs/metrics.md` to each other, so that none of them can drift.
//!
//! - [`exposition`]: reads the text that Prometheus is given; what else leaves the process is made from the same text.
//! - [`emf`]: CloudWatch's embedded metric format, for logs on ECS.
//! - [`rollup`]: a row of the metrics table for each process and hour.
//! - [`trace`]: the id that joins everything that is logged of a manifest, and the spans of its way.
//! - [`otlp`]: those spans, to a collector.

pub mod catalogue;
pub mod emf;
mod events;
pub mod exposition;
pub mod otlp;
pub mod rollup;
pub mod trace;

use std::{fmt::Write, sync::OnceLock};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use exposition::Sample;

/// A metric, as people are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name: `penstock_`, what it is, its unit, and `_total` for a counter.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// What it counts in.
    pub unit: MetricUnit,
    /// The names of its labels. Each has few values.
    pub labels: &'static [&'static str],
    /// What it means, as a sentence.
    pub help: &'static str,
    /// Whether it goes to CloudWatch too, where each costs money.
    pub cloudwatch: bool,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Many values, by size.
    Histogram,
}

/// What a metric counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share between 0 and 1.
    Ratio,
}

impl MetricKind {
    /// Its word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl MetricUnit {
    /// Its word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
        }
    }

    /// The bounds of a histogram's buckets.
    fn buckets(self) -> &'static [f64] {
        match self {
            // From a conditional write to a manifest that waits for hours.
            Self::Seconds => &[
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
            ],
            // From 4 KiB to 16 GiB, by fours.
            Self::Bytes => &[
                4096.0,
                16384.0,
                65536.0,
                262_144.0,
                1_048_576.0,
                4_194_304.0,
                16_777_216.0,
                67_108_864.0,
                268_435_456.0,
                1_073_741_824.0,
                4_294_967_296.0,
                17_179_869_184.0,
            ],
            Self::Count => &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0],
            Self::Ratio => &[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0],
        }
    }
}

impl Metric {
    /// A counter of things.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, unit: MetricUnit::Count, labels, help, cloudwatch: false }
    }

    /// A gauge of things.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, unit: MetricUnit::Count, labels, help, cloudwatch: false }
    }

    /// A histogram of counts.
    pub const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Histogram, unit: MetricUnit::Count, labels, help, cloudwatch: false }
    }

    /// The same in another unit.
    pub const fn in_unit(mut self, unit: MetricUnit) -> Self {
        self.unit = unit;
        self
    }

    /// The same, also for CloudWatch.
    pub const fn for_cloudwatch(mut self) -> Self {
        self.cloudwatch = true;
        self
    }

    /// Why its name breaks the convention, if it does.
    pub fn misnamed(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_counter = self.kind == MetricKind::Counter;
        let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
        let unit = match self.unit {
            MetricUnit::Bytes => "_bytes",
            MetricUnit::Seconds => "_seconds",
            MetricUnit::Count | MetricUnit::Ratio => "",
        };
        if !self.name.starts_with("penstock_") || !self.name.chars().all(plain) {
            Some(format!("{}: write penstock_ and lower-case words", self.name))
        } else if is_counter != self.name.ends_with("_total") {
            Some(format!("{}: a counter, and only a counter, ends with _total", self.name))
        } else if !stem.ends_with(unit) {
            Some(format!("{}: a metric in {} has `{unit}` in its name", self.name, self.unit.as_str()))
        } else if ["_secs", "_ms", "_millis", "_kb", "_mb"].iter().any(|wrong| stem.ends_with(wrong)) {
            Some(format!("{}: units are seconds and bytes, spelled out", self.name))
        } else {
            None
        }
    }
}

/// The recorder of this process, and what it has recorded. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    handle: PrometheusHandle,
    metrics: &'static [Metric],
}

static INSTALLED: OnceLock<Telemetry> = OnceLock::new();

impl Telemetry {
    /// Installs the recorder, with the metrics of these catalogues. A process has one: a second call gives the first's.
    pub fn install(catalogues: &[&[Metric]]) -> Result<Self, BuildError> {
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let metrics: Vec<Metric> = catalogues.iter().flat_map(|catalogue| catalogue.iter().copied()).collect();
        let mut builder = PrometheusBuilder::new();
        for metric in metrics.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), metric.unit.buckets())?;
        }
        let handle = builder.install_recorder()?;
        for metric in &metrics {
            match metric.kind {
                MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
                MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
                MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
            }
        }
        // It lives as long as the process, as the recorder does.
        let telemetry = Self { handle, metrics: Vec::leak(metrics) };
        Ok(INSTALLED.get_or_init(|| telemetry).clone())
    }

    /// All that was recorded, as Prometheus reads it.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// All that was recorded, as samples.
    pub fn samples(&self) -> Vec<Sample> {
        exposition::parse(&self.render())
    }

    /// Moves what histograms hold into their buckets. Without scrapes somebody must do it now and then.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The catalogue.
    pub fn metrics(&self) -> &'static [Metric] {
        self.metrics
    }
}

/// The reference of metrics, as a Markdown table: what `penstock metrics` prints and `docs/metrics.md` holds.
pub fn reference(catalogues: &[&[Metric]]) -> String {
    let mut metrics: Vec<&Metric> = catalogues.iter().flat_map(|catalogue| catalogue.iter()).collect();
    metrics.sort_by_key(|metric| metric.name);
    let mut table = "| metric | kind | unit | labels | CloudWatch | meaning |\n|---|---|---|---|---|---|\n".to_owned();
    for Metric { name, kind, unit, labels, help, cloudwatch } in metrics {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let cloudwatch = if *cloudwatch { "yes" } else { "" };
        let (kind, unit) = (kind.as_str(), unit.as_str());
        // Writing to a String can't fail.
        if writeln!(table, "| `{name}` | {kind} | {unit} | {labels} | {cloudwatch} | {help} |").is_err() {
            break;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_convention() {
        let wrong: Vec<_> = catalogue::METRICS.iter().filter_map(Metric::misnamed).collect();
        assert_eq!(wrong, Vec::<String>::new());
        for wrong in [
            Metric::counter("penstock_files", &[], ""),
            Metric::gauge("penstock_files_total", &[], ""),
            Metric::gauge("penstock_lag_secs", &[], ""),
            Metric::gauge("penstock_lag", &[], "").in_unit(MetricUnit::Seconds),
            Metric::counter("penstock_read_total", &[], "").in_unit(MetricUnit::Bytes),
            Metric::counter("files_total", &[], ""),
        ] {
            assert!(wrong.misnamed().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn buckets_grow() {
        for unit in [MetricUnit::Seconds, MetricUnit::Bytes, MetricUnit::Count, MetricUnit::Ratio] {
            assert!(unit.buckets().is_sorted_by(|a, b| a < b), "{unit:?}");
        }
    }
}
