//! What can be seen of a process from outside: its phase, its readiness, its metrics.
//!
//! One for the whole process, made before the service starts, so that `/health` and `/ready` answer from the first moment
//! on; the service is put in once it runs.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    breaker,
    health::{Facts, Phase, Readiness, readiness},
    runtime::Handle,
    streams::{ShardStatus, shards_of_process},
    telemetry::Telemetry,
    time::Clock,
};

/// Who this is, for `/version`, logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    /// The version of the program.
    pub version: &'static str,
    /// The pipeline.
    pub pipeline: String,
    /// The environment.
    pub env: String,
    /// The service; `all` if this process runs everything.
    pub service: String,
    /// SHA-256 of the pipeline's file.
    pub digest: String,
    /// When it was started, RFC 3339.
    pub started_at: String,
}

/// Sees a process. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    about: Arc<About>,
    telemetry: Telemetry,
    clock: Clock,
    state: Arc<Mutex<(Phase, Option<Handle>)>>,
    lags: Arc<Lags>,
}

impl Monitor {
    /// Of a process that starts.
    pub fn new(about: About, telemetry: Telemetry, clock: Clock) -> Self {
        let labels = [("version", about.version), ("pipeline", &about.pipeline), ("service", &about.service)];
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| metrics::Label::new(*name, (*value).to_owned())).collect();
        metrics::gauge!("penstock_build_info", labels).set(1.0);
        let state = Arc::new(Mutex::new((Phase::Starting, None)));
        Self { about: Arc::new(about), telemetry, clock, state, lags: Arc::default() }
    }

    /// Its service runs.
    pub fn running(&self, service: Handle) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (Phase::Running, Some(service));
    }

    /// It was asked to stop.
    pub fn stopping(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = Phase::Stopping;
    }

    /// Who it is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The part of its life.
    pub fn phase(&self) -> Phase {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Its service, once it runs.
    pub fn service(&self) -> Option<Handle> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Whether it is ready, and why not.
    pub fn readiness(&self) -> Readiness {
        readiness(&Facts {
            phase: self.phase(),
            operators: self.service().map(|service| service.states()).unwrap_or_default(),
            shards: shards_of_process(),
            breakers: breaker::endpoints_of_process(),
            now: self.clock.now(),
        })
    }

    /// Its metrics as Prometheus reads them, with the gauges set anew that are looked up rather than counted.
    pub fn metrics(&self) -> String {
        self.publish();
        self.telemetry.render()
    }

    /// Its recorder.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Sets the gauges that are looked up rather than counted.
    pub fn publish(&self) {
        if let Some(service) = self.service() {
            service.meters().publish();
        }
        self.lags.publish(shards_of_process());
    }
}

/// The shards whose lag was published last, by table.
#[derive(Default)]
struct Lags(Mutex<BTreeSet<(String, String)>>);

impl Lags {
    /// Sets the lag of each shard that is told of here. Of one that another process reads, its own reader tells: what was
    /// said of it here before is taken back.
    fn publish(&self, shards: Vec<ShardStatus>) {
        let set = |(table, shard): &(String, String), secs: u64| {
            let labels = [("table", table.clone()), ("shard", shard.clone())];
            metrics::gauge!("penstock_stream_shard_lag_seconds", &labels).set(secs as f64);
        };
        let mut published = BTreeSet::new();
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in shards {
            if let Some(lag) = shard.lag_secs {
                let key = (shard.table, shard.shard.0);
                set(&key, lag);
                published.insert(key);
            }
        }
        before.difference(&published).for_each(|gone| set(gone, 0));
        *before = published;
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::{cloud::change_stream::ShardId, streams::ShardState, telemetry::exposition};

    /// An alarm on it would have gone on for ever, at the lag at which the shard was handed over.
    #[test]
    fn the_lag_of_a_shard_that_was_handed_over_is_taken_back() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shard = |name: &str, lag_secs: Option<u64>| ShardStatus {
            table: "t".into(),
            arn: "arn".into(),
            shard: ShardId(name.into()),
            owner: None,
            state: if lag_secs.is_some() { ShardState::Reading } else { ShardState::Elsewhere },
            checkpoint: None,
            lag_secs,
            lag_records: None,
            in_flight_records: 0,
            still_for_secs: None,
            reason: None,
        };
        let lags = Lags::default();
        let publish = |shards| {
            metrics::with_local_recorder(&recorder, || lags.publish(shards));
            let samples = exposition::parse(&recorder.handle().render());
            samples.into_iter().map(|sample| (sample.labels["shard"].clone(), sample.value)).collect::<Vec<_>>()
        };
        let shown = |a: f64, b: f64| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        let sorted = |mut all: Vec<(String, f64)>| {
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(sorted(publish(vec![shard("a", Some(300)), shard("b", Some(4))])), shown(300.0, 4.0));
        assert_eq!(sorted(publish(vec![shard("a", None), shard("b", Some(5))])), shown(0.0, 5.0));
        assert_eq!(
            sorted(publish(vec![shard("a", Some(7))])),
            shown(7.0, 0.0),
            "it is back, and b isn't known any more"
        );
    }
}
