//! What can be seen of a process from outside: its phase, its readiness, its metrics.
//!
//! One for the whole process, made before the service starts, so that `/health` and `/ready` answer from the first moment
//! on; the service is put in once it runs.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::{
    breaker,
    health::{Facts, Phase, Readiness, readiness},
    runtime::Handle,
    streams::shards_of_process,
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
}

impl Monitor {
    /// Of a process that starts.
    pub fn new(about: About, telemetry: Telemetry, clock: Clock) -> Self {
        let labels = [("version", about.version), ("pipeline", &about.pipeline), ("service", &about.service)];
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| metrics::Label::new(*name, (*value).to_owned())).collect();
        metrics::gauge!("penstock_build_info", labels).set(1.0);
        Self { about: Arc::new(about), telemetry, clock, state: Arc::new(Mutex::new((Phase::Starting, None))) }
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
        for shard in shards_of_process() {
            // Of a shard that another process reads, its own reader tells.
            if let Some(lag) = shard.lag_secs {
                let labels = [("table", shard.table), ("shard", shard.shard.0)];
                metrics::gauge!("penstock_stream_shard_lag_seconds", &labels).set(lag as f64);
            }
        }
    }
}
