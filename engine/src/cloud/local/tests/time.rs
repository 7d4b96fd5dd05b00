//! What time does: iterators, shards, items, messages.

use super::*;
use crate::cloud::{
    AttributeValue, ErrorKind,
    change_stream::{ChangeKind, IteratorStart},
    queue::Outgoing,
    table::{Condition, Consistency, Key, Write},
};

fn write(value: u32) -> Write {
    Write::update(Key::new("p", "s"), Condition::absent("nothing")).set_number("value", value)
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_iterator_lives_for_15_minutes() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), hand.options());
    let stream = cloud.change_stream("items").await.unwrap();
    let arn = stream.streams().await.unwrap().remove(0);
    let shard = stream.describe(&arn, Default::default()).await.unwrap().shards.remove(0).id;
    let iterator = stream.iterator(&arn, &shard, &IteratorStart::TrimHorizon).await.unwrap();
    hand.forward(15 * MINUTE);
    let next = stream.records(&iterator, 10).await.unwrap().next.unwrap();
    hand.forward(Duration::from_millis(1));
    assert_eq!(stream.records(&iterator, 10).await.unwrap_err().kind, ErrorKind::ExpiredIterator);
    stream.records(&next, 10).await.unwrap();
}

#[tokio::test]
async fn shards_roll_over_by_age_and_by_count() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let options = LocalOptions { shards: 1, shard_records: Some(3), ..hand.options() };
    let cloud = open(dir.path(), options);
    let (table, stream) = (cloud.table("items").await.unwrap(), cloud.change_stream("items").await.unwrap());
    let arn = stream.streams().await.unwrap().remove(0);
    let shards = async || stream.describe(&arn, Default::default()).await.unwrap().shards;
    for value in 0..7 {
        table.write(&write(value)).await.unwrap();
    }
    assert_eq!(shards().await.len(), 3, "7 records by 3");
    hand.forward(4 * HOUR);
    table.write(&write(7)).await.unwrap();
    assert_eq!(shards().await.len(), 4, "a write finds its shard too old");
    hand.forward(4 * HOUR);
    cloud.reap().await.unwrap();
    let listed = shards().await;
    assert_eq!(listed.len(), 5, "an idle shard rolls over too");
    assert_eq!(listed.iter().filter(|shard| shard.end.is_none()).count(), 1);
}

#[tokio::test]
async fn changes_and_closed_shards_go_after_a_day() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), LocalOptions { shards: 1, ..hand.options() });
    let (table, stream) = (cloud.table("items").await.unwrap(), cloud.change_stream("items").await.unwrap());
    let arn = stream.streams().await.unwrap().remove(0);
    table.write(&write(0)).await.unwrap();
    let first = stream.describe(&arn, Default::default()).await.unwrap().shards.remove(0).id;
    let iterator = stream.iterator(&arn, &first, &IteratorStart::TrimHorizon).await.unwrap();
    let seen = stream.records(&iterator, 10).await.unwrap().changes.remove(0);
    table.write(&write(1)).await.unwrap();
    hand.forward(23 * HOUR);
    table.write(&write(2)).await.unwrap();
    cloud.reap().await.unwrap();
    assert!(stream.iterator(&arn, &first, &IteratorStart::After(seen.sequence.clone())).await.is_ok());
    hand.forward(2 * HOUR);
    cloud.reap().await.unwrap();
    let error = stream.iterator(&arn, &first, &IteratorStart::After(seen.sequence.clone())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TrimmedData, "closed less than a day ago: listed, but its records are gone");
    hand.forward(24 * HOUR);
    cloud.reap().await.unwrap();
    let shards = stream.describe(&arn, Default::default()).await.unwrap().shards;
    assert!(shards.iter().all(|shard| shard.id != first), "a shard closed for a day is not listed");
    let error = stream.iterator(&arn, &first, &IteratorStart::TrimHorizon).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    cloud.disable_stream("items").await.unwrap();
    hand.forward(25 * HOUR);
    cloud.reap().await.unwrap();
    assert!(stream.streams().await.unwrap().is_empty(), "a stream disabled for a day is gone");
}

#[tokio::test]
async fn an_expired_item_is_read_until_it_is_reaped_and_leaves_a_change_of_the_table_itself() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), LocalOptions { shards: 1, ..hand.options() });
    let (table, stream) = (cloud.table("items").await.unwrap(), cloud.change_stream("items").await.unwrap());
    let expires = hand.now().timestamp() + 60;
    let ancient = hand.now().timestamp() - 6 * 365 * 24 * 3600;
    for (sort, expires) in [("soon", expires), ("later", expires + 3600), ("ancient", ancient)] {
        let put = Write::update(Key::new("p", sort), Condition::absent("x")).set_number("expires", expires);
        table.write(&put).await.unwrap();
    }
    let cleared = Write::update(Key::new("p", "cleared"), Condition::absent("x"));
    table.write(&cleared.clone().set_number("expires", expires)).await.unwrap();
    table.write(&cleared.remove("expires")).await.unwrap();
    hand.forward(2 * MINUTE);
    let soon = Key::new("p", "soon");
    assert!(table.get(&soon, Consistency::Strong).await.unwrap().is_some());
    cloud.reap().await.unwrap();
    assert!(table.get(&soon, Consistency::Strong).await.unwrap().is_none());
    for left in ["later", "ancient", "cleared"] {
        assert!(table.get(&Key::new("p", left), Consistency::Strong).await.unwrap().is_some(), "{left}");
    }
    let arn = stream.streams().await.unwrap().remove(0);
    let shard = stream.describe(&arn, Default::default()).await.unwrap().shards.remove(0).id;
    let iterator = stream.iterator(&arn, &shard, &IteratorStart::TrimHorizon).await.unwrap();
    let last = stream.records(&iterator, 100).await.unwrap().changes.pop().unwrap();
    assert_eq!((last.kind, &last.key, last.by_ttl), (ChangeKind::Remove, &soon, true));
    let old = last.old.as_ref().and_then(|old| old.get("expires").cloned());
    assert_eq!(old, Some(AttributeValue::N(expires.to_string())));
}

#[tokio::test]
async fn the_reaper_runs_by_itself() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), LocalOptions { reap_interval: Duration::from_millis(100), ..hand.options() });
    let (table, key) = (cloud.table("items").await.unwrap(), Key::new("p", "s"));
    table.write(&write(1).set_number("expires", hand.now().timestamp() - 1)).await.unwrap();
    let mut changed = cloud.changed();
    while table.get(&key, Consistency::Strong).await.unwrap().is_some() {
        tokio::time::timeout(MINUTE, changed.changed()).await.expect("an expiry is told").unwrap();
    }
}

#[tokio::test]
async fn a_message_is_seen_again_after_its_visibility_and_dropped_after_its_retention() {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    let cloud = open(dir.path(), hand.options());
    let queue = cloud.queue("events").await.unwrap();
    queue.send(&[Outgoing::new("hello")]).await.unwrap();
    let receive = async || queue.receive(10, Duration::ZERO).await.unwrap();
    let first = receive().await.remove(0);
    hand.forward(Duration::from_secs(29));
    assert!(receive().await.is_empty());
    assert_eq!(queue.depth().await.unwrap().in_flight, 1);
    hand.forward(Duration::from_secs(1));
    assert_eq!(queue.depth().await.unwrap().visible, 1);
    let late = queue.set_visibility(&first.receipt, MINUTE).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::NotFound, "who is late has lost the message");
    let second = receive().await.remove(0);
    assert_eq!((second.receive_count, second.sent_ms), (2, first.sent_ms));
    queue.set_visibility(&second.receipt, 11 * HOUR).await.unwrap();
    hand.forward(2 * HOUR);
    let error = queue.set_visibility(&second.receipt, 11 * HOUR).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "12 hours in all");
    hand.forward(4 * 24 * HOUR);
    assert!(receive().await.is_empty(), "past its retention");
    cloud.reap().await.unwrap();
    assert_eq!(queue.depth().await.unwrap().total(), 0);
}
