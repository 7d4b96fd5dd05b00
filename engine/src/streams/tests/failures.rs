//! One scenario for each failure that others met before us.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::bed::{Bed, Handler, done, options, secs};
use crate::{
    ack::{Ack, Verdict},
    cloud::{ErrorKind, change_stream::Change},
    streams::{
        ChangeStreamOptions, OnTrimmed, ShardState, StartAt,
        fake::sequence,
        shard_item::{Ending, ShardItem},
    },
};

/// Keeps acks instead of settling them, until it is opened.
#[derive(Clone, Default)]
struct Gate {
    kept: Arc<Mutex<Vec<Ack>>>,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn handler(&self) -> Handler {
        let gate = self.clone();
        Arc::new(move |_: &Change, ack: Ack| {
            if gate.open.load(Ordering::SeqCst) {
                ack.settle(Verdict::Done);
            } else {
                gate.kept.lock().unwrap().push(ack);
            }
        })
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.kept.lock().unwrap().drain(..).for_each(|ack| ack.settle(Verdict::Done));
    }
}

/// Gives a bad verdict on one value, the first `times` times.
fn failing(value: u64, times: usize, verdict: Verdict) -> (Handler, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let handler = {
        let count = Arc::clone(&count);
        move |change: &Change, ack: Ack| {
            let fails = change.key.sort == value.to_string() && count.fetch_add(1, Ordering::SeqCst) < times;
            ack.settle(if fails { verdict.clone() } else { Verdict::Done });
        }
    };
    (Arc::new(handler), count)
}

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
    assert_eq!(bed.values(), (0..10).collect::<Vec<_>>(), "the parent's last changes have no verdict yet");
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
    assert_eq!(bed.values(), (10..20).collect::<Vec<_>>());
    worker.crash().await;
    bed.put(20..30, 5);
    bed.log.lock().unwrap().clear();
    let worker = bed.worker("b", latest, done());
    secs(30).await;
    assert_eq!(bed.values(), (10..30).collect::<Vec<_>>(), "from the first opening on, and nothing older");
    worker.stop().await;
}

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
    assert_eq!(bed.values().len(), 10);
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

#[tokio::test(start_paused = true)]
async fn f10_f12_a_stream_that_went_before_it_was_read_is_a_gap() {
    for (policy, expected) in [(OnTrimmed::Stop, 10), (OnTrimmed::Reconcile, 20)] {
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
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn f11_an_expired_iterator_goes_on_behind_the_last_change_that_was_handed_on() {
    let bed = Bed::new();
    bed.stream.set_page(10);
    let gate = Gate::default();
    let options = ChangeStreamOptions { batch_records: 10, max_in_flight_records: 10, ..options() };
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
async fn after_a_gap(policy: OnTrimmed) -> (Bed, super::bed::Worker) {
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

#[tokio::test(start_paused = true)]
async fn f12_a_gap_is_passed_over_and_recorded_where_the_policy_says_so() {
    for policy in [OnTrimmed::Skip, OnTrimmed::Reconcile] {
        let (bed, worker) = after_a_gap(policy).await;
        let shard = bed.stream.open_shards().remove(0);
        assert_eq!(bed.values(), (0..10).chain(20..30).collect::<Vec<_>>());
        let item = bed.item(&shard).unwrap();
        let gap = item.gap.unwrap();
        assert_eq!((gap.from, gap.to, gap.policy.as_str()), (Some(sequence(110)), Some(sequence(121)), policy.text()));
        assert_eq!(item.checkpoint, Some(sequence(130)));
        worker.stop().await;
    }
}

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

#[tokio::test(start_paused = true)]
async fn f25_an_item_that_was_deleted_under_a_reader_is_made_again_and_nothing_is_lost() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let worker = bed.worker("a", ChangeStreamOptions { start: StartAt::TrimHorizon, ..options() }, done());
    secs(3).await;
    bed.table.remove(&bed.stream.arn(), &shard.0);
    bed.put(10..20, 5);
    secs(10).await;
    bed.put(20..30, 5);
    secs(3).await;
    bed.check_order(0..30);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(130)));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f29_a_change_that_fails_for_a_while_is_offered_again_until_it_succeeds() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let (handler, _) = failing(3, 3, Verdict::Retry("not now".into()));
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), handler);
    secs(5).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(103)), "the frontier waits for it (I5)");
    secs(10).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));
    assert_eq!(bed.values().iter().filter(|value| **value == 3).count(), 4);
    assert_eq!(bed.values().len(), 13, "only the one that failed comes again");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f29_a_change_that_cannot_be_handled_is_dead_lettered_whole_and_the_shard_goes_on() {
    let retry = (Verdict::Retry("no".into()), 5);
    let dead = (Verdict::Dead("no".into()), 1);
    for (verdict, tries) in [retry, dead] {
        let bed = Bed::new();
        let shard = bed.stream.open_shards().remove(0);
        let (handler, count) = failing(3, usize::MAX, verdict);
        bed.put(0..10, 5);
        let options = ChangeStreamOptions { dead_letter: Some("dlq".into()), ..options() };
        let worker = bed.worker("a", options, handler);
        secs(60).await;
        assert_eq!(count.load(Ordering::SeqCst), tries);
        assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));
        let letters = bed.queue.bodies();
        assert_eq!(letters.len(), 1);
        let letter: serde_json::Value = serde_json::from_str(&letters[0]).unwrap();
        assert_eq!((&letter["key"]["sort"], &letter["reason"]), (&"3".into(), &"no".into()));
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn f29_without_a_dead_letter_queue_nothing_is_dropped_and_the_shard_says_what_it_waits_for() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let (handler, count) = failing(3, usize::MAX, Verdict::Dead("no such column".into()));
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), handler);
    secs(1800).await;
    assert!(count.load(Ordering::SeqCst) > 20);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(103)));
    let status = worker.status(&shard);
    assert_eq!(status.state, ShardState::Stuck);
    let reason = status.reason.unwrap();
    assert!(reason.contains("no such column") && reason.contains("dead_letter"), "{reason}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f30_a_checkpoint_never_passes_a_change_without_a_verdict() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let handler: Handler = {
        let kept = Arc::clone(&kept);
        Arc::new(move |change: &Change, ack: Ack| match change.key.sort.as_str() {
            "4" => kept.lock().unwrap().push(ack),
            _ => ack.settle(Verdict::Done),
        })
    };
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), handler);
    secs(30).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(104)));
    worker.crash().await;
    bed.log.lock().unwrap().clear();
    let worker = bed.worker("b", options(), done());
    secs(30).await;
    assert_eq!(bed.values(), (4..10).collect::<Vec<_>>());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f31_what_is_in_flight_is_bounded_and_a_stuck_shard_stops_no_other() {
    let bed = Bed::new();
    bed.stream.set_page(10);
    let shard = bed.stream.open_shards().remove(0);
    let shards = bed.stream.split(&shard, 2);
    bed.put(0..2000, 40);
    let in_flight: Arc<Mutex<BTreeMap<bool, Vec<Ack>>>> = Arc::default();
    // All keys of one of the shards get no verdict at all.
    let stuck_key = {
        let probe = bed.stream.key_of(&shards[0], 40);
        move |key: &str| probe.contains(&key.to_owned())
    };
    let handler: Handler = {
        let in_flight = Arc::clone(&in_flight);
        Arc::new(move |change: &Change, ack: Ack| {
            if stuck_key(&change.key.partition) {
                in_flight.lock().unwrap().entry(true).or_default().push(ack);
            } else {
                ack.settle(Verdict::Done);
            }
        })
    };
    let options = ChangeStreamOptions { batch_records: 10, max_in_flight_records: 100, ..options() };
    let worker = bed.worker("a", options, handler);
    secs(30).await;
    let held = in_flight.lock().unwrap().values().map(Vec::len).sum::<usize>();
    assert!((50..=110).contains(&held), "{held} in flight");
    assert_eq!(worker.status(&shards[1]).in_flight_records, 0);
    let status = worker.status(&shards[1]);
    assert_eq!((status.lag_secs, status.reason), (Some(0), None));
    secs(60).await;
    let status = worker.status(&shards[0]);
    assert_eq!(status.state, ShardState::Stuck);
    assert!(status.reason.unwrap().contains("verdicts"));
    worker.crash().await;
}

#[tokio::test(start_paused = true)]
async fn f32_a_failing_listing_or_checkpoint_stops_no_reading_and_is_told() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let worker = bed.worker("a", options(), done());
    secs(3).await;
    bed.stream.fail("describe", ErrorKind::Throttled, 1000);
    bed.stream.fail("streams", ErrorKind::Unavailable, 1000);
    bed.put(0..10, 5);
    secs(120).await;
    bed.check_order(0..10);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));
    for n in 0..5 {
        bed.table.fail_next(&shard.0, crate::leases::fake::Fault::Error);
        bed.put(10 + n..11 + n, 5);
        sleep(Duration::from_millis(300)).await;
    }
    secs(10).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(115)));
    assert_eq!(worker.status(&shard).reason, None, "it is over");
    worker.stop().await;
}

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
