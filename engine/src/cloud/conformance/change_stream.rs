//! What a [`ChangeStream`] owes. What AWS does to a stream by itself (rollover, splits, trimming) is asked for through
//! [`StreamControl`], which a server may not have.

pub mod control;
mod reader;

use std::collections::HashMap;

use async_trait::async_trait;

use self::reader::Reader;
use super::fresh;
use crate::cloud::{
    AttributeValue, ChangeStream, ErrorKind, Item, Result, Table,
    change_stream::{ChangeKind, IteratorStart, SequenceNumber, ShardId},
    limits,
    table::{Condition, Key, Outcome, Write},
};

/// Does on demand what AWS does to a table's stream by itself. Tables go by their short names.
#[async_trait]
pub trait StreamControl: Send + Sync {
    /// Closes each open shard and continues it with a child.
    async fn roll_shards(&self, table: &str) -> Result<()>;
    /// Closes an open shard and continues it with two children.
    async fn split_shard(&self, table: &str, shard: &ShardId) -> Result<()>;
    /// Forgets all changes before this one.
    async fn trim_before(&self, table: &str, sequence: &SequenceNumber) -> Result<()>;
    /// Disables the stream and enables it again: it gets a new ARN.
    async fn renew_stream(&self, table: &str) -> Result<()>;
}

/// Runs the suite on a table like `items` of [`resources`](super::resources) and its stream.
pub async fn run_all(table: &dyn Table, stream: &dyn ChangeStream, control: Option<&dyn StreamControl>) {
    the_present_stream_is_enabled_and_has_shards(stream).await;
    each_write_is_one_change_with_its_images(table, stream).await;
    a_write_without_effect_leaves_no_change(table, stream).await;
    the_changes_of_an_item_come_in_order(table, stream).await;
    an_iterator_starts_where_it_is_told(table, stream).await;
    pages_hold_no_more_than_asked_for(table, stream).await;
    what_is_not_there_is_not_found(stream).await;
    if let Some(control) = control {
        control::run_all(table, stream, control).await;
    }
}

fn value(value: impl ToString) -> Item {
    HashMap::from([("value".to_owned(), AttributeValue::S(value.to_string()))]).into()
}

async fn write(table: &dyn Table, write: Write) {
    match table.write(&write).await {
        Ok(Outcome::Applied(_)) => {}
        other => panic!("{write:?} must be applied: {other:?}"),
    }
}

async fn put(table: &dyn Table, key: &Key, to: impl ToString) {
    write(table, Write::put(key.clone(), value(to), Condition::absent("no-such-attribute"))).await;
}

/// The ARN of the present stream.
async fn present(stream: &dyn ChangeStream) -> String {
    stream.streams().await.unwrap().pop().expect("the table has a stream")
}

/// The table's newest stream takes changes and lists shards, each with a start.
pub async fn the_present_stream_is_enabled_and_has_shards(stream: &dyn ChangeStream) {
    let arn = present(stream).await;
    let description = stream.describe(&arn, Default::default()).await.unwrap();
    assert!(description.enabled);
    assert!(!description.shards.is_empty());
    assert!(description.shards.iter().all(|shard| !shard.start.0.is_empty() && !shard.id.0.is_empty()));
}

/// Inserts, modifications and removals come once each, with kind, key, both images and growing sequence numbers.
pub async fn each_write_is_one_change_with_its_images(table: &dyn Table, stream: &dyn ChangeStream) {
    let key = Key::new(fresh("p"), "s");
    let mut reader = Reader::from_the_start(stream, present(stream).await).await;
    put(table, &key, 1).await;
    put(table, &key, 2).await;
    write(table, Write::delete(key.clone(), Condition::equals("value", "2"))).await;
    let changes = reader.of_partition(&key.partition, 3).await;
    let image = |to: &str| {
        let mut image = value(to);
        let names = table.keys();
        image.inner_mut().insert(names.partition.clone(), AttributeValue::S(key.partition.clone()));
        image.inner_mut().insert(names.sort.clone(), AttributeValue::S(key.sort.clone()));
        Some(image)
    };
    let found: Vec<_> = changes.iter().map(|change| (change.kind, change.old.clone(), change.new.clone())).collect();
    assert_eq!(
        found,
        [
            (ChangeKind::Insert, None, image("1")),
            (ChangeKind::Modify, image("1"), image("2")),
            (ChangeKind::Remove, image("2"), None),
        ]
    );
    for change in &changes {
        assert_eq!(change.key, key);
        assert!(!change.by_ttl);
        assert!(change.size_bytes > 0);
        assert!(change.created_secs > 1_500_000_000, "{} is no time in seconds", change.created_secs);
        assert!((21..=40).contains(&change.sequence.0.len()), "{} has 21 to 40 digits", change.sequence);
    }
    assert!(changes.is_sorted_by(|a, b| a.sequence < b.sequence), "sequence numbers grow as numbers");
}

/// A write that was refused, or that left the item as it was, is no change.
pub async fn a_write_without_effect_leaves_no_change(table: &dyn Table, stream: &dyn ChangeStream) {
    let key = Key::new(fresh("p"), "s");
    let mut reader = Reader::from_the_start(stream, present(stream).await).await;
    put(table, &key, 1).await;
    put(table, &key, 1).await;
    write(table, Write::update(key.clone(), Condition::equals("value", "1")).set("value", "1").remove("nothing")).await;
    let refused = Write::delete(key.clone(), Condition::equals("value", "2"));
    assert!(matches!(table.write(&refused).await.unwrap(), Outcome::Refused(_)));
    write(table, Write::delete(Key::new(&key.partition, "absent"), Condition::absent("value"))).await;
    put(table, &key, 2).await;
    let kinds: Vec<_> = reader.of_partition(&key.partition, 2).await.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Insert, ChangeKind::Modify]);
}

/// Each item's changes come in the order of its writes, whatever happens to others meanwhile.
pub async fn the_changes_of_an_item_come_in_order(table: &dyn Table, stream: &dyn ChangeStream) {
    let keys: Vec<Key> = (0..5).map(|no| Key::new(fresh("p"), no.to_string())).collect();
    let mut reader = Reader::from_the_start(stream, present(stream).await).await;
    for to in 0..10 {
        futures::future::join_all(keys.iter().map(|key| put(table, key, to))).await;
    }
    for key in &keys {
        reader.expect_values(&key.partition, 0..10).await;
    }
}

/// `TrimHorizon`, `At`, `After` and `Latest` start where they say.
pub async fn an_iterator_starts_where_it_is_told(table: &dyn Table, stream: &dyn ChangeStream) {
    let (arn, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    let mut reader = Reader::from_the_start(stream, arn.clone()).await;
    for to in 0..3 {
        put(table, &key, to).await;
    }
    let changes = reader.of_partition(&key.partition, 3).await;
    // The shard may roll over at any time: each reader goes on with the children of the shard that it begins with.
    let [first, middle, last] = &reader.shards_of(&key.partition)[..] else { panic!("three changes are in shards") };
    let sequence = changes[1].sequence.clone();
    for (start, begin) in [(IteratorStart::At(sequence.clone()), 1), (IteratorStart::After(sequence), 2)] {
        let mut from = Reader::of_shard(stream, arn.clone(), middle, &start).await;
        let found = from.of_partition(&key.partition, 3 - begin).await;
        assert_eq!(found, changes[begin..], "{start:?}");
    }
    let mut latest = Reader::of_shard(stream, arn.clone(), last, &IteratorStart::Latest).await;
    put(table, &key, 3).await;
    latest.expect_values(&key.partition, 3..4).await;
    let mut all = Reader::of_shard(stream, arn, first, &IteratorStart::TrimHorizon).await;
    all.expect_values(&key.partition, 0..4).await;
}

/// A page has at most as many records as asked for, and the next goes on just after it.
pub async fn pages_hold_no_more_than_asked_for(table: &dyn Table, stream: &dyn ChangeStream) {
    let (arn, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    let mut reader = Reader::from_the_start(stream, arn.clone()).await;
    for to in 0..7 {
        put(table, &key, to).await;
    }
    reader.expect_values(&key.partition, 0..7).await;
    let mut by_two = Reader::from_the_start(stream, arn.clone()).await.by(2);
    by_two.expect_values(&key.partition, 0..7).await;
    let shard = &reader.shards_of(&key.partition)[0];
    let iterator = stream.iterator(&arn, shard, &IteratorStart::TrimHorizon).await.unwrap();
    let error = stream.records(&iterator, limits::RECORDS_PER_PAGE + 1).await.expect_err("too many records");
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}

/// An unknown stream, or an unknown shard of a stream, is not found.
pub async fn what_is_not_there_is_not_found(stream: &dyn ChangeStream) {
    let arn = present(stream).await;
    let shard = ShardId("shardId-00000001000000000000-00000000".into());
    let error = stream.iterator(&arn, &shard, &IteratorStart::Latest).await.expect_err("an unknown shard");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let other = format!("{}1999-01-01T00:00:00.000", &arn[..arn.len() - 23]);
    let error = stream.describe(&other, Default::default()).await.expect_err("an unknown stream");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}
