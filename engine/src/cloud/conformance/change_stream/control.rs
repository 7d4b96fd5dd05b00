//! What a stream owes when its shards roll over, split and are trimmed, and when it is renewed.

use std::collections::BTreeSet;

use super::super::{ITEMS, fresh};
use super::{
    StreamControl, present, put,
    reader::{Reader, shards},
};
use crate::cloud::{
    ChangeStream, ErrorKind, Table,
    change_stream::{DescribeRequest, IteratorStart, ShardId},
    limits,
    table::Key,
};

/// Runs the suite of what takes a [`StreamControl`].
pub async fn run_all(table: &dyn Table, stream: &dyn ChangeStream, control: &dyn StreamControl) {
    a_rollover_closes_each_shard_and_gives_it_a_child(stream, control).await;
    the_last_page_of_a_closed_shard_holds_its_records(table, stream, control).await;
    a_split_shard_has_two_children(table, stream, control).await;
    an_item_is_read_in_order_through_rollovers_and_splits(table, stream, control).await;
    long_listings_come_in_pages(stream, control).await;
    trimmed_records_are_told_and_not_skipped(table, stream, control).await;
    a_renewed_stream_has_a_new_arn_and_the_old_one_drains(table, stream, control).await;
}

/// After a rollover each closed shard has an end and one child, which starts after it.
pub async fn a_rollover_closes_each_shard_and_gives_it_a_child(stream: &dyn ChangeStream, control: &dyn StreamControl) {
    let arn = present(stream).await;
    let open: Vec<_> = shards(stream, &arn).await.into_iter().filter(|shard| shard.end.is_none()).collect();
    control.roll_shards(ITEMS).await.unwrap();
    let after = shards(stream, &arn).await;
    for old in open {
        let closed = after.iter().find(|shard| shard.id == old.id).expect("a closed shard is still listed");
        let end = closed.end.clone().expect("a closed shard has an end");
        assert!(closed.start <= end);
        let request = DescribeRequest { children_of: Some(old.id.clone()), ..DescribeRequest::default() };
        let children = stream.describe(&arn, request).await.unwrap().shards;
        assert_eq!(children.len(), 1, "a shard that rolled over has one child: {children:?}");
        assert_eq!(children[0].parent.as_ref(), Some(&old.id));
        assert!(children[0].start > end, "a child starts after its parent's end");
        assert!(children[0].end.is_none());
    }
}

/// The last records of a closed shard come with no next iterator: they must not be lost for it.
pub async fn the_last_page_of_a_closed_shard_holds_its_records(
    table: &dyn Table,
    stream: &dyn ChangeStream,
    control: &dyn StreamControl,
) {
    let (arn, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    put(table, &key, 0).await;
    let mut reader = Reader::from_the_start(stream, arn.clone()).await;
    let first = reader.of_partition(&key.partition, 1).await;
    let shard = reader.shard_of(&key.partition);
    control.roll_shards(ITEMS).await.unwrap();
    let start = IteratorStart::At(first[0].sequence.clone());
    let iterator = stream.iterator(&arn, &shard, &start).await.unwrap();
    let page = stream.records(&iterator, limits::RECORDS_PER_PAGE).await.unwrap();
    assert_eq!(page.changes.first(), first.first());
    assert_eq!(page.next, None);
    let iterator = stream.iterator(&arn, &shard, &IteratorStart::Latest).await.unwrap();
    let page = stream.records(&iterator, 1).await.unwrap();
    assert!(page.changes.is_empty() && page.next.is_none(), "at a closed shard's end there is nothing: {page:?}");
}

/// A shard that splits is closed and has two children; changes go on in one of them.
pub async fn a_split_shard_has_two_children(table: &dyn Table, stream: &dyn ChangeStream, control: &dyn StreamControl) {
    let (arn, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    let mut reader = Reader::from_the_start(stream, arn.clone()).await;
    put(table, &key, 0).await;
    reader.expect_values(&key.partition, 0..1).await;
    let parent = reader.shard_of(&key.partition);
    control.split_shard(ITEMS, &parent).await.unwrap();
    put(table, &key, 1).await;
    reader.expect_values(&key.partition, 0..2).await;
    let request = DescribeRequest { children_of: Some(parent.clone()), ..DescribeRequest::default() };
    let children: Vec<ShardId> =
        stream.describe(&arn, request).await.unwrap().shards.into_iter().map(|shard| shard.id).collect();
    assert_eq!(children.len(), 2, "a split shard has two children: {children:?}");
    assert!(children.contains(&reader.shard_of(&key.partition)));
}

/// Who reads parents before children reads each item's changes once each and in order, whatever becomes of the shards.
pub async fn an_item_is_read_in_order_through_rollovers_and_splits(
    table: &dyn Table,
    stream: &dyn ChangeStream,
    control: &dyn StreamControl,
) {
    let keys: Vec<Key> = (0..6).map(|_| Key::new(fresh("p"), "s")).collect();
    let arn = present(stream).await;
    let mut along = Reader::from_the_start(stream, arn.clone()).await;
    for to in 0..12 {
        for key in &keys {
            put(table, key, to).await;
        }
        match to % 3 {
            0 => control.roll_shards(ITEMS).await.unwrap(),
            1 => along.read().await,
            _ => {
                along.read().await;
                let shard = along.shard_of(&keys[0].partition);
                if shards(stream, &arn).await.iter().any(|listed| listed.id == shard && listed.end.is_none()) {
                    control.split_shard(ITEMS, &shard).await.unwrap();
                }
            }
        }
    }
    let mut afterwards = Reader::from_the_start(stream, arn).await;
    for key in &keys {
        along.expect_values(&key.partition, 0..12).await;
        afterwards.expect_values(&key.partition, 0..12).await;
    }
}

/// A listing has at most 100 shards a page; the pages together list each shard once.
pub async fn long_listings_come_in_pages(stream: &dyn ChangeStream, control: &dyn StreamControl) {
    let arn = present(stream).await;
    while shards(stream, &arn).await.len() <= limits::SHARDS_PER_PAGE {
        control.roll_shards(ITEMS).await.unwrap();
    }
    let page = stream.describe(&arn, DescribeRequest::default()).await.unwrap();
    assert!(page.shards.len() <= limits::SHARDS_PER_PAGE);
    assert!(page.last_evaluated.is_some(), "a listing of more than 100 shards has more than one page");
    let all = shards(stream, &arn).await;
    let names: BTreeSet<&ShardId> = all.iter().map(|shard| &shard.id).collect();
    assert_eq!(names.len(), all.len(), "no shard is listed twice");
    for shard in &all {
        let request = DescribeRequest { children_of: Some(shard.id.clone()), ..DescribeRequest::default() };
        let children = stream.describe(&arn, request).await.unwrap().shards;
        let expected = all.iter().filter(|child| child.parent.as_ref() == Some(&shard.id)).count();
        assert_eq!(children.len(), expected, "children of {}", shard.id);
    }
}

/// A place before the oldest record kept is an error; the horizon is not.
pub async fn trimmed_records_are_told_and_not_skipped(
    table: &dyn Table,
    stream: &dyn ChangeStream,
    control: &dyn StreamControl,
) {
    let (arn, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    let mut reader = Reader::from_the_start(stream, arn.clone()).await;
    for to in 0..4 {
        put(table, &key, to).await;
    }
    let changes = reader.of_partition(&key.partition, 4).await;
    let shard = reader.shard_of(&key.partition);
    let place = |start: IteratorStart| {
        let (arn, shard) = (arn.clone(), shard.clone());
        async move { stream.iterator(&arn, &shard, &start).await }
    };
    let old_iterator = place(IteratorStart::At(changes[0].sequence.clone())).await.unwrap();
    control.trim_before(ITEMS, &changes[2].sequence).await.unwrap();
    for start in [IteratorStart::At(changes[0].sequence.clone()), IteratorStart::After(changes[0].sequence.clone())] {
        let error = place(start.clone()).await.expect_err("a place before the oldest record");
        assert_eq!(error.kind, ErrorKind::TrimmedData, "{start:?}: {error}");
    }
    let error = stream.records(&old_iterator, 10).await.expect_err("an iterator before the oldest record");
    assert_eq!(error.kind, ErrorKind::TrimmedData, "{error}");
    for (start, first) in [(IteratorStart::TrimHorizon, 2), (IteratorStart::At(changes[2].sequence.clone()), 2)] {
        let iterator = place(start).await.unwrap();
        let page = stream.records(&iterator, limits::RECORDS_PER_PAGE).await.unwrap();
        assert_eq!(page.changes.first(), Some(&changes[first]));
    }
}

/// A renewed stream has a new ARN; the old one takes no changes, and its shards end once read.
pub async fn a_renewed_stream_has_a_new_arn_and_the_old_one_drains(
    table: &dyn Table,
    stream: &dyn ChangeStream,
    control: &dyn StreamControl,
) {
    let (old, key) = (present(stream).await, Key::new(fresh("p"), "s"));
    put(table, &key, 0).await;
    control.renew_stream(ITEMS).await.unwrap();
    put(table, &key, 1).await;
    let arns = stream.streams().await.unwrap();
    let new = present(stream).await;
    assert_ne!(old, new);
    assert!(arns.contains(&old), "the old stream is listed while it holds records");
    assert!(!stream.describe(&old, DescribeRequest::default()).await.unwrap().enabled);
    assert!(shards(stream, &old).await.iter().all(|shard| shard.end.is_some()), "all its shards are closed");
    Reader::from_the_start(stream, old).await.expect_values(&key.partition, 0..1).await;
    Reader::from_the_start(stream, new).await.expect_values(&key.partition, 1..2).await;
}
