//! How fast one machine carries a file through: `cargo test -- --ignored --nocapture throughput`.

use std::{collections::BTreeMap, sync::atomic::AtomicUsize, time::Instant};

use super::*;
use crate::cloud::{
    ChangeStream, Table,
    change_stream::{IteratorStart, ShardId, ShardIterator},
    queue::Outgoing,
    table::{Condition, Key, Outcome, Write},
};

const FILES: usize = 5000;

/// A queue message, three conditional writes of an item of some 600 bytes, the change records of them all, a delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = open(dir.path(), LocalOptions::default());
    let (table, queue) = (cloud.table("items").await.unwrap(), cloud.queue("events").await.unwrap());
    let changes = cloud.change_stream("items").await.unwrap();
    let began = Instant::now();
    let names: Vec<Outgoing> =
        (0..FILES).map(|no| Outgoing::new(format!("landing/2026-02-01/data-{no:05}.ndjson"))).collect();
    let send = async {
        for batch in names.chunks(10) {
            queue.send(batch).await.unwrap().into_iter().for_each(|sent| sent.unwrap());
        }
    };
    let done = AtomicUsize::new(0);
    let worker = async || {
        while done.load(Ordering::Relaxed) < FILES {
            let messages = queue.receive(10, Duration::from_millis(100)).await.unwrap();
            futures::future::join_all(messages.iter().map(|message| carry(&*table, &message.body))).await;
            let receipts: Vec<_> = messages.into_iter().map(|message| message.receipt).collect();
            queue.delete(&receipts).await.unwrap();
            done.fetch_add(receipts.len(), Ordering::Relaxed);
        }
    };
    let workers = futures::future::join_all((0..8).map(|_| worker()));
    tokio::join!(send, workers, read_all(&*changes, 3 * FILES, cloud.changed()));
    let secs = began.elapsed().as_secs_f64();
    println!("{FILES} files in {secs:.1} s: {:.0} files/s", FILES as f64 / secs);
    let size = std::fs::metadata(dir.path().join("penstock.db")).unwrap().len();
    println!("the database has {} MB", size >> 20);
}

async fn carry(table: &dyn Table, name: &str) {
    let key = Key::new("2026-02-01", name);
    let track = Write::update(key.clone(), Condition::absent("pk"))
        .set("file_path", format!("s3://ndjson-parquet-input-dev-000000000000/{name}"))
        .set_number("size_bytes", 3_512_000)
        .set("etag", "9b2cf535f27731c974343645a3985328")
        .set("sequencer", "0055AED6DCD90281E5")
        .set("created_at", "2026-02-01T12:00:00.000Z")
        .set("pending_since", "2026-02-01T12:00:00.000Z")
        .set("color", "pending#3")
        .set("shape", "2026-02-01");
    let claim = Write::update(key.clone(), Condition::equals("color", "pending#3"))
        .set("color", "manifested#3")
        .set("manifest_path", "s3://ndjson-parquet-manifest-dev-000000000000/manifests/2026-02-01/batch-0001.json");
    let settle = Write::update(key, Condition::equals("color", "manifested#3"))
        .set("color", "completed#3")
        .set_number("rows", 12_345)
        .set_number("expires", 1_900_000_000)
        .set("completed_time", "2026-02-01T12:05:00.000Z");
    for write in [track, claim, settle] {
        assert!(matches!(table.write(&write).await.unwrap(), Outcome::Applied(_)));
    }
}

async fn read_all(stream: &dyn ChangeStream, count: usize, mut changed: tokio::sync::watch::Receiver<u64>) {
    let arn = stream.streams().await.unwrap().remove(0);
    let mut iterators: BTreeMap<ShardId, ShardIterator> = BTreeMap::new();
    for shard in stream.describe(&arn, Default::default()).await.unwrap().shards {
        let iterator = stream.iterator(&arn, &shard.id, &IteratorStart::TrimHorizon).await.unwrap();
        iterators.insert(shard.id, iterator);
    }
    let mut read = 0;
    while read < count {
        let mut page_records = 0;
        for iterator in iterators.values_mut() {
            let page = stream.records(iterator, 1000).await.unwrap();
            page_records += page.changes.len();
            *iterator = page.next.unwrap();
        }
        read += page_records;
        if page_records == 0 {
            changed.changed().await.unwrap();
        }
    }
}
