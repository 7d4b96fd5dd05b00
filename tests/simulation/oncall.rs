//! What the person on call does, while something is in the way of a part of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use penstock::oncall::redrive::{Outcome, Selection, Step};
use penstock_engine::cloud::{
    Cloud, CloudError, ErrorKind, Result, Table,
    table::{Condition, Key, Write},
    tap::{Answer, Call, Request, TappedCloud, Witness},
};
use penstock_operators::model::{FileState, shard_of};
use penstock_tests::simulation::{PREFIX, World, witness::TRACKING};

use super::simulate;

const DATE: &str = "2026-02-01";

/// Refuses the nth of these requests.
struct Refuses {
    which: fn(&Request<'_>) -> bool,
    nth: usize,
    seen: AtomicUsize,
}

#[async_trait]
impl Witness for Refuses {
    async fn before(&self, call: &Call<'_>) -> Result<()> {
        if (self.which)(&call.request) && self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.nth {
            return Err(CloudError::new(ErrorKind::Denied, call.to_string(), "refused on purpose"));
        }
        Ok(())
    }

    async fn after(&self, _call: &Call<'_>, _answer: &Answer) {}
}

fn refusing(world: &World, nth: usize, which: fn(&Request<'_>) -> bool) -> TappedCloud {
    let witness = Arc::new(Refuses { which, nth, seen: AtomicUsize::new(0) });
    TappedCloud::new(Arc::clone(world.cloud()) as Arc<dyn Cloud>, "person", witness)
}

fn count(steps: &[Step], outcome: Outcome) -> usize {
    steps.iter().filter(|step| step.outcome == outcome).count()
}

#[test]
fn i10_a_write_that_is_refused_is_told_with_its_file_and_the_others_are_told_as_done() {
    simulate(async {
        let world = World::new(7, None, &[]);
        for name in ["a", "b", "c"] {
            let object = format!("{PREFIX}{DATE}/{name}");
            let etag = world.cloud().memory_bucket("input").write(&object, "{}", Default::default());
            let bucket = world.cloud().memory_bucket("input").name();
            let failed = Write::put(Key::new(DATE, name), Default::default(), Condition::absent("file_key"))
                .set("status", FileState::Failed.status(shard_of(name)))
                .set("file_path", format!("s3://{bucket}/{object}"))
                .set("etag", etag);
            world.cloud().memory_table(TRACKING).write(&failed).await.unwrap();
        }
        let cloud = refusing(&world, 2, |request| matches!(request, Request::Write(_)));
        let of_date = Selection::Date { date: DATE.to_owned(), state: "failed".to_owned() };
        let steps = world.redrive_on(&cloud, of_date.clone(), false).await.unwrap();
        assert_eq!((count(&steps, Outcome::Redriven), count(&steps, Outcome::Left)), (2, 1), "{steps:?}");
        let left = steps.iter().find(|step| step.outcome == Outcome::Left).unwrap();
        assert!(left.because.contains("refused on purpose"), "{left:?}");
        // The one that is left is the one that is redriven the next time.
        let steps = world.redrive(of_date, false).await;
        assert_eq!((steps.len(), steps[0].what == left.what), (1, true), "{steps:?}");
    });
}

#[test]
fn i10_a_dead_letter_that_cannot_be_sent_is_told_and_shows_again_at_once() {
    type Which = fn(&Request<'_>) -> bool;
    let requests: [(&str, Which); 3] = [
        ("sent", |request| matches!(request, Request::Send(_))),
        ("deleted", |request| matches!(request, Request::Delete(_))),
        ("received", |request| matches!(request, Request::Receive)),
    ];
    for (what, which) in requests {
        simulate(async move {
            let world = World::new(7, None, &[]);
            for number in 0..3 {
                world.cloud().memory_queue("dlq").push(format!("{{\"Records\":[{number}]}}"), Duration::ZERO);
            }
            world.cloud().memory_queue("dlq").push("no JSON", Duration::ZERO);
            let cloud = refusing(&world, 2, which);
            let letters = Selection::Letters { queue: "dlq".to_owned() };
            let steps = world.redrive_on(&cloud, letters, false).await.unwrap();
            let redriven = count(&steps, Outcome::Redriven);
            assert_eq!(redriven, if what == "received" { 3 } else { 2 }, "{what}: {steps:?}");
            assert!(steps.iter().any(|step| step.because.contains("refused on purpose")), "{what}: {steps:?}");
            let dead = world.cloud().queue("dlq").await.unwrap();
            let shown = dead.receive(10, Duration::ZERO).await.unwrap();
            assert_eq!(shown.len(), 4 - redriven, "{what}: what is left must show again at once");
        });
    }
}
