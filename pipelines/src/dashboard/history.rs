//! The last hour of a process, for charts: what was counted, looked at every few seconds.
//!
//! It lives in memory alone and has a fixed length. Prometheus keeps more; this is for whoever has nothing else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use penstock_engine::telemetry::exposition::{Sample, SeriesKey, growth, values};
use serde::Serialize;

/// How often it looks.
pub const EVERY: Duration = Duration::from_secs(5);

/// How many looks it keeps: an hour.
const KEPT: usize = 720;

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// When, in milliseconds since the epoch.
    at_ms: i64,
    /// Files that followed their manifests, a second.
    files_per_second: f64,
    /// Rows, a second.
    rows_per_second: f64,
    /// Stored bytes converted, a second.
    bytes_per_second: f64,
    /// Changes that were read, a second.
    changes_per_second: f64,
    /// Failures of operators, a second.
    errors_per_second: f64,
    /// Files that wait for a manifest.
    pending_files: f64,
    /// Messages in all queues.
    queued_messages: f64,
    /// The worst lag of a shard.
    lag_seconds: f64,
    /// Of the manifests done since the last look: the mean time from their making.
    done_seconds: Option<f64>,
    /// Of the same: how long an attempt took to convert.
    convert_seconds: Option<f64>,
}

/// What charts show.
#[derive(Debug, Serialize)]
pub struct View {
    every_seconds: u64,
    points: Vec<Point>,
}

/// The last hour.
#[derive(Default)]
pub struct History(Mutex<State>);

#[derive(Default)]
struct State {
    points: VecDeque<Point>,
    before: Option<(i64, BTreeMap<SeriesKey, f64>)>,
}

impl History {
    /// Takes a look.
    pub fn record(&self, at_ms: i64, samples: &[Sample]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before_ms, before)) = &state.before
            && at_ms > *before_ms
        {
            let seconds = (at_ms - before_ms) as f64 / 1000.0;
            let point = point(at_ms, seconds, samples, &growth(before, samples));
            state.points.push_back(point);
            if state.points.len() > KEPT {
                state.points.pop_front();
            }
        }
        state.before = Some((at_ms, values(samples)));
    }

    /// What charts show.
    pub fn view(&self) -> View {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        View { every_seconds: EVERY.as_secs(), points: state.points.iter().cloned().collect() }
    }
}

fn point(at_ms: i64, seconds: f64, now: &[Sample], grown: &[Sample]) -> Point {
    let values = |samples: &[Sample], name: &str| -> Vec<f64> {
        samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).collect()
    };
    let sum = |samples: &[Sample], name: &str| values(samples, name).iter().fold(0.0, |sum, value| sum + value);
    let rate = |name: &str| sum(grown, name) / seconds;
    let mean = |name: &str| {
        let count = sum(grown, &format!("{name}_count"));
        (count > 0.0).then(|| sum(grown, &format!("{name}_sum")) / count)
    };
    Point {
        at_ms,
        files_per_second: rate("penstock_files_settled_total"),
        rows_per_second: rate("penstock_rows_total"),
        bytes_per_second: rate("penstock_converted_bytes_total"),
        changes_per_second: rate("penstock_stream_records_total"),
        errors_per_second: rate("penstock_component_errors_total"),
        pending_files: sum(now, "penstock_pending_files"),
        queued_messages: sum(now, "penstock_queue_messages"),
        lag_seconds: values(now, "penstock_stream_lag_seconds").into_iter().fold(0.0, f64::max),
        done_seconds: mean("penstock_manifest_done_seconds"),
        convert_seconds: mean("penstock_convert_seconds"),
    }
}

#[cfg(test)]
mod tests {
    use penstock_engine::telemetry::exposition::parse;

    use super::*;

    #[test]
    fn points_are_rates_of_what_was_counted_between_two_looks() {
        let history = History::default();
        history.record(0, &parse("penstock_rows_total 100\npenstock_files_settled_total{status=\"completed\"} 1\n"));
        assert!(history.view().points.is_empty(), "one look has no rate");
        let text = "penstock_rows_total 600\npenstock_files_settled_total{status=\"completed\"} 6\n\
                    penstock_files_settled_total{status=\"failed\"} 5\npenstock_pending_files 7\n\
                    penstock_manifest_done_seconds_sum 9\npenstock_manifest_done_seconds_count 3\n\
                    penstock_stream_lag_seconds{table=\"a\"} 2\npenstock_stream_lag_seconds{table=\"b\"} 4\n";
        history.record(5000, &parse(text));
        let point = history.view().points[0].clone();
        assert_eq!((point.rows_per_second, point.files_per_second, point.pending_files), (100.0, 2.0, 7.0));
        assert_eq!((point.done_seconds, point.convert_seconds, point.lag_seconds), (Some(3.0), None, 4.0));
    }

    #[test]
    fn i9_it_keeps_an_hour() {
        let history = History::default();
        for look in 0..2 * KEPT as i64 {
            history.record(look * 5000, &[]);
        }
        let points = history.view().points;
        assert_eq!(points.len(), KEPT);
        assert_eq!(points[0].at_ms, KEPT as i64 * 5000);
    }
}
