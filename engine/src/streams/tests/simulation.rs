//! Workers, crashes, outages, splits, rollovers and late listings in any interleaving: whatever happens, in the end every
//! change was handed on, and the first sight of each item's changes was in their order (I5, I6).

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;

use super::bed::{Bed, Worker, done, options, secs};
use crate::{
    cloud::ErrorKind,
    simulation::Fault,
    streams::{ChangeStreamOptions, OnTrimmed},
};

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Split(usize, u8),
    HideListing(usize),
    Start(usize),
    Stop(usize),
    Crash(usize),
    CutOff(usize, bool),
    Fail(&'static str, ErrorKind, usize),
    FailWrite(usize, Fault),
    Reenable,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![Just("records"), Just("iterator"), Just("describe"), Just("streams")];
    let kind = prop_oneof![Just(ErrorKind::Throttled), Just(ErrorKind::Unavailable), Just(ErrorKind::ExpiredIterator)];
    let fault = prop_oneof![
        Just(Fault::Error),
        Just(Fault::UnknownApplied),
        Just(Fault::UnknownNotApplied),
        (100_u64..3000).prop_map(|ms| Fault::UnknownLandsAfter(Duration::from_millis(ms))),
    ];
    prop_oneof![
        6 => (1_u8..30).prop_map(Step::Put),
        3 => (any::<usize>(), 1_u8..4).prop_map(|(shard, parts)| Step::Split(shard, parts)),
        1 => any::<usize>().prop_map(Step::HideListing),
        3 => (0_usize..3).prop_map(Step::Start),
        1 => (0_usize..3).prop_map(Step::Stop),
        1 => (0_usize..3).prop_map(Step::Crash),
        2 => (0_usize..3, any::<bool>()).prop_map(|(worker, down)| Step::CutOff(worker, down)),
        1 => (operation, kind, 1_usize..5).prop_map(|(operation, kind, times)| Step::Fail(operation, kind, times)),
        2 => (any::<usize>(), fault).prop_map(|(shard, fault)| Step::FailWrite(shard, fault)),
        1 => Just(Step::Reenable),
        6 => (1_u16..15_000).prop_map(Step::Wait),
    ]
}

struct Simulation {
    bed: Bed,
    workers: [Option<Worker>; 3],
    starts: u32,
    values: u64,
}

impl Simulation {
    fn start(&mut self, slot: usize) {
        if self.workers[slot].is_none() {
            self.starts += 1;
            let options = ChangeStreamOptions { on_trimmed: OnTrimmed::Stop, batch_records: 7, ..options() };
            self.workers[slot] = Some(self.bed.worker(&format!("w{slot}-{}", self.starts), options, done()));
        }
    }

    async fn take(&mut self, step: Step) {
        let bed = &self.bed;
        let open = bed.stream.open_shards();
        match step {
            Step::Put(count) => {
                bed.put(self.values..self.values + u64::from(count), 12);
                self.values += u64::from(count);
            }
            // Not without end: a shard has to have keys.
            Step::Split(shard, parts) if open.len() + usize::from(parts) <= 8 => {
                bed.stream.split(&open[shard % open.len()], u32::from(parts));
            }
            Step::HideListing(shard) => bed.stream.hide(&open[shard % open.len()], 1),
            Step::Start(slot) => self.start(slot),
            Step::Stop(slot) => {
                if let Some(worker) = self.workers[slot].take() {
                    worker.stop().await;
                }
            }
            Step::Crash(slot) => {
                if let Some(worker) = self.workers[slot].take() {
                    worker.crash().await;
                }
            }
            Step::CutOff(slot, down) => {
                if let Some(worker) = &self.workers[slot] {
                    worker.network.set_down(down);
                }
            }
            Step::Fail(operation, kind, times) => bed.stream.fail(operation, kind, times),
            Step::FailWrite(shard, fault) => bed.table.fail_next(&open[shard % open.len()].0, fault),
            Step::Reenable => {
                bed.stream.enable();
            }
            Step::Wait(ms) => sleep(Duration::from_millis(ms.into())).await,
            Step::Split(..) => {}
        }
    }
}

/// Few by default, for each takes half a second; `PROPTEST_CASES` says how many.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn i5_i6_every_change_comes_and_first_in_order(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut simulation = Simulation { bed: Bed::new(), workers: [None, None, None], starts: 0, values: 0 };
            for step in steps {
                simulation.take(step).await;
            }
            // After the faults stop, everything is caught up with.
            simulation.start(0);
            for worker in simulation.workers.iter().flatten() {
                worker.network.set_down(false);
            }
            secs(400).await;
            simulation.bed.check_order(0..simulation.values);
            for worker in simulation.workers.into_iter().flatten() {
                let stuck: Vec<_> = worker.consumer.status().into_iter().filter(|shard| shard.reason.is_some()).collect();
                assert!(stuck.is_empty(), "{stuck:?}");
                worker.stop().await;
            }
        });
    }
}
