//! Failures of records and of what is kept about them: poison, checkpoints, pressure, deleted items.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::bed::{Bed, Handler, done, failing, options, secs};
use crate::{
    ack::{Ack, Verdict},
    cloud::{ErrorKind, change_stream::Change},
    simulation::{sequence, value_of},
    streams::{ChangeStreamOptions, ShardState, StartAt},
};

/// The shard would have gone on at its latest change, and all in between would have been lost.
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

/// What failed for a moment would have been lost for good.
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

/// One bad change would have held up its shard until the changes behind it are gone.
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
        assert_eq!((&letter["new"]["value"]["N"], &letter["reason"]), (&"3".into(), &"no".into()));
        worker.stop().await;
    }
}

/// A change would have been dropped because nobody had named a queue for it.
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

/// What was still in work at a crash would have been lost.
#[tokio::test(start_paused = true)]
async fn f30_a_checkpoint_never_passes_a_change_without_a_verdict() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let handler: Handler = {
        let kept = Arc::clone(&kept);
        Arc::new(move |change: &Change, ack: Ack| match value_of(change) {
            4 => kept.lock().unwrap().push(ack),
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

/// One change that never gets its verdict would have filled the memory, and taken all shards with it.
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
    let options = ChangeStreamOptions { read_records: 10, max_in_flight_records: 100, ..options() };
    let worker = bed.worker("a", options, handler);
    secs(30).await;
    let held = worker.status(&shards[0]).in_flight_records;
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

/// All shards would have stood still because one listing or write fails, with the state still running.
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
        bed.table.fail_next(&shard.0, crate::simulation::Fault::Error);
        bed.put(10 + n..11 + n, 5);
        sleep(Duration::from_millis(300)).await;
    }
    secs(10).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(115)));
    assert_eq!(worker.status(&shard).reason, None, "it is over");
    worker.stop().await;
}

/// A panic at the stop would have left the leases to run out, and the last checkpoints unwritten.
#[tokio::test(start_paused = true)]
async fn f35_a_consumer_whose_pages_nobody_takes_gives_its_leases_back_and_ends() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let panics: Handler = Arc::new(|_: &Change, _: Ack| panic!("a handler's bug"));
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), panics);
    secs(30).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, None);
    assert!(bed.stream.calls("records") < 10, "it reads on for nobody");
    let other = bed.worker("b", options(), done());
    secs(1).await;
    bed.check_order(0..10);
    other.stop().await;
    worker.crash().await;
}

/// Handles changes, of which the first tries of one fail, and notes in which order they were done.
fn done_in_order(value: u64, times: usize) -> (Handler, Arc<Mutex<Vec<u64>>>) {
    let (fails, done) = (Arc::new(Mutex::new(times)), Arc::new(Mutex::new(Vec::new())));
    let handler: Handler = {
        let done = Arc::clone(&done);
        Arc::new(move |change: &Change, ack: Ack| {
            let now = value_of(change);
            let mut left = fails.lock().unwrap();
            if now == value && *left > 0 {
                *left -= 1;
                return ack.settle(Verdict::Retry("not now".into()));
            }
            done.lock().unwrap().push(now);
            ack.settle(Verdict::Done);
        })
    };
    (handler, done)
}

/// A change that is tried again would have been done after a later one of its item, and an older image would have won.
#[tokio::test(start_paused = true)]
async fn f29_no_later_change_of_an_item_passes_one_that_is_tried_again_and_others_go_on() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let (handler, done) = done_in_order(3, 3);
    bed.put(0..20, 5);
    let worker = bed.worker("a", options(), handler);
    secs(3).await;
    let others: Vec<u64> = (0..20).filter(|value| value % 5 != 3).collect();
    let mut seen = done.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, others, "those of other items don't wait, and those of its own do");
    bed.put(20..40, 5);
    secs(20).await;
    let of_item: Vec<u64> = done.lock().unwrap().iter().copied().filter(|value| value % 5 == 3).collect();
    assert_eq!(of_item, [3, 8, 13, 18, 23, 28, 33, 38]);
    assert_eq!(done.lock().unwrap().len(), 40);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(140)));
    worker.stop().await;
}

/// The later changes of an item would have waited for ever, or have passed the one that fails before it was kept.
#[tokio::test(start_paused = true)]
async fn f29_the_next_change_of_an_item_comes_once_the_one_before_is_in_the_dead_letters() {
    let bed = Bed::new();
    let (handler, done) = done_in_order(3, usize::MAX);
    bed.put(0..20, 5);
    let worker = bed.worker("a", ChangeStreamOptions { dead_letter: Some("dlq".into()), ..options() }, handler);
    secs(60).await;
    assert_eq!(bed.queue.bodies().len(), 1);
    let of_item: Vec<u64> = done.lock().unwrap().iter().copied().filter(|value| value % 5 == 3).collect();
    assert_eq!(of_item, [8, 13, 18]);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_too_old_is_dead_lettered_and_never_handed_on() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..5, 5);
    secs(100).await;
    bed.put(5..10, 5);
    let max_record_age = Some(Duration::from_secs(60));
    let options = ChangeStreamOptions { dead_letter: Some("dlq".into()), max_record_age, ..options() };
    let worker = bed.worker("a", options, done());
    secs(5).await;
    assert_eq!(bed.values(), (5..10).collect::<Vec<_>>());
    let letters: Vec<serde_json::Value> =
        bed.queue.bodies().iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(letters.len(), 5);
    assert!(letters[0]["reason"].as_str().unwrap().contains("max_record_age"), "{}", letters[0]);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_no_filter_takes_is_passed_over_and_checkpointed() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let filters = vec![serde_json::json!({"dynamodb": {"SequenceNumber": [{"suffix": "3"}, {"suffix": "7"}]}})];
    let worker = bed.worker("a", ChangeStreamOptions { filters, ..options() }, done());
    secs(5).await;
    assert_eq!(bed.values(), [2, 6], "their sequence numbers end in 3 and 7");
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));
    worker.stop().await;
}

/// Memory would have grown with the number of stuck shards.
#[tokio::test(start_paused = true)]
async fn i9_f31_what_all_shards_have_in_flight_is_bounded_in_bytes() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.stream.split(&shard, 16);
    // 8 MB, and room for four.
    bed.stream.set_record_bytes(1000);
    bed.put(0..8_000, 500);
    let held: Arc<Mutex<Vec<Ack>>> = Arc::default();
    let handler: Handler = {
        let held = Arc::clone(&held);
        Arc::new(move |_: &Change, ack: Ack| held.lock().unwrap().push(ack))
    };
    let worker = bed.worker("a", ChangeStreamOptions { max_in_flight_bytes: 4 << 20, ..options() }, handler);
    secs(60).await;
    let in_flight: usize = worker.consumer.status().iter().map(|status| status.in_flight_records).sum();
    assert!(in_flight * 1000 <= 4 << 20, "{in_flight} records are in flight");
    assert!(in_flight > 2_500, "{in_flight} records use little of the room");
    // As verdicts come in, all of it comes through.
    for _ in 0..600 {
        held.lock().unwrap().drain(..).for_each(|ack| ack.settle(Verdict::Done));
        sleep(Duration::from_millis(100)).await;
    }
    bed.check_order(0..8_000);
    worker.crash().await;
}

#[tokio::test(start_paused = true)]
async fn for_each_handles_items_side_by_side_and_the_changes_of_one_item_one_after_another() {
    use std::{cell::RefCell, collections::BTreeSet};

    use tokio_util::sync::CancellationToken;

    use crate::{leases::Leases, simulation::FakeStream, streams::Consumer};

    let (stream, (table, _)) = (FakeStream::new(), bed_table());
    (0..60).for_each(|value| stream.put(&format!("key-{}", value % 6), value));
    let leases = Leases::new(table, "a", Default::default());
    let consumer = Consumer::builder(Arc::new(stream), leases, ChangeStreamOptions::new("t")).build().unwrap();
    let (busy, most, order) = (RefCell::new(BTreeSet::new()), RefCell::new(0), RefCell::new(Vec::new()));
    let stop = CancellationToken::new();
    let handle = |change: Arc<Change>| {
        let (busy, most, order, stop) = (&busy, &most, &order, &stop);
        async move {
            let key = change.key.partition.clone();
            assert!(busy.borrow_mut().insert(key.clone()), "two changes of {key} at once");
            let now = busy.borrow().len();
            most.replace_with(|most| now.max(*most));
            sleep(Duration::from_millis(100)).await;
            busy.borrow_mut().remove(&key);
            order.borrow_mut().push((key, value_of(&change)));
            if order.borrow().len() == 60 {
                stop.cancel();
            }
            Ok::<(), String>(())
        }
    };
    consumer.for_each(4, stop.clone(), handle).await;
    assert_eq!(*most.borrow(), 4);
    for key in 0..6 {
        let of_key: Vec<u64> =
            order.borrow().iter().filter(|(k, _)| *k == format!("key-{key}")).map(|(_, v)| *v).collect();
        assert_eq!(of_key, (0..10).map(|n| n * 6 + key).collect::<Vec<_>>());
    }
}

fn bed_table() -> (Arc<dyn crate::cloud::Table>, crate::simulation::Network) {
    crate::simulation::FakeTable::new().host()
}
