//! Hourly roll-ups: what a process did in an hour, as a row of the metrics table.
//!
//! Each process puts its own row, so no two ever write the same item, and rows of a service add up. A process that stops
//! puts what it has of the hour. Rows are kept for long after Prometheus and CloudWatch have forgotten the details.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    Metric, MetricKind, Telemetry,
    events::RollupPut,
    exposition::{Sample, SeriesKey, growth, values},
};
use crate::{
    cloud::{
        AttributeValue, CloudError, Table,
        table::{Carried, Condition, Key, Write, carry_out},
    },
    time::{Clock, format_time},
};

/// Days after which a row may vanish: enough to compare with the same month of last year.
const KEPT_DAYS: i64 = 400;

/// Two processes of a service may stop in the same millisecond; so many tries find a free one.
const TRIES: i64 = 20;

/// What was counted between two times.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// The service.
    pub service: String,
    /// The process.
    pub worker: String,
    /// From when on.
    pub from: DateTime<Utc>,
    /// Until when.
    pub to: DateTime<Utc>,
    /// What each counter grew by, over all its labels; of histograms the sum and the count.
    pub counts: BTreeMap<String, f64>,
}

impl Rollup {
    /// What the metrics of a catalogue grew by.
    pub fn counts(metrics: &[Metric], before: &BTreeMap<SeriesKey, f64>, now: &[Sample]) -> BTreeMap<String, f64> {
        let mut counts = BTreeMap::new();
        for sample in growth(before, now) {
            let is_counted = metrics.iter().any(|metric| match metric.kind {
                MetricKind::Counter => sample.name == metric.name,
                MetricKind::Histogram => {
                    sample.name.strip_prefix(metric.name).is_some_and(|suffix| matches!(suffix, "_sum" | "_count"))
                }
                MetricKind::Gauge => false,
            });
            if is_counted && sample.value > 0.0 {
                *counts.entry(sample.name).or_default() += sample.value;
            }
        }
        counts
    }

    /// The row, with its sort key: milliseconds.
    fn write(&self, timestamp: i64) -> Write {
        let number = |value: f64| AttributeValue::N(value.to_string());
        let counts = self.counts.iter().map(|(name, value)| (name.clone(), number(*value))).collect();
        Write::put(
            Key::new(format!("hourly#{}", self.service), timestamp.to_string()),
            serde_dynamo::Item::default(),
            Condition::absent("metric_type"),
        )
        .set("worker", &self.worker)
        .set("from", format_time(self.from))
        .set("to", format_time(self.to))
        .set_value("counts", AttributeValue::M(counts))
        .set_number("ttl", (self.to + TimeDelta::days(KEPT_DAYS)).timestamp())
    }

    /// Puts the row.
    pub async fn put(&self, table: &dyn Table) -> Result<(), CloudError> {
        let timestamp = self.to.timestamp_millis();
        for later in 0..TRIES {
            if let Carried::Applied(_) = carry_out(table, &self.write(timestamp + later)).await? {
                return Ok(());
            }
        }
        tracing::warn!(service = self.service, "Roll-up not stored: other processes have all its places.");
        Ok(())
    }
}

/// How long it is until the next full hour.
fn until_the_hour(now: DateTime<Utc>) -> Duration {
    let into = u64::from(now.minute() * 60 + now.second());
    Duration::from_secs(3600 - into.min(3599))
}

/// Puts a row each full hour, and one at the end.
pub async fn keep(
    telemetry: Telemetry,
    table: Arc<dyn Table>,
    service: String,
    worker: String,
    clock: Clock,
    stop: CancellationToken,
) {
    let (mut before, mut from) = (BTreeMap::new(), clock.now());
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(until_the_hour(clock.now())) => {}
            () = stop.cancelled() => {}
        }
        let (samples, to) = (telemetry.samples(), clock.now());
        let counts = Rollup::counts(telemetry.metrics(), &before, &samples);
        let rollup = Rollup { service: service.clone(), worker: worker.clone(), from, to, counts };
        let put = rollup.put(&*table).await;
        RollupPut { service: &service, result: put.as_ref().copied() }.emit();
        // What couldn't be stored is in the next row.
        if put.is_ok() {
            (before, from) = (values(&samples), to);
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cloud::{
            Cloud,
            local::{LocalCloud, LocalOptions},
            resources::{Naming, Resources},
            table::{Query, query_all},
        },
        telemetry::exposition::parse,
    };

    #[test]
    fn rows_hold_what_was_counted_in_their_time_and_no_gauge() {
        const METRICS: &[Metric] = &[
            Metric::counter("penstock_a_total", &["x"], ""),
            Metric::gauge("penstock_b", &[], ""),
            Metric::histogram("penstock_c", &[], ""),
        ];
        let before = values(&parse("penstock_a_total{x=\"1\"} 5\npenstock_c_sum 1\n"));
        let now = "penstock_a_total{x=\"1\"} 7\npenstock_a_total{x=\"2\"} 4\npenstock_b 9\npenstock_c_bucket{le=\"1\"} 3\n\
                   penstock_c_sum 4\npenstock_c_count 2\nother_total 1\n";
        let counts = Rollup::counts(METRICS, &before, &parse(now));
        let wanted = [("penstock_a_total", 6.0), ("penstock_c_sum", 3.0), ("penstock_c_count", 2.0)];
        assert_eq!(counts, wanted.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn the_next_hour_is_at_most_an_hour_away() {
        let at = |text: &str| until_the_hour(DateTime::parse_from_rfc3339(text).unwrap().to_utc()).as_secs();
        assert_eq!(at("2026-02-01T10:00:00Z"), 3600);
        assert_eq!(at("2026-02-01T10:59:59Z"), 1);
        assert_eq!(at("2026-02-01T10:30:00.5Z"), 1800);
    }

    #[tokio::test]
    async fn two_processes_that_stop_in_the_same_millisecond_keep_their_rows() {
        let resources: Resources = serde_json::from_value(serde_json::json!({
            "tables": { "sqs-metrics": { "partition_key": "metric_type", "sort_key": "timestamp", "sort_type": "number" } }
        }))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let naming = Naming { pipeline: "p".into(), env: "test".into(), account: "0".repeat(12) };
        let cloud = LocalCloud::open(dir.path(), naming, &resources, LocalOptions::default()).unwrap();
        let table = cloud.table("sqs-metrics").await.unwrap();
        let time = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        for worker in ["a", "b"] {
            let counts = BTreeMap::from([("penstock_a_total".to_owned(), 3.0)]);
            let rollup = Rollup { service: "engine".into(), worker: worker.into(), from: time, to: time, counts };
            rollup.put(&*table).await.unwrap();
        }
        let rows = query_all(&*table, Query::partition("hourly#engine")).await.unwrap();
        let workers: Vec<_> = rows.iter().map(|row| row["worker"].clone()).collect();
        assert_eq!(workers, ["a", "b"].map(|worker| AttributeValue::S(worker.to_owned())));
    }
}
