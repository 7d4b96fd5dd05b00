//! Leases on a fake table and a paused clock.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde_dynamo::AttributeValue;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    cloud::table::Condition,
    simulation::{FakeTable, Fault, Network},
};

const LENGTH: Duration = Duration::from_secs(10);

fn host(table: &FakeTable, owner: &str) -> (Leases, Network) {
    let (table, network) = table.host();
    (Leases::new(table, owner, LeaseOptions { length: LENGTH, sole_process: false }), network)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn one(name: &str, value: &str) -> BTreeMap<String, AttributeValue> {
    BTreeMap::from([(name.to_owned(), AttributeValue::S(value.to_owned()))])
}

#[tokio::test(start_paused = true)]
async fn one_process_at_a_time_and_a_released_lease_is_free_at_once() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let lease = a.try_acquire("flush", "2026-02-01").await.unwrap().unwrap();
    assert!(lease.is_held());
    assert!(a.try_acquire("flush", "2026-02-01").await.unwrap().is_none(), "not even its own process gets it twice");
    for _ in 0..100 {
        sleep(secs(1)).await;
        assert!(
            b.try_acquire("flush", "2026-02-01").await.unwrap().is_none(),
            "it is renewed for as long as it is held"
        );
        assert!(lease.is_held());
    }
    lease.release().await;
    assert!(b.try_acquire("flush", "2026-02-01").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_item_goes_with_its_lease_unless_it_says_more() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    a.try_acquire("manifest", "m-1").await.unwrap().unwrap().release().await;
    assert_eq!(table.item("manifest", "m-1"), None);

    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    assert!(matches!(lease.update(one("checkpoint", "42"), Vec::new()).await, Ok(Outcome::Applied(_))));
    lease.release().await;
    let item = table.item("arn", "shard-1").unwrap();
    assert_eq!(item.get("checkpoint"), Some(&AttributeValue::S("42".into())));
    assert_eq!((item.get(TOKEN), item.get(OWNER)), (None, None));

    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    assert_eq!(lease.item().get("checkpoint"), Some(&AttributeValue::S("42".into())));
    lease.release().await;
    assert!(table.item("arn", "shard-1").is_some(), "what an earlier holder left stays too");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_is_given_back_in_the_background() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    drop(a.try_acquire("sweep", "sweep").await.unwrap().unwrap());
    drop(a);
    sleep(Duration::from_millis(1)).await;
    assert!(b.try_acquire("sweep", "sweep").await.unwrap().is_some());
}

/// After each deploy all work would have stood still until the leases of the old process had run out.
#[tokio::test(start_paused = true)]
async fn f20_release_all_frees_every_lease_at_shutdown() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let mut leases = Vec::new();
    for n in 0..40 {
        leases.push(a.try_acquire("arn", &format!("shard-{n}")).await.unwrap().unwrap());
    }
    a.release_all().await;
    assert!(leases.iter().all(|lease| !lease.is_held() && lease.lost().is_cancelled()));
    for listed in b.list("arn").await.unwrap() {
        assert_eq!(listed.state, LeaseState::Free, "{}", listed.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_holders_lease_is_taken_over_within_twice_its_length_and_never_before_it_expired() {
    let table = FakeTable::new();
    let (a, network) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    sleep(secs(60)).await;
    assert!(matches!(b.observe("arn", "shard-1").await.unwrap(), LeaseState::Held { .. }));
    network.set_down(true);
    let cut = Instant::now();
    let taken = loop {
        sleep(Duration::from_millis(100)).await;
        if let Some(taken) = b.try_acquire("arn", "shard-1").await.unwrap() {
            break taken;
        }
    };
    assert!(!lease.is_held() && lease.lost().is_cancelled(), "the holder stopped before anyone took over");
    assert!(cut.elapsed() < 2 * LENGTH, "took {:?}", cut.elapsed());
    assert_ne!(taken.token(), lease.token());
    network.set_down(false);
    sleep(secs(60)).await;
    assert!(taken.is_held(), "the old holder's release doesn't touch it");
    assert!(!lease.is_held());
}

/// A process that was stopped for longer than its lease would have written over the work of the next owner.
#[tokio::test(start_paused = true)]
async fn f18_who_lost_a_lease_cannot_write_under_it() {
    let table = FakeTable::new();
    let (a, network) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let old = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    assert!(matches!(old.update(one("checkpoint", "1"), Vec::new()).await, Ok(Outcome::Applied(_))));
    network.set_down(true);
    let new = loop {
        sleep(secs(1)).await;
        if let Some(lease) = b.try_acquire("arn", "shard-1").await.unwrap() {
            break lease;
        }
    };
    network.set_down(false);
    assert!(matches!(old.update(one("checkpoint", "2"), Vec::new()).await, Ok(Outcome::Refused(Some(_)))));
    assert!(matches!(new.update(one("checkpoint", "3"), Vec::new()).await, Ok(Outcome::Applied(_))));
    old.release().await;
    assert!(new.is_held());
    let item = table.item("arn", "shard-1").unwrap();
    assert_eq!(item.get("checkpoint"), Some(&AttributeValue::S("3".into())));
    assert_eq!(item.get(OWNER), Some(&AttributeValue::S("b".into())));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_finds_another_owner_ends_the_lease_before_the_next_renewal() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    table.remove("arn", "shard-1");
    assert!(matches!(lease.update(one("checkpoint", "1"), Vec::new()).await, Ok(Outcome::Refused(None))));
    assert!(!lease.is_held() && lease.lost().is_cancelled());
    assert_eq!(table.item("arn", "shard-1"), None, "a lease that was deleted by hand isn't made by a checkpoint (F25)");
}

/// A blip of the table would have moved every shard to another worker, and each would have been read again from its
/// checkpoint.
#[tokio::test(start_paused = true)]
async fn f19_a_short_outage_loses_no_lease() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    for _ in 0..5 {
        sleep(secs(20)).await;
        table.set_down(true);
        sleep(secs(5)).await;
        assert!(lease.is_held());
        table.set_down(false);
        sleep(secs(2)).await;
        assert!(b.try_acquire("arn", "shard-1").await.unwrap().is_none());
    }
    assert!(lease.is_held() && !lease.lost().is_cancelled());
}

/// A renewal that landed while its answer was lost would have counted as a lost lease.
#[tokio::test(start_paused = true)]
async fn f19_renewals_whose_answer_is_lost_are_read_again() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    let late = Fault::UnknownLandsAfter(Duration::from_millis(1200));
    let faults = [Fault::UnknownApplied, Fault::UnknownNotApplied, late, Fault::Error, Fault::Hangs];
    for fault in faults.into_iter().cycle().take(25) {
        table.fail_next("shard-1", fault);
        sleep(secs(7)).await;
        assert!(lease.is_held(), "lost by {fault:?}");
    }
    assert!(!lease.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_whose_answer_is_lost_is_read_again() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    table.fail_next("m-1", Fault::UnknownApplied);
    let lease = a.try_acquire("manifest", "m-1").await.unwrap().unwrap();
    sleep(secs(30)).await;
    assert!(lease.is_held());

    table.fail_next("m-2", Fault::UnknownNotApplied);
    assert!(a.try_acquire("manifest", "m-2").await.unwrap().is_none());
    assert!(a.try_acquire("manifest", "m-2").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_lands_late_is_dead_in_time_and_harms_no_later_one() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    table.fail_next("m-1", Fault::UnknownLandsAfter(secs(1)));
    assert!(a.try_acquire("manifest", "m-1").await.unwrap().is_none());
    let lease = b.try_acquire("manifest", "m-1").await.unwrap().unwrap();
    sleep(secs(2)).await;
    assert!(lease.is_held(), "the late write was refused");

    table.fail_next("m-2", Fault::UnknownLandsAfter(secs(1)));
    assert!(a.try_acquire("manifest", "m-2").await.unwrap().is_none());
    sleep(secs(2)).await;
    assert!(b.try_acquire("manifest", "m-2").await.unwrap().is_none());
    sleep(secs(10)).await;
    assert!(b.try_acquire("manifest", "m-2").await.unwrap().is_some());
}

/// A write that lands late would have set a checkpoint back, with nobody else involved.
#[tokio::test(start_paused = true)]
async fn f18_an_update_is_conditional_on_what_its_caller_says_too() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let lease = a.try_acquire("arn", "shard-1").await.unwrap().unwrap();
    let step = |from: Option<&str>, to: &str| {
        let seen = from.map(|from| AttributeValue::S(from.to_owned()));
        lease.update_if(Condition::as_read("checkpoint", seen.as_ref()), one("checkpoint", to), Vec::new())
    };
    table.fail_next("shard-1", Fault::UnknownLandsAfter(secs(1)));
    assert!(matches!(step(None, "1").await, Ok(Outcome::Unknown(_))));
    assert!(matches!(step(None, "2").await, Ok(Outcome::Applied(_))));
    sleep(secs(2)).await;
    let item = table.item("arn", "shard-1").unwrap();
    assert_eq!(item.get("checkpoint"), Some(&AttributeValue::S("2".into())), "the late checkpoint didn't set it back");
    table.fail_next("shard-1", Fault::UnknownApplied);
    assert!(matches!(step(Some("2"), "3").await, Ok(Outcome::Applied(_))), "a lost answer is read again");
    assert!(
        lease.update(one("token", "x"), Vec::new()).await.is_err(),
        "the lease's own attributes are not for writing"
    );
    assert!(lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_through_all_pages_and_names_what_it_cannot_read() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let mut leases = Vec::new();
    for n in 0..60 {
        leases.push(a.try_acquire("arn", &format!("shard-{n:02}")).await.unwrap().unwrap());
    }
    let listed = b.list("arn").await.unwrap();
    assert_eq!(listed.len(), 60);
    assert!(listed.iter().all(|lease| matches!(&lease.state, LeaseState::Held { owner, .. } if owner == "a")));
    let spoil = Write::update(Key::new("arn", "shard-07"), Condition::All(Vec::new())).remove(OWNER);
    let (direct, _) = table.host();
    direct.write(&spoil).await.unwrap();
    let listed = b.list("arn").await.unwrap();
    let unreadable = listed.iter().find_map(|lease| match &lease.state {
        LeaseState::Unreadable { reason } => Some(reason),
        _ => None,
    });
    assert!(unreadable.is_some_and(|reason| reason.contains("arn/shard-07") && reason.contains("owner")));
    assert_eq!(listed.iter().filter(|lease| matches!(lease.state, LeaseState::Held { .. })).count(), 59);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three hosts take, keep, lose and give back one lease under outages and ambiguous writes of any kind: there are
    /// never two that hold it at the same moment.
    #[test]
    fn never_two_holders(steps in prop::collection::vec((0_usize..3, 0_u8..10, 100_u64..4000), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let table = FakeTable::new();
            let hosts: Vec<_> = ["a", "b", "c"].iter().map(|owner| host(&table, owner)).collect();
            let mut leases: Vec<Option<Lease>> = vec![None, None, None];
            for (who, what, wait_ms) in steps {
                match what {
                    0..=3 => {
                        if let Ok(Some(lease)) = hosts[who].0.try_acquire("arn", "shard").await {
                            leases[who] = Some(lease);
                        }
                    }
                    4 => leases[who] = None,
                    5 => hosts[who].1.set_down(true),
                    6 => hosts[who].1.set_down(false),
                    7 => table.fail_next("shard", Fault::UnknownApplied),
                    8 => table.fail_next("shard", Fault::UnknownLandsAfter(Duration::from_millis(wait_ms))),
                    _ => table.fail_next("shard", Fault::Hangs),
                }
                for _ in 0..10 {
                    sleep(Duration::from_millis(wait_ms / 10)).await;
                    let holders = leases.iter().flatten().filter(|lease| lease.is_held()).count();
                    assert!(holders <= 1, "{holders} hold it");
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_sole_process_takes_what_its_dead_predecessor_held_at_once_and_nothing_of_its_own() {
    let store = FakeTable::new();
    let sole = |owner: &str| {
        let options = LeaseOptions { length: LENGTH, sole_process: true };
        Leases::new(store.host().0, owner, options)
    };
    let before = sole("first/fold").try_acquire("flush", "d").await.unwrap().unwrap();
    let (fold, sweep) = (sole("second/fold"), sole("second/sweep"));
    let now = fold.try_acquire("flush", "d").await.unwrap().expect("the first process has died");
    assert_ne!(before.token(), now.token());
    assert!(sweep.try_acquire("flush", "d").await.unwrap().is_none(), "another operator of this process has it");
}

/// A process whose work hangs would have kept its shard for ever: its renewals run beside the work.
#[tokio::test(start_paused = true)]
async fn f22_a_lease_whose_work_shows_no_life_any_more_is_renewed_no_more() {
    let table = FakeTable::new();
    let (a, _) = host(&table, "a");
    let (b, _) = host(&table, "b");
    let (quiet, alive, hung) = (
        a.try_acquire("arn", "quiet").await.unwrap().unwrap(),
        a.try_acquire("arn", "alive").await.unwrap().unwrap(),
        a.try_acquire("arn", "hung").await.unwrap().unwrap(),
    );
    hung.show_life();
    for _ in 0..90 {
        alive.show_life();
        sleep(secs(1)).await;
        b.observe("arn", "hung").await.unwrap();
    }
    assert!(quiet.is_held() && alive.is_held(), "who never showed life needn't, and who does keeps it");
    assert!(hung.lost().is_cancelled());
    assert!(b.try_acquire("arn", "hung").await.unwrap().is_some());
    alive.rest();
    sleep(secs(100)).await;
    assert!(alive.is_held(), "its work is over, and it is kept until it is given back");
}
