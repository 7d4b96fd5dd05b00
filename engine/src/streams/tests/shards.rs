//! Failures of the shard graph: ends, children, late listings, first starts, new streams.

use metrics_exporter_prometheus::PrometheusBuilder;

use super::bed::{Bed, Gate, done, metric, options, secs};
use crate::{
    cloud::ErrorKind,
    simulation::sequence,
    streams::{ChangeStreamOptions, OnTrimmed, ShardState, StartAt, shard_item::Ending},
};

/// Up to 1,000 changes would have been lost at each rollover.
#[tokio::test(start_paused = true)]
async fn f1_the_records_of_a_closed_shards_only_page_are_handed_on() {
    let bed = Bed::new();
    bed.put(0..10, 5);
    let shard = bed.stream.open_shards().remove(0);
    let child = bed.stream.split(&shard, 1).remove(0);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    assert_eq!(bed.values(), (0..10).collect::<Vec<_>>());
    let item = bed.item(&shard).unwrap();
    assert_eq!((item.ended, item.checkpoint, item.children), (Some(Ending::Read), Some(sequence(110)), vec![child]));
    worker.stop().await;
}

/// An older image of an item would have been written over a newer one.
#[tokio::test(start_paused = true)]
async fn f2_no_change_of_a_child_is_handed_on_before_its_parents_changes_are_durable() {
    let bed = Bed::new();
    let gate = Gate::default();
    bed.put(0..10, 5);
    let shard = bed.stream.open_shards().remove(0);
    bed.stream.split(&shard, 2);
    bed.put(10..20, 5);
    let worker = bed.worker("a", options(), gate.handler());
    let other = bed.worker("b", options(), gate.handler());
    secs(30).await;
    assert_eq!(bed.values(), (0..5).collect::<Vec<_>>(), "the parent's changes have no verdict yet");
    let waiting: Vec<_> = bed.stream.open_shards().iter().map(|child| worker.status(child)).collect();
    for status in waiting {
        assert_eq!(status.state, ShardState::Waiting);
        assert!(status.reason.unwrap().contains(&shard.0));
    }
    gate.open();
    secs(3).await;
    bed.check_order(0..20);
    worker.stop().await;
    other.stop().await;
}

/// All changes of the shards after the hundredth would have been lost.
#[tokio::test(start_paused = true)]
async fn f3_f4_shards_on_later_pages_and_late_parents_are_found() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..40, 20);
    let children = bed.stream.split(&shard, 6);
    bed.put(40..80, 20);
    bed.stream.hide(&shard, 1);
    bed.stream.hide(&children[3], 2);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    bed.check_order(0..80);
    assert_eq!(bed.values().len(), 80);
    worker.stop().await;
}

/// Everything in the child would have been lost, a day later.
#[tokio::test(start_paused = true)]
async fn f6_a_child_whose_parent_was_trimmed_away_is_read() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.stream.split(&shard, 1);
    bed.put(0..10, 5);
    bed.stream.forget(&shard);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    bed.check_order(0..10);
    worker.stop().await;
}

/// A day's changes would have been done twice, older ones after newer ones.
#[tokio::test(start_paused = true)]
async fn f7_a_finished_shard_is_read_again_by_nobody_and_its_item_goes_when_nobody_lists_it() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    bed.stream.split(&shard, 2);
    bed.put(10..20, 5);
    for n in 0..3 {
        let worker = bed.worker("a", options(), done());
        secs(100).await;
        assert_eq!(bed.values().len(), 20, "start {n} read something again");
        assert!(bed.item(&shard).unwrap().ended.is_some());
        worker.stop().await;
    }
    bed.stream.forget(&shard);
    let worker = bed.worker("a", options(), done());
    secs(200).await;
    assert_eq!(bed.item(&shard), None);
    assert_eq!(bed.values().len(), 20);
    worker.stop().await;
}

/// A day's changes would have been done again, after newer ones of the same items.
#[tokio::test(start_paused = true)]
async fn f7_a_tombstone_that_a_person_removed_makes_nobody_read_the_shard_again() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    bed.stream.split(&shard, 1);
    bed.put(10..20, 5);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    bed.table.remove(&bed.stream.arn(), &shard.0);
    secs(100).await;
    assert_eq!(bed.values().len(), 20);
    worker.stop().await;
}

/// What was written to a child before it was found would have been lost at each rollover.
#[tokio::test(start_paused = true)]
async fn f8_latest_holds_for_the_first_start_and_never_for_a_child() {
    let bed = Bed::new();
    let latest = ChangeStreamOptions { start: StartAt::Latest, ..options() };
    let closed = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let shard = bed.stream.split(&closed, 1).remove(0);
    bed.put(10..20, 5);
    let worker = bed.worker("a", latest.clone(), done());
    secs(3).await;
    assert!(bed.values().is_empty(), "those were there before");
    bed.put(20..30, 5);
    secs(3).await;
    worker.stop().await;
    // While nobody reads, the shard rolls over twice.
    bed.put(30..40, 5);
    let child = bed.stream.split(&shard, 1).remove(0);
    bed.put(40..50, 5);
    bed.stream.split(&child, 2);
    bed.put(50..60, 5);
    let worker = bed.worker("a", latest, done());
    secs(10).await;
    bed.check_order(20..60);
    assert_eq!(bed.values().len(), 40);
    worker.stop().await;
}

/// What came between the first start and the crash would have been lost.
#[tokio::test(start_paused = true)]
async fn f8_a_crash_before_the_first_checkpoint_of_a_latest_start_loses_nothing() {
    let bed = Bed::new();
    let latest = ChangeStreamOptions { start: StartAt::Latest, ..options() };
    bed.put(0..10, 5);
    secs(3600).await;
    let worker = bed.worker("a", latest.clone(), Gate::default().handler());
    secs(3).await;
    bed.put(10..20, 5);
    secs(3).await;
    assert_eq!(bed.values(), (10..15).collect::<Vec<_>>());
    worker.crash().await;
    bed.put(20..30, 5);
    bed.log.lock().unwrap().clear();
    let worker = bed.worker("b", latest, done());
    secs(30).await;
    assert_eq!(bed.values(), (10..30).collect::<Vec<_>>(), "from the first opening on, and nothing older");
    worker.stop().await;
}

/// What the old stream still held would have been lost, or done after newer changes.
#[tokio::test(start_paused = true)]
async fn f10_the_older_stream_of_a_table_is_drained_before_the_newer_one() {
    let bed = Bed::new();
    let gate = Gate::default();
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), gate.handler());
    secs(3).await;
    bed.stream.enable();
    bed.put(10..20, 5);
    secs(120).await;
    let new = bed.stream.open_shards().remove(0);
    assert_eq!(bed.values().len(), 5, "one change of each item, and they have no verdict");
    assert!(worker.status(&new).reason.unwrap().contains("older stream"));
    gate.open();
    secs(3).await;
    bed.check_order(0..20);
    bed.stream.forget_oldest();
    secs(120).await;
    let old_items = bed.table.partition("arn:aws:dynamodb:eu-west-1:1:table/t/stream/1");
    assert!(old_items.is_empty(), "the items of a stream that is gone go too");
    bed.put(20..30, 5);
    secs(2).await;
    bed.check_order(0..30);
    assert_eq!(bed.values().len(), 30);
    worker.stop().await;
}

/// The rest of the old stream would have been missing, with nobody told.
#[tokio::test(start_paused = true)]
async fn f10_f12_a_stream_that_went_before_it_was_read_is_a_gap() {
    for (policy, expected) in [(OnTrimmed::Stop, 10), (OnTrimmed::Reconcile, 20)] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let bed = Bed::new();
        let options = ChangeStreamOptions { on_trimmed: policy, ..options() };
        bed.put(0..10, 5);
        let worker = bed.worker("a", options.clone(), done());
        secs(3).await;
        worker.stop().await;
        bed.stream.enable();
        bed.stream.forget_oldest();
        bed.put(10..20, 5);
        let worker = bed.worker("a", options, done());
        secs(30).await;
        assert_eq!(bed.values().len(), expected, "{policy:?}");
        assert!(worker.readiness().ready, "{policy:?}");
        secs(60).await;
        let readiness = worker.readiness();
        assert_eq!(readiness.ready, policy == OnTrimmed::Reconcile, "{policy:?}");
        assert_eq!(
            readiness.reasons.first().is_some_and(|first| first.reason.contains("on_trimmed")),
            !readiness.ready
        );
        let shown = recorder.handle().render();
        assert_eq!(metric(&shown, "penstock_stream_trimmed_gaps_total"), Some(1.0), "one gap is told once");
        let lag = metric(&shown, "penstock_stream_lag_seconds").unwrap();
        assert_eq!(lag >= 60.0, policy == OnTrimmed::Stop, "{lag} s");
        worker.stop().await;
    }
}

/// All changes after the close would have been missed, until somebody restarts the service.
#[tokio::test(start_paused = true)]
async fn f5_children_that_are_listed_late_are_found_all_the_same() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    bed.stream.fail("describe", ErrorKind::Throttled, 10);
    let child = bed.stream.split(&shard, 1).remove(0);
    bed.stream.hide(&child, 5);
    bed.put(0..10, 5);
    secs(200).await;
    bed.check_order(0..10);
    worker.stop().await;
}

/// A child whose reader died before its first checkpoint would have begun at its latest record.
#[tokio::test(start_paused = true)]
async fn f9_a_child_without_a_checkpoint_is_read_again_from_its_beginning_and_in_order() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    worker.stop().await;
    bed.stream.split(&shard, 1);
    bed.put(10..20, 5);
    let worker = bed.worker("b", options(), Gate::default().handler());
    secs(5).await;
    worker.crash().await;
    bed.put(20..30, 5);
    bed.log.lock().unwrap().retain(|seen| seen.value < 10);
    let worker = bed.worker("c", options(), done());
    secs(30).await;
    bed.check_order(0..30);
    assert_eq!(bed.values(), (0..30).collect::<Vec<_>>());
    worker.stop().await;
}
