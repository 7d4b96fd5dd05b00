//! Each weakness really shows, with a fixed seed, and none shows where none is asked for.

mod fakes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_dynamo::Item;
use tokio::time::sleep;

use self::fakes::{FakeBus, FakeQueue, FakeStream, FakeTable, change, event, key, pending_item, status_of};
use super::*;
use crate::cloud::{
    ChangeStream, EventBus, Queue, Table,
    change_stream::{DescribeRequest, IteratorStart, ShardId, ShardIterator},
    queue::Outgoing,
    resources::IndexSpec,
    table::{Condition, Consistency, Outcome, Query, Write},
};

const LAG: Duration = Duration::from_secs(2);

fn only(change: impl FnOnce(&mut Weakness)) -> Weakness {
    let mut weakness = Weakness { lag: LAG, ..Weakness::none() };
    change(&mut weakness);
    weakness
}

fn weak_table(weakness: Weakness) -> (Arc<FakeTable>, WeakTable) {
    let inner = Arc::new(FakeTable::default());
    let index = IndexSpec { hash: "status".to_owned(), range: "date_prefix".to_owned() };
    let indexes = BTreeMap::from([("status-index".to_owned(), index)]);
    (inner.clone(), WeakTable::new(inner, indexes, weakness, 7))
}

fn create(name: &str) -> Write {
    Write::put(key(name), pending_item(), Condition::absent("date_prefix"))
}

fn claim(name: &str) -> Write {
    Write::update(key(name), Condition::equals("status", "pending")).set("status", "manifested")
}

async fn indexed(table: &dyn Table, status: &str) -> Vec<String> {
    let mut query = Query::index("status-index", status);
    let mut names = Vec::new();
    loop {
        let page = table.query(&query).await.unwrap();
        names.extend(page.items.iter().map(fakes::name_of));
        match page.next {
            Some(next) => query.start = Some(next),
            None => return names,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_no_weakness_everything_is_as_it_is() {
    let (inner, table) = weak_table(Weakness::none());
    for name in ["a", "b"] {
        assert!(matches!(table.write(&create(name)).await.unwrap(), Outcome::Applied(Some(_))));
    }
    assert!(matches!(table.write(&create("a")).await.unwrap(), Outcome::Refused(Some(_))));
    table.write(&claim("a")).await.unwrap();
    for _ in 0..50 {
        let read = table.get(&key("a"), Consistency::Eventual).await.unwrap();
        assert_eq!(read, inner.get(&key("a"), Consistency::Strong).await.unwrap());
        assert_eq!(indexed(&table, "pending").await, ["b"]);
        assert_eq!(indexed(&table, "manifested").await, ["a"]);
    }
    let queue = WeakQueue::new(Arc::new(FakeQueue::default()), Weakness::none(), 7);
    let messages: Vec<_> = (0..10).map(|number| Outgoing::new(number.to_string())).collect();
    assert!(queue.send(&messages).await.unwrap().iter().all(Result::is_ok));
    let received = queue.receive(10, Duration::ZERO).await.unwrap();
    assert!(received.iter().map(|message| &message.body).eq(messages.iter().map(|message| &message.body)));
    assert!(queue.receive(10, LAG).await.unwrap().is_empty());
    let stream = WeakChangeStream::new(Arc::new(FakeStream::new(30)), Weakness::none(), 7);
    let page = stream.records(&ShardIterator("0".to_owned()), 20).await.unwrap();
    assert_eq!(page.changes.len(), 20);
    let bus = Arc::new(FakeBus::default());
    let weak = WeakEventBus::new(bus.clone(), Weakness::none(), 7);
    assert_eq!(weak.put(&[event("a"), event("b")]).await.unwrap().len(), 2);
    assert_eq!(bus.put_so_far(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn indexes_lag_jump_back_and_arrive() {
    let (_inner, table) = weak_table(only(|w| w.stale_index = 0.7));
    for number in 0..20 {
        table.write(&create(&format!("{number:02}"))).await.unwrap();
    }
    sleep(2 * LAG).await;
    for number in 0..20 {
        table.write(&claim(&format!("{number:02}"))).await.unwrap();
        sleep(LAG / 40).await;
    }
    let mut counts = Vec::new();
    for _ in 0..40 {
        let names = indexed(&table, "pending").await;
        assert!(names.is_sorted(), "out of order: {names:?}");
        counts.push(names.len());
    }
    assert!(counts.iter().any(|count| *count > 0), "the index never lags: {counts:?}");
    assert!(counts.windows(2).any(|two| two[0] < two[1]), "the index never jumps back: {counts:?}");
    sleep(2 * LAG).await;
    for _ in 0..40 {
        assert_eq!(indexed(&table, "pending").await.len(), 0);
        assert_eq!(indexed(&table, "manifested").await.len(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn plain_reads_may_be_stale_and_strong_ones_never() {
    let (_inner, table) = weak_table(only(|w| w.stale_read = 0.7));
    table.write(&create("a")).await.unwrap();
    sleep(2 * LAG).await;
    table.write(&claim("a")).await.unwrap();
    sleep(LAG / 2).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        seen.insert(status_of(table.get(&key("a"), Consistency::Eventual).await.unwrap().as_ref()));
        let strong = table.get(&key("a"), Consistency::Strong).await.unwrap();
        assert_eq!(status_of(strong.as_ref()), "manifested");
        let listed = table.query(&Query::partition("2026-02-01").strong()).await.unwrap();
        assert_eq!(status_of(listed.items.first()), "manifested");
    }
    assert!(seen.iter().eq(["manifested", "pending"]), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn unknown_writes_land_late_at_once_or_never() {
    let status = async |table: &FakeTable| status_of(table.get(&key("a"), Consistency::Strong).await.unwrap().as_ref());

    let (inner, table) = weak_table(only(|w| w.late_write = 1.0));
    assert!(matches!(table.write(&create("a")).await.unwrap(), Outcome::Unknown(_)));
    assert_eq!(status(&inner).await, "absent");
    sleep(LAG).await;
    assert_eq!(status(&inner).await, "pending");

    let (inner, table) = weak_table(only(|w| w.fault_after = 1.0));
    assert!(matches!(table.write(&create("a")).await.unwrap(), Outcome::Unknown(_)));
    assert_eq!(status(&inner).await, "pending");

    let (inner, table) = weak_table(only(|w| w.lost_write = 1.0));
    assert!(matches!(table.write(&create("a")).await.unwrap(), Outcome::Unknown(_)));
    sleep(2 * LAG).await;
    assert_eq!(status(&inner).await, "absent");

    // A late write that was overtaken is refused when it lands.
    let (inner, table) = weak_table(only(|w| w.late_write = 1.0));
    table.write(&create("a")).await.unwrap();
    let other = Write::put(key("a"), Item::default(), Condition::absent("date_prefix")).set("status", "other");
    assert!(matches!(inner.write(&other).await.unwrap(), Outcome::Applied(_)));
    sleep(LAG).await;
    assert_eq!(status(&inner).await, "other");
}

#[tokio::test(start_paused = true)]
async fn throttles_and_faults_are_told_apart_and_have_no_effect_before() {
    for (weakness, kind) in
        [(only(|w| w.throttle = 1.0), ErrorKind::Throttled), (only(|w| w.fault_before = 1.0), ErrorKind::Unavailable)]
    {
        let (inner, table) = weak_table(weakness);
        let error = table.write(&create("a")).await.unwrap_err();
        assert_eq!(error.kind, kind);
        assert!(error.to_string().contains("2026-02-01/a"), "{error}");
        assert_eq!(inner.get(&key("a"), Consistency::Strong).await.unwrap(), None);
        assert_eq!(table.get(&key("a"), Consistency::Strong).await.unwrap_err().kind, kind);
        assert_eq!(table.query(&Query::partition("x")).await.unwrap_err().kind, kind);
    }
    let (_inner, table) = weak_table(only(|w| w.throttle = 0.5));
    let mut failures = 0;
    for number in 0..200 {
        failures += usize::from(table.write(&create(&number.to_string())).await.is_err());
    }
    assert!((60..140).contains(&failures), "{failures} of 200 with a probability of a half");
}

#[tokio::test(start_paused = true)]
async fn pages_may_be_empty_or_short_and_lose_nothing() {
    let (_inner, table) = weak_table(only(|w| w.empty_page = 0.7));
    for number in 0..30 {
        table.write(&create(&format!("{number:02}"))).await.unwrap();
    }
    let (mut empty, mut short) = (0, 0);
    for _ in 0..20 {
        let mut query = Query::partition("2026-02-01").limit(10);
        let mut names = Vec::new();
        loop {
            let page = table.query(&query).await.unwrap();
            match page.items.len() {
                0 if page.next.is_some() => empty += 1,
                1..10 if page.next.is_some() => short += 1,
                _ => {}
            }
            names.extend(page.items.iter().map(fakes::name_of));
            match page.next {
                Some(next) => query.start = Some(next),
                None => break,
            }
        }
        assert_eq!(names.len(), 30);
        assert!(names.is_sorted());
    }
    assert!(empty > 5 && short > 5, "{empty} empty and {short} short pages");
}

#[tokio::test(start_paused = true)]
async fn queues_deliver_twice_late_and_in_any_order() {
    let queue = WeakQueue::new(
        Arc::new(FakeQueue::default()),
        only(|w| {
            w.duplicate = 0.3;
            w.reorder = 0.3;
        }),
        7,
    );
    let messages: Vec<_> = (0..100).map(|number| Outgoing::new(format!("{number:03}"))).collect();
    for batch in messages.chunks(10) {
        queue.send(batch).await.unwrap();
    }
    let mut bodies = Vec::new();
    for _ in 0..100 {
        bodies.extend(queue.receive(10, LAG).await.unwrap().into_iter().map(|message| message.body));
    }
    assert!(bodies.len() > 110, "{} deliveries of 100 messages", bodies.len());
    assert!(!bodies.is_sorted());
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 100, "a message was lost");
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_batch_fail_on_their_own() {
    let inner = Arc::new(FakeQueue::default());
    let queue = WeakQueue::new(
        inner.clone(),
        only(|w| {
            w.fault_before = 0.3;
            w.fault_after = 0.3;
        }),
        7,
    );
    let messages: Vec<_> = (0..10).map(|number| Outgoing::new(number.to_string())).collect();
    let results = queue.send(&messages).await.unwrap();
    let answered = results.iter().filter(|result| result.is_ok()).count();
    let arrived = inner.depth().await.unwrap().visible as usize;
    assert_eq!(results.len(), 10);
    assert!(answered < arrived && arrived < 10, "{answered} answered, {arrived} arrived");
    let bodies: Vec<_> = inner.receive(10, LAG).await.unwrap().into_iter().map(|message| message.body).collect();
    for (message, result) in messages.iter().zip(&results) {
        assert!(result.is_err() || bodies.contains(&message.body), "{} was answered and didn't arrive", message.body);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_give_empty_pages_stale_listings_and_expired_iterators() {
    let weakness = only(|w| {
        w.empty_page = 0.4;
        w.stale_listing = 0.5;
        w.expired_iterator = 0.1;
    });
    let inner = FakeStream::new(100);
    let expected: Vec<_> = (0..100).map(|number| change(number).sequence).collect();
    let stream = WeakChangeStream::new(Arc::new(inner), weakness, 7);
    let mut iterator = stream.iterator("arn", &ShardId("s".to_owned()), &IteratorStart::TrimHorizon).await.unwrap();
    let (mut read, mut empty, mut expired) = (Vec::new(), 0, 0);
    loop {
        match stream.records(&iterator, 10).await {
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::ExpiredIterator);
                expired += 1;
            }
            Ok(page) => {
                empty += usize::from(page.changes.is_empty());
                read.extend(page.changes.iter().map(|change| change.sequence.clone()));
                match page.next {
                    Some(next) => iterator = next,
                    None => break,
                }
            }
        }
    }
    assert_eq!(read, expected, "a shard gives all of its records, once and in order");
    assert!(empty > 0 && expired > 0, "{empty} empty, {expired} expired");
    let (mut absent, mut open) = (0, 0);
    for _ in 0..40 {
        let listed = stream.describe("arn", DescribeRequest::default()).await.unwrap();
        absent += usize::from(listed.shards.len() < 2);
        open += usize::from(listed.shards.iter().any(|shard| shard.id.0 == "parent" && shard.end.is_none()));
    }
    assert!(absent > 0 && open > 0, "{absent} listings lack a shard, {open} show a closed one as open");
}

#[tokio::test(start_paused = true)]
async fn events_are_put_twice_and_fail_singly() {
    let bus = Arc::new(FakeBus::default());
    let weak = WeakEventBus::new(
        bus.clone(),
        only(|w| {
            w.duplicate = 0.5;
            w.fault_before = 0.3;
        }),
        7,
    );
    let events: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"].map(event).into();
    let results = weak.put(&events).await.unwrap();
    let put = bus.put_so_far();
    for (event, result) in events.iter().zip(&results) {
        let times = put.iter().filter(|put| **put == event.detail_type).count();
        assert_eq!(times > 0, result.is_ok(), "{}", event.detail_type);
    }
    assert!(results.iter().any(Result::is_err));
    assert!(put.len() > results.iter().filter(|result| result.is_ok()).count(), "nothing was put twice");
}

#[tokio::test]
async fn a_stage_may_complete_without_an_answer() {
    use crate::cloud::{
        local::bucket::FolderBucket,
        stage::{Completion, Metadata, Stage, TOKEN},
    };
    let folder = tempfile::tempdir().unwrap();
    let bucket = FolderBucket::open(folder.path(), "bucket").unwrap();
    let metadata = Metadata::from([(TOKEN.to_owned(), "mine".to_owned())]);
    let upload = bucket.stage.begin("key", &metadata).await.unwrap();
    let part = bucket.stage.put_part(&upload, 1, "rows".into()).await.unwrap();
    let parts = [part];

    let before = WeakStage::new(bucket.stage.clone(), only(|w| w.fault_before = 1.0), 7);
    assert_eq!(before.complete(&upload, &parts).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(bucket.stage.head("key").await.unwrap(), None);
    let after = WeakStage::new(bucket.stage.clone(), only(|w| w.fault_after = 1.0), 7);
    assert_eq!(after.complete(&upload, &parts).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(bucket.stage.head("key").await.unwrap().is_some());
    let none = WeakStage::new(bucket.stage.clone(), Weakness::none(), 7);
    assert!(matches!(none.complete(&upload, &parts).await.unwrap(), Completion::Visible { .. }));
    crate::cloud::conformance::stage::all(&crate::cloud::Bucket { stage: Arc::new(none), ..bucket.clone() }, &bucket)
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let run = async || {
        let (_inner, table) = weak_table(Weakness::typical());
        let (mut told, mut seen) = (Vec::new(), Vec::new());
        for number in 0..100 {
            let outcome = table.write(&create(&number.to_string())).await;
            told.push(outcome.map(|outcome| std::mem::discriminant(&outcome)).map_err(|error| error.kind));
            let read = table.get(&key("1"), Consistency::Eventual).await;
            seen.push(read.map(|item| status_of(item.as_ref())).map_err(|error| error.kind));
            sleep(Duration::from_millis(10)).await;
        }
        (told, seen)
    };
    assert_eq!(run().await, run().await);
}
