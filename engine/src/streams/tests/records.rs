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
    simulation::sequence,
    streams::{ChangeStreamOptions, ShardState, StartAt},
};

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
        bed.table.fail_next(&shard.0, crate::simulation::Fault::Error);
        bed.put(10 + n..11 + n, 5);
        sleep(Duration::from_millis(300)).await;
    }
    secs(10).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(115)));
    assert_eq!(worker.status(&shard).reason, None, "it is over");
    worker.stop().await;
}

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
