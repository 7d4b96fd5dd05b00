//! Failures of reading: expired iterators, trimmed data, shards that are gone, throttles, idleness.

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::Instant;

use super::bed::{Bed, Gate, Worker, done, options, secs};
use crate::{
    cloud::ErrorKind,
    simulation::{FakeStream, sequence},
    streams::{
        ChangeStreamOptions, OnTrimmed, ShardState,
        shard_item::{Ending, ShardItem},
    },
    telemetry::exposition,
};

/// Changes would have been skipped or repeated after each pause of more than 15 minutes.
#[tokio::test(start_paused = true)]
async fn f11_an_expired_iterator_goes_on_behind_the_last_change_that_was_handed_on() {
    let bed = Bed::new();
    bed.stream.set_page(10);
    let gate = Gate::default();
    let options = ChangeStreamOptions { read_records: 10, max_in_flight_records: 10, ..options() };
    bed.put(0..100, 5);
    let worker = bed.worker("a", options, gate.handler());
    secs(20 * 60).await;
    assert!(bed.values().len() < 100, "pressure holds the reader up until its iterator has expired");
    gate.open();
    secs(5).await;
    assert_eq!(bed.values(), (0..100).collect::<Vec<_>>(), "nothing twice, nothing left out");
    assert!(bed.stream.calls("iterator") >= 2);
    worker.stop().await;
}

/// The reads of the shard would have been used up, so that its changes come late or never.
#[tokio::test(start_paused = true)]
async fn f11_an_iterator_that_expires_again_and_again_is_no_hot_loop() {
    let bed = Bed::new();
    bed.stream.fail("records", ErrorKind::ExpiredIterator, 20);
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    assert!(bed.stream.calls("records") < 20, "{} reads", bed.stream.calls("records"));
    secs(300).await;
    bed.check_order(0..10);
    worker.stop().await;
}

/// Reads 10 changes, stops, loses the next 10 to retention, and starts again under a policy.
async fn after_a_gap(policy: OnTrimmed) -> (Bed, Worker) {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    worker.stop().await;
    bed.put(10..30, 5);
    bed.stream.trim(&shard, 20);
    let worker = bed.worker("a", ChangeStreamOptions { on_trimmed: policy, ..options() }, done());
    secs(5).await;
    (bed, worker)
}

/// The trimmed changes would have been missing downstream, with nobody told.
#[tokio::test(start_paused = true)]
async fn f12_f33_trimmed_changes_stop_the_shard_by_default_and_it_says_so() {
    let (bed, worker) = after_a_gap(OnTrimmed::Stop).await;
    let shard = bed.stream.open_shards().remove(0);
    assert_eq!(bed.values().len(), 10);
    let status = worker.status(&shard);
    assert_eq!(status.state, ShardState::Stopped);
    assert!(status.reason.unwrap().contains("on_trimmed"));
    let gap = bed.item(&shard).unwrap().gap.unwrap();
    assert_eq!((gap.from, gap.to, gap.policy.as_str()), (Some(sequence(110)), None, "stop"));
    worker.stop().await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)), "a person can still decide");
}

/// Nobody could have said afterwards which changes were lost.
#[tokio::test(start_paused = true)]
async fn f12_a_gap_is_passed_over_and_recorded_where_the_policy_says_so() {
    for policy in [OnTrimmed::Skip, OnTrimmed::Reconcile] {
        let (bed, worker) = after_a_gap(policy).await;
        if policy == OnTrimmed::Reconcile {
            assert_eq!(worker.common.gaps("t"), 1, "who keeps a view isn't told");
        }
        let shard = bed.stream.open_shards().remove(0);
        assert_eq!(bed.values(), (0..10).chain(20..30).collect::<Vec<_>>());
        let item = bed.item(&shard).unwrap();
        let gap = item.gap.unwrap();
        assert_eq!((gap.from, gap.to, gap.policy.as_str()), (Some(sequence(110)), Some(sequence(121)), policy.text()));
        assert_eq!(item.checkpoint, Some(sequence(130)));
        worker.stop().await;
    }
}

/// The children of a shard that is gone would never have been read.
#[tokio::test(start_paused = true)]
async fn f13_a_shard_that_is_gone_ends_by_the_policy_and_its_children_are_read() {
    for (policy, expected) in [(OnTrimmed::Stop, 5), (OnTrimmed::Skip, 15)] {
        let bed = Bed::new();
        let shard = bed.stream.open_shards().remove(0);
        bed.put(0..5, 5);
        let worker = bed.worker("a", options(), done());
        secs(3).await;
        worker.stop().await;
        bed.put(5..10, 5);
        bed.stream.split(&shard, 1);
        bed.put(10..20, 5);
        bed.stream.forget(&shard);
        let worker = bed.worker("a", ChangeStreamOptions { on_trimmed: policy, ..options() }, done());
        secs(30).await;
        assert_eq!(bed.values().len(), expected, "{policy:?}");
        if policy == OnTrimmed::Skip {
            let gone = |item: Option<ShardItem>| item.is_none_or(|item| item.ended == Some(Ending::Gone));
            assert!(gone(bed.item(&shard)));
        }
        worker.stop().await;
    }
}

/// A throttle would have ended the shard, or begun it again from a wrong place.
#[tokio::test(start_paused = true)]
async fn f14_f15_throttles_and_errors_slow_a_shard_down_and_neither_lose_nor_reset_it() {
    for kind in [ErrorKind::Throttled, ErrorKind::Unavailable, ErrorKind::Denied] {
        let bed = Bed::new();
        bed.stream.set_page(5);
        let shard = bed.stream.open_shards().remove(0);
        bed.put(0..20, 5);
        let worker = bed.worker("a", options(), done());
        secs(3).await;
        let (reads, iterators) = (bed.stream.calls("records"), bed.stream.calls("iterator"));
        bed.stream.fail("records", kind, 6);
        secs(8).await;
        let tried = bed.stream.calls("records") - reads;
        assert!(tried <= 7, "{kind:?} was answered by {tried} reads in 8 s");
        assert_eq!(worker.status(&shard).owner.as_deref(), Some("a"));
        bed.put(20..100, 5);
        secs(60).await;
        assert_eq!(bed.values(), (0..100).collect::<Vec<_>>());
        assert_eq!(bed.stream.calls("iterator"), iterators, "a throttle needs no new iterator");
        worker.stop().await;
    }
}

/// The shard would have been throttled without end, and its lag would have grown towards the day that the stream keeps.
#[tokio::test(start_paused = true)]
async fn f14_a_throttled_shard_is_read_at_most_five_times_a_second() {
    let bed = Bed::new();
    bed.stream.set_page(1);
    bed.stream.fail("records", ErrorKind::Throttled, 1);
    bed.put(0..100, 5);
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    let reads = bed.stream.calls("records");
    assert!((40..=51).contains(&reads), "{reads} reads in 10 s");
    worker.stop().await;
}

/// No change: money for reads of nothing, or minutes before the first change after a pause is seen.
#[tokio::test(start_paused = true)]
async fn f16_an_idle_shard_costs_about_a_read_a_second_and_wakes_up_at_once() {
    let bed = Bed::new();
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    let before = bed.stream.calls("records");
    secs(60).await;
    let reads = bed.stream.calls("records") - before;
    assert!((55..=65).contains(&reads), "{reads} reads a minute");
    let put = Instant::now();
    bed.put(0..1, 1);
    secs(3).await;
    assert!(bed.seen()[0].at - put <= options().poll_max);
    worker.stop().await;
}

/// A child that was never read lost its beginning while nobody was there, and the rest would have been read as if nothing
/// were missing.
#[tokio::test(start_paused = true)]
async fn f33_a_beginning_that_was_trimmed_while_nobody_read_is_a_loss_though_there_is_no_checkpoint() {
    for (trimmed, policy, expected) in [(5, OnTrimmed::Stop, 10), (5, OnTrimmed::Skip, 15), (0, OnTrimmed::Stop, 20)] {
        let bed = Bed::new();
        let shard = bed.stream.open_shards().remove(0);
        bed.put(0..10, 5);
        let worker = bed.worker("a", options(), done());
        secs(3).await;
        let child = bed.stream.split(&shard, 1).remove(0);
        secs(3).await;
        // It is known, and nothing of it was read: its reader dies with it.
        worker.crash().await;
        bed.put(10..20, 5);
        secs(25 * 3600).await;
        bed.stream.trim(&child, trimmed);
        let worker = bed.worker("b", ChangeStreamOptions { on_trimmed: policy, ..options() }, done());
        secs(60).await;
        assert_eq!(bed.values().len(), expected, "{trimmed} trimmed, {policy:?}");
        let gap = bed.item(&child).unwrap().gap;
        assert_eq!(gap.is_some(), trimmed > 0, "{gap:?}");
        worker.stop().await;
    }
}

/// A shard would have been called caught up because one page of it was empty.
#[tokio::test(start_paused = true)]
async fn f16_f34_an_empty_page_is_not_the_end_and_a_shard_at_its_end_has_no_lag() {
    let bed = Bed::new();
    bed.put(0..10, 5);
    let shard = bed.stream.open_shards().remove(0);
    secs(100).await;
    bed.stream.empty_pages(2);
    let worker = bed.worker("a", options(), Gate::default().handler());
    secs(1).await;
    let status = worker.status(&shard);
    assert_eq!((status.lag_secs, status.in_flight_records), (Some(101), 10));
    worker.crash().await;

    let worker = bed.worker("b", options(), done());
    secs(60).await;
    let status = worker.status(&shard);
    assert_eq!((status.lag_secs, status.lag_records, status.reason), (Some(0), Some(0), None));
    worker.stop().await;
}

/// A dashboard of one table would have lacked half of its metrics on AWS, where a table's own name is longer than the pipeline's.
#[tokio::test(start_paused = true)]
async fn i10_every_metric_names_the_table_as_the_pipeline_does() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bed = Bed::of(FakeStream::of("pipeline-t-dev"));
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    worker.stop().await;
    bed.put(10..30, 5);
    bed.stream.trim(&shard, 20);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    worker.stop().await;
    let samples = exposition::parse(&recorder.handle().render());
    for name in ["reads", "records", "describes", "trimmed_gaps"] {
        let name = format!("penstock_stream_{name}_total");
        assert!(samples.iter().any(|sample| sample.name == name), "{name} isn't there");
    }
    for sample in samples.iter().filter(|sample| sample.labels.contains_key("table")) {
        assert_eq!(sample.labels["table"], "t", "{}", sample.name);
    }
}
