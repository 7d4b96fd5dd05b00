//! The source on the local cloud: real shards, real iterators, real time.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    ack::Verdict,
    cloud::{
        Cloud,
        local::{LocalCloud, LocalOptions, Trim},
        resources::{Naming, Resources},
        table::{Condition, Key, Write},
    },
    graph::{Build, Built},
    operator::{Body, Context, Kind, MAIN_OUTPUT, Outputs, Record},
    streams::{ChangeStreamOptions, Common, ShardState, ShardStatus, shards_of_process},
    time::Clock,
};

fn naming() -> Naming {
    Naming { pipeline: "p".into(), env: "test".into(), account: "000000000000".into() }
}

fn open(dir: &Path) -> Arc<LocalCloud> {
    let resources: Resources = serde_json::from_value(serde_json::json!({"tables": {
        "orders": {"partition_key": "day", "sort_key": "order", "stream": true},
        "leases": {"partition_key": "scope", "sort_key": "id"},
    }}))
    .unwrap();
    LocalCloud::open(dir, naming(), &resources, LocalOptions::default()).unwrap()
}

async fn put(cloud: &LocalCloud, orders: std::ops::Range<u32>) {
    let table = cloud.table("orders").await.unwrap();
    for n in orders {
        let key = Key::new(format!("day-{}", n % 7), format!("{n:05}"));
        table.write(&Write::update(key, Condition::absent("day")).set_number("n", n)).await.unwrap();
    }
}

/// Runs the source as the runtime does; returns what it emitted, in order.
async fn start(cloud: &Arc<LocalCloud>, stop: &CancellationToken) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let context = Context {
        id: "changes".into(),
        naming: naming(),
        cloud: Arc::clone(cloud) as _,
        clock: Clock::system(),
        worker: "engine-1".into(),
        sole_process: false,
        streams: Common::default(),
        stop: stop.clone(),
    };
    let options: ChangeStreamOptions =
        serde_json::from_value(serde_json::json!({"table": "orders", "checkpoint_every": "50ms"})).unwrap();
    assert_eq!(ChangeStreamOptions::outputs(), [(MAIN_OUTPUT, Kind::Change)]);
    let Ok(Built::Source(mut source)) = options.build(context).await else { panic!("it is no source") };
    let (sender, mut batches) = mpsc::channel::<Vec<Record>>(1);
    let mut out = Outputs::new(BTreeMap::from([(MAIN_OUTPUT.to_owned(), vec![sender])]));
    let stop = stop.clone();
    let run = tokio::spawn(async move { source.run(&mut out, stop).await.unwrap() });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(batch) = batches.recv().await {
            for record in batch {
                let Body::Change(change) = record.body else { panic!("it is no change") };
                log.lock().unwrap().push(change.key.sort.clone());
                record.ack.settle(Verdict::Done);
            }
        }
    });
    (seen, run)
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..400 {
        if what() {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("it took more than 10 s");
}

#[tokio::test]
async fn the_source_reads_a_table_of_the_local_cloud_through_rollovers_a_restart_and_trimmed_parents() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path());
    let stop = CancellationToken::new();
    put(&cloud, 0..100).await;
    let (seen, run) = start(&cloud, &stop).await;
    until(|| seen.lock().unwrap().len() == 100).await;
    cloud.roll_shards("orders").await.unwrap();
    put(&cloud, 100..200).await;
    until(|| seen.lock().unwrap().len() == 200).await;
    let is_ended = |shard: &&ShardStatus| shard.table == "orders" && shard.state == ShardState::Ended;
    until(|| shards_of_process().iter().filter(is_ended).count() == 4).await;
    stop.cancel();
    run.await.unwrap();

    put(&cloud, 200..300).await;
    cloud.roll_shards("orders").await.unwrap();
    put(&cloud, 300..400).await;
    let stop = CancellationToken::new();
    let (again, run) = start(&cloud, &stop).await;
    until(|| again.lock().unwrap().len() >= 200).await;
    cloud.trim("orders", Trim::ClosedShards).await.unwrap();
    put(&cloud, 400..500).await;
    until(|| again.lock().unwrap().len() >= 300).await;
    stop.cancel();
    run.await.unwrap();
    let mut orders = again.lock().unwrap().clone();
    assert_eq!(orders.len(), 300, "the checkpoints were written, so nothing came twice");
    orders.sort_unstable();
    assert_eq!(orders, (200..500).map(|n| format!("{n:05}")).collect::<Vec<_>>());
}
