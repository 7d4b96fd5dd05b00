//! The suites on the local cloud, and what only it promises.

mod delivery;
mod durability;
mod throughput;
mod time;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeZone, Utc};

use super::{LocalCloud, LocalOptions};
use crate::{
    cloud::{Cloud, conformance, resources::Naming},
    time::Clock,
};

fn naming() -> Naming {
    Naming { pipeline: "test".into(), env: "dev".into(), account: "000000000000".into() }
}

fn open(dir: &Path, options: LocalOptions) -> Arc<LocalCloud> {
    LocalCloud::open(dir, naming(), &conformance::resources(), options).unwrap()
}

/// A clock that tests move.
#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Hand {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    fn forward(&self, duration: Duration) {
        self.0.fetch_add(duration.as_millis() as i64, Ordering::Relaxed);
    }

    fn now(&self) -> DateTime<Utc> {
        Utc.timestamp_millis_opt(self.0.load(Ordering::Relaxed)).unwrap()
    }

    fn options(&self) -> LocalOptions {
        let hand = self.clone();
        LocalOptions { clock: Clock::from_fn(move || hand.now()), ..LocalOptions::default() }
    }
}

#[tokio::test]
async fn tables_conform() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    conformance::table::run_all(&*cloud.table(conformance::ITEMS).await.unwrap()).await;
    conformance::table::run_all_numeric(&*cloud.table(conformance::NUMBERS).await.unwrap()).await;
}

#[tokio::test]
async fn queues_conform() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let (work, dead) = (cloud.queue(conformance::WORK).await.unwrap(), cloud.queue(conformance::DEAD).await.unwrap());
    conformance::queue::run_all(&*work, &*dead).await;
}

#[tokio::test]
async fn change_streams_conform() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let items = cloud.table(conformance::ITEMS).await.unwrap();
    let stream = cloud.change_stream(conformance::ITEMS).await.unwrap();
    conformance::change_stream::run_all(&*items, &*stream, Some(&*cloud)).await;
}

#[tokio::test]
async fn the_whole_cloud_conforms_with_busy_shards() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions { shards: 2, shard_records: Some(5), ..LocalOptions::default() });
    conformance::run_all(&*cloud, None).await;
}

#[tokio::test]
async fn event_buses_conform() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let (bus, queue) =
        (cloud.event_bus(conformance::BUS).await.unwrap(), cloud.queue(conformance::EVENTS).await.unwrap());
    conformance::event_bus::run_all(&*bus, &*queue).await;
}
