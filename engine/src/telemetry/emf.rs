//! CloudWatch's embedded metric format: metrics as log lines, which CloudWatch Logs turns into metrics by itself.
//!
//! On ECS the log driver carries stdout to CloudWatch Logs anyway, so this costs no API call and no permission. Each
//! metric that CloudWatch gets costs money by its name and dimensions, so only those go that the catalogue marks. The form
//! is that of the *Embedded Metric Format specification* in the CloudWatch user guide.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{
    Metric, MetricKind, MetricUnit,
    exposition::{Sample, SeriesKey, growth, values},
};

/// The namespace of the metrics.
pub const NAMESPACE: &str = "Penstock";

/// CloudWatch takes at most so many metrics in a line.
const METRICS_PER_LINE: usize = 100;

/// A metric of a line: its name, unit and value.
type Told<'a> = (&'a str, MetricUnit, f64);

/// Makes log lines of what was recorded: of counters what they grew by since the last time, of gauges what they show.
#[derive(Debug)]
pub struct Emf {
    metrics: &'static [Metric],
    dimensions: BTreeMap<String, String>,
    before: BTreeMap<SeriesKey, f64>,
}

impl Emf {
    /// For the metrics of a catalogue; `dimensions`, e.g. pipeline and service, stand on each.
    pub fn new(metrics: &'static [Metric], dimensions: BTreeMap<String, String>) -> Self {
        Self { metrics, dimensions, before: BTreeMap::new() }
    }

    /// The lines for what is recorded now.
    pub fn lines(&mut self, samples: &[Sample], now: DateTime<Utc>) -> Vec<String> {
        let grown = growth(&self.before, samples);
        self.before = values(samples);
        // By labels: a line has one set of dimensions.
        let mut groups: BTreeMap<BTreeMap<String, String>, Vec<Told>> = BTreeMap::new();
        for (sample, grown) in samples.iter().zip(&grown) {
            let Some((metric, unit)) = self.wanted(&sample.name) else { continue };
            let value = if metric.kind == MetricKind::Gauge { sample.value } else { grown.value };
            let mut labels = self.dimensions.clone();
            labels.extend(sample.labels.clone());
            groups.entry(labels).or_default().push((&sample.name, unit, value));
        }
        let chunks = groups
            .iter()
            .flat_map(|(labels, metrics)| metrics.chunks(METRICS_PER_LINE).map(move |chunk| line(labels, chunk, now)));
        chunks.collect()
    }

    /// The metric that a sample belongs to, if it goes to CloudWatch. Of a histogram its sum and its count go.
    fn wanted(&self, name: &str) -> Option<(&'static Metric, MetricUnit)> {
        self.metrics.iter().filter(|metric| metric.cloudwatch).find_map(|metric| {
            match (metric.kind, name.strip_prefix(metric.name)?) {
                (MetricKind::Histogram, "_sum") => Some((metric, metric.unit)),
                (MetricKind::Histogram, "_count") => Some((metric, MetricUnit::Count)),
                (MetricKind::Counter | MetricKind::Gauge, "") => Some((metric, metric.unit)),
                _ => None,
            }
        })
    }
}

fn line(labels: &BTreeMap<String, String>, metrics: &[Told], now: DateTime<Utc>) -> String {
    let unit = |unit: MetricUnit| match unit {
        MetricUnit::Count => "Count",
        MetricUnit::Bytes => "Bytes",
        MetricUnit::Seconds => "Seconds",
        MetricUnit::Ratio => "None",
    };
    let definitions: Vec<Value> =
        metrics.iter().map(|(name, of, _)| json!({ "Name": name, "Unit": unit(*of) })).collect();
    let dimensions: Vec<&String> = labels.keys().collect();
    let mut fields = Map::new();
    fields.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now.timestamp_millis(),
            "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": definitions }],
        }),
    );
    fields.extend(labels.iter().map(|(label, value)| (label.clone(), json!(value))));
    fields.extend(metrics.iter().map(|(name, _, value)| ((*name).to_owned(), json!(value))));
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::parse;

    const METRICS: &[Metric] = &[
        Metric::counter("penstock_a_total", &["outcome"], "").for_cloudwatch(),
        Metric::gauge("penstock_b_seconds", &[], "").in_unit(MetricUnit::Seconds).for_cloudwatch(),
        Metric::histogram("penstock_c_bytes", &[], "").in_unit(MetricUnit::Bytes).for_cloudwatch(),
        Metric::counter("penstock_secret_total", &[], ""),
    ];

    fn told(emf: &mut Emf, text: &str) -> Vec<Value> {
        let lines = emf.lines(&parse(text), DateTime::from_timestamp_millis(1_700_000_000_123).unwrap());
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn counters_are_told_as_growth_gauges_as_they_are_and_only_the_marked_go() {
        let mut emf = Emf::new(METRICS, BTreeMap::from([("service".to_owned(), "engine".to_owned())]));
        let text = |a: u64| {
            format!(
                "penstock_a_total{{outcome=\"ok\"}} {a}\npenstock_b_seconds 2.5\npenstock_secret_total 9\n\
                 penstock_c_bytes_bucket{{le=\"1\"}} 1\npenstock_c_bytes_sum {a}\npenstock_c_bytes_count 1\n"
            )
        };
        let find = |lines: &[Value], name: &str| {
            lines.iter().find_map(|line| line.get(name).cloned()).unwrap_or_else(|| panic!("no {name} in {lines:?}"))
        };
        let first = told(&mut emf, &text(5));
        assert_eq!(find(&first, "penstock_a_total"), 5.0);
        let second = told(&mut emf, &text(12));
        assert_eq!(find(&second, "penstock_a_total"), 7.0);
        assert_eq!(find(&second, "penstock_b_seconds"), 2.5);
        assert_eq!(find(&second, "penstock_c_bytes_sum"), 7.0);
        assert_eq!(find(&second, "penstock_c_bytes_count"), 0.0);
        assert!(second.iter().all(|line| line.get("penstock_secret_total").is_none()));
        assert!(second.iter().all(|line| line.get("penstock_c_bytes_bucket").is_none()));
    }

    #[test]
    fn each_line_declares_what_it_holds() {
        let mut emf = Emf::new(METRICS, BTreeMap::from([("service".to_owned(), "engine".to_owned())]));
        for line in told(&mut emf, "penstock_a_total{outcome=\"ok\"} 1\npenstock_b_seconds 2\n") {
            assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_123_i64);
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], NAMESPACE);
            for dimension in directive["Dimensions"][0].as_array().unwrap() {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{line}");
            }
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{line}");
            }
        }
    }
}
