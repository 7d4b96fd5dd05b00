//! How the fold begins: it reads an index of any size, page by page, while changes come in; and what it has not the time to
//! take waits where it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{Days, NaiveDate, TimeDelta};
use penstock_engine::{
    cloud::{
        Bucket, ChangeStream, Cloud, EventBus, Item, Queue, Result, Table,
        change_stream::{DescribeRequest, IteratorStart, RecordPage, ShardId, ShardIterator, StreamDescription},
        table::{Condition, Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Write},
    },
    operator::Command,
};
use penstock_operators::model::{FileState, SHARDS, shard_of, text};
use penstock_tests::simulation::{
    PREFIX, Tamper, World,
    ledger::Lines,
    witness::{TRACKING, number},
};
use serde_json::{Value, json};

use super::simulate;

/// Files that land meanwhile.
const CHANGES: usize = 10_000;
/// Changes that may have been read and not be done.
const IN_FLIGHT: usize = 1000;

/// The index: how many rows there are under each of its keys, and on a page. A page takes 50 ms.
#[derive(Clone, Copy)]
struct Length {
    rows: usize,
    page: usize,
}

/// What was seen of the fold's first reading of the index, and of the stream.
#[derive(Default)]
struct Seen {
    rows: AtomicUsize,
    /// How long each iterator takes to come.
    iterator_takes: Duration,
    /// Changes that the stream has given, in all; and when the reading began and ended.
    changes: AtomicUsize,
    changes_at_first: AtomicUsize,
    changes_at_last: AtomicUsize,
}

/// A cloud whose index has many rows, which are made as they are read, and whose stream counts what it gives.
struct Watched {
    inner: Arc<dyn Cloud>,
    of_fold: bool,
    length: Length,
    seen: Arc<Seen>,
}

#[async_trait]
impl Cloud for Watched {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let inner = self.inner.table(name).await?;
        let is_watched = self.of_fold && name == TRACKING;
        Ok(if is_watched {
            Arc::new(LongIndex { inner, length: self.length, seen: Arc::clone(&self.seen) })
        } else {
            inner
        })
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        let inner = self.inner.change_stream(table).await?;
        Ok(Arc::new(Counted { inner, seen: Arc::clone(&self.seen) }))
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        self.inner.queue(name).await
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        self.inner.event_bus(name).await
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        self.inner.bucket(name).await
    }
}

struct LongIndex {
    inner: Arc<dyn Table>,
    length: Length,
    seen: Arc<Seen>,
}

/// The item of a file of one of very many dates: no date has enough for a manifest.
fn row(name: &str, day: usize, shard: u8) -> Item {
    let date = NaiveDate::from_ymd_opt(2020, 1, 1).unwrap() + Days::new(day as u64);
    let file = json!({
        "date_prefix": date, "file_key": name, "status": FileState::Pending.status(shard), "file_path": format!("s3://b/{name}"),
        "size_bytes": 1, "etag": "e", "shard_id": shard, "pending_since": "2026-02-02T02:39:00.000Z",
    });
    serde_dynamo::to_item(file).unwrap()
}

#[async_trait]
impl Table for LongIndex {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn keys(&self) -> &KeyNames {
        self.inner.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        self.inner.get(key, consistency).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.inner.write(write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let Some(shard) = query.partition.strip_prefix("pending#").filter(|_| query.index.is_some()) else {
            return self.inner.query(query).await;
        };
        let shard: u8 = shard.parse().unwrap();
        let first = query.start.as_ref().map_or(0, |token| number(&token.0, "row").unwrap() as usize);
        if shard == 0 && first == 0 {
            self.seen.changes_at_first.store(self.seen.changes.load(Relaxed), Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Length { rows: all, page } = self.length;
        let rows = first..(first + page).min(all);
        self.seen.rows.fetch_add(rows.len(), Relaxed);
        let next = Some(rows.end)
            .filter(|end| *end < all)
            .map(|end| PageToken(serde_dynamo::to_item(json!({ "row": end })).unwrap()));
        if next.is_none() && shard + 1 == SHARDS {
            self.seen.changes_at_last.store(self.seen.changes.load(Relaxed), Relaxed);
        }
        let items = rows.map(|at| row(&format!("{shard}-{at}"), at / 100, shard)).collect();
        Ok(Page { items, next })
    }
}

struct Counted {
    inner: Arc<dyn ChangeStream>,
    seen: Arc<Seen>,
}

#[async_trait]
impl ChangeStream for Counted {
    fn table(&self) -> &str {
        self.inner.table()
    }

    async fn streams(&self) -> Result<Vec<String>> {
        self.inner.streams().await
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        self.inner.describe(arn, request).await
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        tokio::time::sleep(self.seen.iterator_takes).await;
        self.inner.iterator(arn, shard, start).await
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let page = self.inner.records(iterator, limit).await?;
        self.seen.changes.fetch_add(page.changes.len(), Relaxed);
        Ok(page)
    }
}

/// Runs the engine into a long index while files land. What was seen, and how many files the fold knows of at the end.
async fn bootstrap(in_flight: usize, length: Length) -> (Arc<Seen>, usize) {
    let seen = Arc::new(Seen::default());
    let watched = Arc::clone(&seen);
    let tamper: Tamper = Arc::new(move |operator: &str, inner: Arc<dyn Cloud>, _: &_| -> Arc<dyn Cloud> {
        match operator {
            "fold" | "change_stream" => {
                Arc::new(Watched { inner, of_fold: operator == "fold", length, seen: Arc::clone(&watched) })
            }
            _ => inner,
        }
    });
    let options = [
        ("fold", "max_files", json!(1_000_000)),
        ("fold", "max_age", json!("30d")),
        ("fold", "reconcile", json!("1h")),
        ("tracking_changes", "max_in_flight_records", json!(in_flight)),
        ("sweep", "every", json!("1h")),
    ];
    let mut world = World::new(1, None, &options).tampered(tamper);
    let table = Arc::clone(world.cloud().memory_table(TRACKING));
    let landing = async {
        for at in 0..CHANGES {
            let name = format!("late-{at}");
            let item = row(&name, 1000 + at / 1000, shard_of(&name));
            let key = Key::new(text(&item, "date_prefix").unwrap(), &name);
            table.write(&Write::put(key, item, Condition::absent("file_key"))).await.unwrap();
            if at % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    };
    let engine = async {
        world.start("engine", TimeDelta::zero(), None).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let command = Command { name: "pending".to_owned(), arguments: json!({}) };
        let pending = world.processes()[0].command("fold", command).await.unwrap();
        let files = |date: &Value| date["files"].as_u64().unwrap() as usize;
        pending.as_object().unwrap().values().map(files).sum()
    };
    let ((), known) = tokio::join!(landing, engine);
    (seen, known)
}

#[test]
fn i9_while_the_index_is_read_changes_wait_in_the_stream_and_all_of_them_come() {
    simulate(async {
        let length = Length { rows: 20_000, page: 1000 };
        let (seen, known) = bootstrap(IN_FLIGHT, length).await;
        let rows = length.rows * usize::from(SHARDS);
        assert_eq!(seen.rows.load(Relaxed), rows, "the index is read once, to its end");
        // A shard that is opened later has its part of the bound while the first may still hold all of it.
        let held = seen.changes_at_last.load(Relaxed) - seen.changes_at_first.load(Relaxed);
        assert!(held <= 2 * IN_FLIGHT, "{held} changes were held while the index was read");
        assert_eq!(known, rows + CHANGES, "files that the fold knows of");
    });
}

#[test]
fn i9_it_is_their_bound_that_keeps_changes_in_the_stream_while_the_index_is_read() {
    simulate(async {
        let (seen, _) = bootstrap(10 * CHANGES, Length { rows: 200, page: 20 }).await;
        let held = seen.changes_at_last.load(Relaxed) - seen.changes_at_first.load(Relaxed);
        assert!(held > 5 * IN_FLIGHT, "without a bound only {held} changes were held: the test shows nothing");
    });
}

/// The index shows nothing yet when the fold begins, and the stream, read from its latest record on, never tells of what
/// lands before it stands.
#[test]
fn i8_what_lands_before_the_iterators_stand_is_found_by_a_reading_behind_them() {
    simulate(async {
        let seen = Arc::new(Seen { iterator_takes: Duration::from_secs(10), ..Seen::default() });
        let tamper: Tamper = Arc::new(move |operator: &str, inner: Arc<dyn Cloud>, _: &_| -> Arc<dyn Cloud> {
            if operator != "change_stream" {
                return inner;
            }
            let length = Length { rows: 0, page: 1 };
            Arc::new(Watched { inner, of_fold: false, length, seen: Arc::clone(&seen) })
        });
        let options = [
            ("tracking_changes", "start", json!("latest")),
            ("fold", "reconcile", json!("1h")),
            ("sweep", "every", json!("1h")),
        ];
        let mut world = World::new(1, None, &options).tampered(tamper);
        world.start("engine", TimeDelta::zero(), None).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(1, 0), &[Duration::ZERO]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let command = Command { name: "pending".to_owned(), arguments: json!({}) };
        let pending = world.processes()[0].command("fold", command).await.unwrap();
        assert_eq!(pending["2026-02-01"]["files"], 1, "{pending}");
    });
}
