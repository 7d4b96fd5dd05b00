//! Workers that share a stream: the plain way, takeovers, balance.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::{Instant, sleep};

use super::bed::{Bed, Gate, LENGTH, done, metric, options, secs};
use crate::{
    ack::Verdict,
    cloud::ErrorKind,
    simulation::{Fault, sequence},
    streams::ShardState,
};

#[tokio::test(start_paused = true)]
async fn one_worker_reads_all_changes_once_and_in_order_through_splits_and_rollovers() {
    let bed = Bed::new();
    bed.stream.set_page(7);
    bed.put(0..100, 10);
    let worker = bed.worker("a", options(), done());
    secs(2).await;
    let first = bed.stream.open_shards().remove(0);
    let halves = bed.stream.split(&first, 2);
    bed.put(100..200, 10);
    bed.stream.split(&halves[0], 1);
    bed.stream.split(&halves[1], 2);
    bed.put(200..300, 10);
    secs(10).await;
    bed.check_order(0..300);
    assert_eq!(bed.values().len(), 300, "nothing came twice");
    let item = bed.item(&first).unwrap();
    assert_eq!(item.checkpoint, Some(sequence(200)));
    assert_eq!(item.children, halves);
    worker.stop().await;
}

/// Each deploy would have cost the length of a lease, in which nobody reads.
#[tokio::test(start_paused = true)]
async fn f20_f36_after_an_orderly_stop_another_worker_goes_on_within_a_second() {
    let bed = Bed::new();
    bed.put(0..50, 5);
    let a = bed.worker("a", options(), done());
    let b = bed.worker("b", options(), done());
    secs(5).await;
    let (first, second) = if a.owned() == 1 { (a, b) } else { (b, a) };
    let before = bed.values().len();
    first.stop().await;
    bed.put(50..100, 5);
    let stopped = Instant::now();
    secs(3).await;
    bed.check_order(0..100);
    assert_eq!((before, bed.values().len()), (50, 100), "the checkpoint was written before the lease was released");
    let took = bed.seen()[50].at - stopped;
    assert!(took < Duration::from_secs(1), "took {took:?}");
    second.stop().await;
}

/// A crashed worker's shards would have been read by nobody, or by two at once.
#[tokio::test(start_paused = true)]
async fn f18_f19_a_crashed_workers_shards_are_taken_over_within_twice_the_lease() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    bed.stream.split(&first, 4);
    bed.put(0..100, 20);
    let a = bed.worker("a", options(), done());
    let b = bed.worker("b", options(), done());
    secs(15).await;
    assert_eq!((a.owned(), b.owned()), (2, 2));
    a.crash().await;
    let crashed = Instant::now();
    bed.put(100..200, 20);
    while b.owned() < 4 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(crashed.elapsed() < 2 * LENGTH, "took {:?}", crashed.elapsed());
    secs(1).await;
    bed.check_order(0..200);
    b.stop().await;
}

/// A blip of the table would have moved each shard, and repeated what had no checkpoint.
#[tokio::test(start_paused = true)]
async fn f19_a_short_outage_of_the_lease_table_moves_no_shard_and_repeats_no_change() {
    let bed = Bed::new();
    let a = bed.worker("a", options(), done());
    let b = bed.worker("b", options(), done());
    secs(3).await;
    for n in 0..10 {
        bed.put(n * 10..n * 10 + 10, 5);
        secs(2).await;
        bed.table.set_down(true);
        secs(4).await;
        bed.table.set_down(false);
        secs(4).await;
    }
    bed.check_order(0..100);
    assert_eq!(bed.values().len(), 100);
    let owner = &bed.seen()[0].worker;
    assert!(bed.seen().iter().all(|seen| seen.worker == *owner), "it changed hands");
    a.stop().await;
    b.stop().await;
}

/// A checkpoint of the old owner would have passed changes that the new one has not done.
#[tokio::test(start_paused = true)]
async fn f18_who_lost_its_lease_stops_reading_and_cannot_checkpoint() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    let a = bed.worker("a", options(), done());
    bed.put(0..10, 5);
    secs(3).await;
    let b = bed.worker("b", options(), done());
    a.network.set_down(true);
    let cut = Instant::now();
    while b.owned() == 0 {
        assert!(cut.elapsed() < 2 * LENGTH);
        bed.put(10..11, 1);
        sleep(Duration::from_millis(100)).await;
    }
    let taken = Instant::now();
    a.network.set_down(false);
    bed.put(100..200, 5);
    secs(60).await;
    let late = bed.seen().into_iter().filter(|seen| seen.worker == "a" && seen.at >= taken).count();
    assert_eq!(late, 0, "it went on with a shard that was not its own any more");
    assert_eq!(a.owned(), 0);
    assert_eq!(b.status(&shard).owner.as_deref(), Some("b"));
    bed.check_order(100..200);
    a.stop().await;
    b.stop().await;
}

/// Shards would have changed hands without end, and repeated what had no checkpoint each time.
#[tokio::test(start_paused = true)]
async fn f24_a_new_worker_gets_its_share_one_shard_after_another_and_then_nothing_moves() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    bed.stream.split(&first, 8);
    let a = bed.worker("a", options(), done());
    secs(5).await;
    assert_eq!(a.owned(), 8);
    let b = bed.worker("b", options(), done());
    let c = bed.worker("c", options(), done());
    for n in 0..60 {
        bed.put(n * 10..n * 10 + 10, 40);
        secs(1).await;
    }
    let mut counts = [a.owned(), b.owned(), c.owned()];
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3]);
    bed.check_order(0..600);
    assert_eq!(bed.values().len(), 600, "a hand-over repeats nothing: it is read out first");
    let owners = |bed: &Bed| bed.stream.open_shards().iter().map(|id| a.status(id).owner).collect::<Vec<_>>();
    let before = owners(&bed);
    secs(120).await;
    assert_eq!(owners(&bed), before);
    for worker in [a, b, c] {
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn three_workers_lose_one_and_gain_one_and_every_change_comes_in_order() {
    let bed = Bed::new();
    bed.stream.set_page(5);
    let first = bed.stream.open_shards().remove(0);
    let shards = bed.stream.split(&first, 4);
    let a = bed.worker("a", options(), done());
    let b = bed.worker("b", options(), done());
    let c = bed.worker("c", options(), done());
    bed.put(0..200, 30);
    secs(10).await;
    bed.stream.split(&shards[1], 2);
    bed.put(200..400, 30);
    b.crash().await;
    bed.put(400..600, 30);
    secs(5).await;
    bed.stream.split(&shards[3], 2);
    let d = bed.worker("d", options(), done());
    bed.put(600..800, 30);
    secs(30).await;
    bed.check_order(0..800);
    for worker in [a, c, d] {
        worker.stop().await;
    }
    assert!(bed.table.partition("consumers/t").iter().all(|item| item.get("token").is_none()), "nobody is left there");
}

/// What was nearly done would have been done again after each stop; or the process would have been killed in the
/// middle.
#[tokio::test(start_paused = true)]
async fn f36_a_stop_waits_for_verdicts_but_not_for_ever() {
    let bed = Bed::new();
    bed.put(0..10, 10);
    let late = Arc::new(|_: &crate::cloud::change_stream::Change, ack: crate::ack::Ack| {
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            ack.settle(Verdict::Done);
        });
    });
    let worker = bed.worker("a", options(), late);
    secs(2).await;
    let shard = bed.stream.open_shards().remove(0);
    assert_eq!(bed.item(&shard).unwrap().checkpoint, None);
    worker.begin_stop();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(worker.status(&shard).state, ShardState::Draining);
    let took = worker.stop().await;
    assert!(took < Duration::from_secs(5), "took {took:?}");
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)));

    let never = Arc::new(|_: &crate::cloud::change_stream::Change, ack: crate::ack::Ack| std::mem::forget(ack));
    let worker = bed.worker("a", options(), never);
    bed.put(10..20, 5);
    secs(2).await;
    let took = worker.stop().await;
    assert!(took >= options().drain && took < options().drain + Duration::from_secs(2), "took {took:?}");
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(110)), "what has no verdict is not checkpointed");
}

/// All shards of a table would have stood still because one item can't be read.
#[tokio::test(start_paused = true)]
async fn f32_an_item_that_cannot_be_read_holds_up_no_other_shard_and_is_named() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    let shards = bed.stream.split(&first, 4);
    for (shard, attribute) in [(&shards[0], "checkpoint"), (&shards[1], "token")] {
        bed.table.spoil(&bed.stream.arn(), &shard.0, attribute);
    }
    bed.put(0..100, 40);
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    let readable: usize = shards[2..].iter().map(|shard| bed.stream.records(&shard.0).len()).sum();
    assert!(readable > 0);
    assert_eq!(bed.values().len(), readable);
    assert!(worker.status(&shards[0]).reason.unwrap().contains("checkpoint"));
    assert!(worker.status(&shards[1]).reason.unwrap().contains("token"));
    assert!(worker.readiness().ready, "a person may be at it");
    secs(60).await;
    let readiness = worker.readiness();
    assert_eq!((readiness.ready, readiness.reasons.len()), (false, 2), "{readiness:?}");
    assert!(readiness.reasons[0].reason.contains("checkpoint"), "{readiness:?}");
    assert!(worker.status(&shards[0]).lag_secs >= Some(60));
    bed.table.remove(&bed.stream.arn(), &shards[0].0);
    bed.table.remove(&bed.stream.arn(), &shards[1].0);
    secs(10).await;
    bed.check_order(0..100);
    assert_eq!(worker.readiness().reasons, [], "all are read");
    worker.stop().await;
}

/// A service that can't take a single shard would have been called ready and without lag, until its changes are gone.
#[tokio::test(start_paused = true)]
async fn f32_f37_a_shard_that_cannot_be_taken_is_behind_and_makes_its_worker_unready() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    (0..1000).for_each(|_| bed.table.fail_next(&shard.0, Fault::Error));
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let worker = bed.worker("a", options(), done());
    secs(55).await;
    assert!(worker.readiness().ready);
    let lag = || metric(&recorder.handle().render(), "penstock_stream_lag_seconds").unwrap();
    assert!(lag() >= 50.0, "{} s", lag());
    secs(10).await;
    let status = worker.status(&shard);
    assert_eq!(status.state, ShardState::Stuck);
    assert!(status.reason.unwrap().contains("the fake is down"));
    assert!(!worker.readiness().ready);
    assert_eq!(metric(&recorder.handle().render(), "penstock_stream_shards_stuck_total"), Some(1.0));
    worker.stop().await;
}

/// The same, where nothing is known of any shard: no table of leases, or no listing.
#[tokio::test(start_paused = true)]
async fn f32_a_worker_that_cannot_look_at_shards_or_leases_is_not_ready_and_says_why() {
    for text in ["down", "aren't listed", "streams"] {
        let bed = Bed::new();
        match text {
            "down" => bed.table.set_down(true),
            "streams" => bed.stream.fail("streams", ErrorKind::Unavailable, 100_000),
            _ => bed.stream.fail("describe", ErrorKind::Throttled, 100_000),
        }
        let worker = bed.worker("a", options(), done());
        secs(55).await;
        assert!(worker.readiness().ready, "{text}");
        secs(30).await;
        let readiness = worker.readiness();
        assert!(!readiness.ready, "{text}");
        assert!(readiness.reasons[0].reason.contains(text), "{readiness:?}");
        assert_eq!(readiness.reasons[0].about, "all shards of t");
        worker.stop().await;
    }
}

/// A worker would have been taken out of service because others do the work.
#[tokio::test(start_paused = true)]
async fn f32_a_worker_without_shards_is_ready_while_others_read_them_and_their_parents() {
    let bed = Bed::new();
    let gate = Gate::default();
    bed.put(0..10, 5);
    let a = bed.worker("a", options(), gate.handler());
    secs(3).await;
    let b = bed.worker("b", options(), done());
    let first = bed.stream.open_shards().remove(0);
    let child = bed.stream.split(&first, 1).remove(0);
    secs(300).await;
    assert_eq!((a.owned(), b.owned()), (1, 0));
    assert_eq!(b.status(&first).state, ShardState::Elsewhere);
    assert_eq!(b.status(&child).state, ShardState::Waiting);
    assert_eq!(b.readiness().reasons, []);
    assert!(!a.readiness().ready, "its reader tells");
    gate.open();
    a.stop().await;
    b.stop().await;
}

/// A dead worker's shards would have been read by nobody for as long as streams can't be listed.
#[tokio::test(start_paused = true)]
async fn f32_shards_change_hands_while_streams_cannot_be_listed() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    bed.stream.split(&first, 4);
    let a = bed.worker("a", options(), done());
    let b = bed.worker("b", options(), done());
    secs(15).await;
    assert_eq!((a.owned(), b.owned()), (2, 2));
    bed.stream.fail("streams", crate::cloud::ErrorKind::Unavailable, 100_000);
    bed.stream.fail("describe", crate::cloud::ErrorKind::Throttled, 100_000);
    secs(120).await;
    a.crash().await;
    bed.put(0..100, 20);
    secs(2 * LENGTH.as_secs()).await;
    bed.check_order(0..100);
    b.stop().await;
}

/// A deploy that replaces every worker would have cost minutes in which nobody reads, until a new leader is found.
#[tokio::test(start_paused = true)]
async fn f21_when_all_workers_are_replaced_at_once_reading_goes_on_within_a_second() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    bed.stream.split(&first, 6);
    let old = ["a", "b", "c"].map(|name| bed.worker(name, options(), done()));
    secs(15).await;
    let new = ["d", "e", "f"].map(|name| bed.worker(name, options(), done()));
    secs(2).await;
    for worker in old {
        worker.stop().await;
    }
    let before = bed.values().len();
    bed.put(0..100, 40);
    let stopped = Instant::now();
    secs(5).await;
    bed.check_order(0..100);
    let slowest = bed.seen()[before..].iter().map(|seen| seen.at - stopped).max().unwrap();
    assert!(slowest < Duration::from_secs(1), "took {slowest:?}");
    for worker in new {
        worker.stop().await;
    }
}

/// Nobody else could have changed them, so that a table with one worker pays for a tenth of the readings, and for a quarter of
/// the looks for other workers; and a second worker gets its part no more than 2 s later.
#[tokio::test(start_paused = true)]
async fn who_is_alone_and_reads_everything_seldom_lists_the_leases() {
    let bed = Bed::new();
    let first = bed.stream.open_shards().remove(0);
    bed.stream.split(&first, 4);
    let listings = || bed.table.listings(&bed.stream.arn());
    let looks = || bed.table.listings("consumers/t");
    let a = bed.worker("a", options(), done());
    secs(10).await;
    let before = (listings(), looks());
    secs(60).await;
    let alone = (listings() - before.0, looks() - before.1);
    assert!((10..=14).contains(&alone.0), "{} listings a minute", alone.0);
    assert!((25..=38).contains(&alone.1), "{} looks for other workers a minute", alone.1);
    let before = listings();
    let b = bed.worker("b", options(), done());
    secs(4).await;
    let at_first = listings() - before;
    assert!(at_first >= 11, "{at_first} listings in the first 4 s: both list in each round after 2 s at most");
    secs(8).await;
    assert_eq!((a.owned(), b.owned()), (2, 2));
    let before = listings();
    secs(60).await;
    let together = listings() - before;
    assert!((220..=245).contains(&together), "{together} listings a minute");
    a.crash().await;
    secs(20).await;
    assert_eq!(b.owned(), 4, "what another left behind is taken though nobody else is there");
    b.stop().await;
}

/// What a process with the same name held before it died is watched and taken, as anyone's.
#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_under_its_own_name_is_not_alone_with_what_it_left() {
    let bed = Bed::new();
    bed.put(0..10, 5);
    let first = bed.worker("a", options(), done());
    secs(5).await;
    first.crash().await;
    let before = bed.table.listings(&bed.stream.arn());
    let again = bed.worker("a", options(), done());
    let began = Instant::now();
    while again.owned() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < LENGTH + Duration::from_secs(2), "took {:?}", began.elapsed());
    let listings = bed.table.listings(&bed.stream.arn()) - before;
    assert!(listings >= 15, "{listings} listings in {:?}", began.elapsed());
    bed.put(10..20, 5);
    secs(2).await;
    bed.check_order(0..20);
    again.stop().await;
}
