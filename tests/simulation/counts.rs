//! What metrics count is what they say, also where something is done twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::TimeDelta;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use penstock_engine::cloud::{
    Table,
    table::{Condition, Key as ItemKey, Write},
};
use penstock_operators::model::text;
use penstock_tests::simulation::{PREFIX, World, ledger::Lines};
use serde_json::json;

use super::simulate;

/// Counts the metrics of a thread, and so of a simulation: counters by their sum, histograms by their samples, over all
/// labels.
#[derive(Default)]
pub struct Counts(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counts {
    /// The count of a metric.
    pub fn get(&self, name: &str) -> u64 {
        self.of(name).load(Relaxed)
    }

    fn of(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }
}

struct Samples(Arc<AtomicU64>);

impl HistogramFn for Samples {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Samples(self.of(key.name()))))
    }
}

#[test]
fn i10_a_manifest_that_is_settled_again_was_done_once() {
    simulate(async {
        let counts = Counts::default();
        let _guard = metrics::set_default_local_recorder(&counts);
        let mut world = World::new(5, None, &[("sweep", "every", json!("1h"))]);
        for service in ["engine", "worker"] {
            world.start(service, TimeDelta::zero(), None).await;
        }
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(1, 0), &[Duration::ZERO]);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(counts.get("penstock_manifest_done_seconds"), 1);
        // All checkpoints are lost: the stream tells everything again.
        let engine = world.processes().iter().position(|process| process.service == "engine").unwrap();
        world.end(engine, true).await;
        let leases = Arc::clone(world.cloud().memory_table("leases"));
        for item in leases.items().iter().filter(|item| item.contains_key("checkpoint")) {
            let (scope, id) = (text(item, "scope").unwrap(), text(item, "id").unwrap());
            let forget = Write::update(ItemKey::new(scope, id), Condition::equals("id", id)).remove("checkpoint");
            leases.write(&forget).await.unwrap();
        }
        let writes = counts.get("penstock_conditional_writes_total");
        world.start("engine", TimeDelta::zero(), None).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(counts.get("penstock_conditional_writes_total") > writes, "nothing was settled again");
        assert_eq!(counts.get("penstock_manifest_done_seconds"), 1);
        assert_eq!(counts.get("penstock_files_settled_total"), 1);
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}
