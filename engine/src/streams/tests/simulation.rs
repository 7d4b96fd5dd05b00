//! Workers that come, stop, crash and freeze; shards that split, roll over and are listed late; requests that fail, or land
//! late; changes that fail. Whatever happens, in whatever order: each change is done, those of an item in their order; no
//! checkpoint passes what isn't done (I5, I6); no write of a worker that lost its lease takes effect (I7).
//!
//! `PENSTOCK_SEEDS=5000 cargo test -p penstock-engine --lib simulation` runs so many; `PENSTOCK_SEED=17` runs that one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::TimeDelta;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::bed::LENGTH;
use crate::{
    ack::Verdict,
    cloud::{
        AttributeValue, ErrorKind, Item,
        change_stream::{Change, SequenceNumber},
        table::Condition,
        weaken::{WeakChangeStream, WeakTable, Weakness},
    },
    leases::{LeaseOptions, Leases, OWNER, TOKEN},
    simulation::{
        Dice, FakeQueue, FakeStream, FakeTable, Network, Simulation, find_failure, for_each_seed, sequence, value_of,
    },
    streams::{
        ChangeStreamOptions, Consumer, Delivery, assignment,
        frontier::Frontier,
        rules::Rules,
        shard_item::{CHECKPOINT, ShardItem, ShardStart},
    },
    time::Clock,
};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;

/// What a worker is made of that a simulation may spoil.
#[derive(Clone, Copy)]
struct Making {
    rules: Rules,
    fence: fn(&str) -> Condition,
    /// How likely it is at least that a write lands late.
    late: f64,
}

impl Default for Making {
    fn default() -> Self {
        Self { rules: Rules::default(), fence: |token| Condition::equals(TOKEN, token), late: 0.0 }
    }
}

struct World {
    dice: Dice,
    clock: Clock,
    making: Making,
    stream: FakeStream,
    table: FakeTable,
    queue: FakeQueue,
    weakness: Weakness,
    workers: Vec<Option<Worker>>,
    /// The owner that each host writes as.
    owners: BTreeMap<usize, String>,
    values: u64,
    done: Arc<Mutex<Done>>,
}

/// What was done, in its order.
#[derive(Default)]
struct Done {
    values: BTreeSet<u64>,
    /// The newest value of each key that was done for the first time.
    newest: BTreeMap<String, u64>,
    disorder: Option<String>,
}

impl Done {
    fn note(&mut self, change: &Change) {
        let (key, value) = (change.key.partition.clone(), value_of(change));
        if self.values.insert(value) {
            let before = self.newest.insert(key, value);
            if before.is_some_and(|before| before > value) {
                self.disorder.get_or_insert(format!("{value} was done after {before:?} of the same item"));
            }
        }
    }
}

struct Worker {
    consumer: Consumer,
    network: Network,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    fn new(mut simulation: Simulation, making: Making) -> Self {
        let rate = *simulation.dice.pick(&[0.0, 0.01, 0.05]);
        let weakness = Weakness {
            throttle: rate,
            fault_before: rate,
            fault_after: rate,
            late_write: making.late.max(rate),
            lost_write: rate,
            empty_page: 0.1,
            stale_listing: 0.1,
            expired_iterator: rate,
            lag: LENGTH * 2,
            ..Weakness::none()
        };
        let table = FakeTable::new();
        table.keep_writes();
        Self {
            clock: simulation.clock(TimeDelta::zero()),
            dice: simulation.dice,
            making,
            stream: FakeStream::new(),
            table,
            queue: FakeQueue::default(),
            weakness,
            workers: (0..3).map(|_| None).collect(),
            owners: BTreeMap::new(),
            values: 0,
            done: Arc::default(),
        }
    }

    fn options(&mut self) -> ChangeStreamOptions {
        ChangeStreamOptions {
            read_records: self.dice.number(1..=20) as usize,
            batch_records: self.dice.number(1..=20) as usize,
            batch_window: self.dice.time(Duration::from_millis(500)),
            parallel_batches: self.dice.number(1..=4) as usize,
            poll_min: Duration::from_millis(200),
            poll_max: Duration::from_secs(2),
            balance_every: Duration::from_secs(1),
            discover_every: Duration::from_secs(20),
            max_attempts: 20,
            ..ChangeStreamOptions::new("t")
        }
    }

    fn start(&mut self, slot: usize) {
        let (table, network) = self.table.host();
        let owner = format!("w{slot}-{}", network.number());
        self.owners.insert(network.number(), owner.clone());
        let table = Arc::new(WeakTable::new(table, BTreeMap::new(), self.weakness, self.dice.seed()));
        let stream = WeakChangeStream::new(Arc::new(self.stream.clone()), self.weakness, self.dice.seed());
        let leases = Leases::new(table, owner, LeaseOptions { length: LENGTH, sole_process: false });
        let leases = leases.with_fence(self.making.fence);
        let consumer = Consumer::builder(Arc::new(stream), leases, self.options())
            .clock(self.clock.clone())
            .dead_letter(Arc::new(self.queue.clone()))
            .rules(self.making.rules)
            .build()
            .unwrap();
        let (sender, pages) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let run = tokio::spawn({
            let (consumer, stop) = (consumer.clone(), stop.clone());
            async move { consumer.run(sender, stop).await }
        });
        let handle = tokio::spawn(handle(pages, self.dice.fork(), Arc::clone(&self.done)));
        self.workers[slot] = Some(Worker { consumer, network, stop, tasks: vec![run, handle] });
    }

    async fn step(&mut self) {
        let slot = self.dice.place(3);
        let open = self.stream.open_shards();
        let shard = self.dice.pick(&open).clone();
        match self.dice.number(0..=19) {
            0..=5 => self.put(),
            6 | 7 if open.len() < 6 => {
                // Changes that come just before a shard closes, and just after.
                self.put();
                self.stream.split(&shard, self.dice.number(1..=2) as u32);
                self.put();
            }
            8 => self.stream.hide(&shard, 1),
            9..=11 if self.workers[slot].is_none() => self.start(slot),
            9 => {
                if let Some(worker) = self.workers[slot].take() {
                    worker.network.set_down(false);
                    worker.stop().await;
                }
            }
            10 => {
                if let Some(worker) = self.workers[slot].take() {
                    worker.crash().await;
                }
            }
            12 => self.network(slot, |network| network.set_down(true)),
            13 => self.network(slot, |network| network.set_frozen(true)),
            14 => self.network(slot, |network| network.set_down(false)),
            15 => {
                let operation = *self.dice.pick(&["records", "iterator", "describe", "streams"]);
                let kind = *self.dice.pick(&[ErrorKind::Throttled, ErrorKind::Unavailable]);
                self.stream.fail(operation, kind, self.dice.number(1..=4) as usize);
            }
            16 if self.dice.chance(0.3) => {
                self.stream.enable();
            }
            _ => sleep(self.dice.time(LENGTH * 3 / 2)).await,
        }
        self.check();
    }

    fn network(&self, slot: usize, what: impl Fn(&Network)) {
        if let Some(worker) = &self.workers[slot] {
            what(&worker.network);
        }
    }

    fn put(&mut self) {
        for _ in 0..self.dice.number(1..=15) {
            self.stream.put(&format!("key-{}", self.dice.number(0..=9)), self.values);
            self.values += 1;
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let done = self.done.lock().unwrap();
        assert_eq!(done.disorder, None, "I6: the changes of an item were done out of order");
        for write in self.table.written() {
            let before = write.before.as_ref();
            let said = |item: Option<&Item>| item.map(|item| [CHECKPOINT, "ended"].map(|name| item.get(name).cloned()));
            let after = write.after.as_ref();
            if after.is_none() || said(before) == said(after) || said(after) == Some([None, None]) {
                continue;
            }
            let (owner, writer) = (before.and_then(|item| text(item, OWNER)), self.owners.get(&write.host));
            assert_eq!(
                owner.as_ref(),
                writer,
                "I7: {} of {} was written by another than its owner",
                CHECKPOINT,
                write.key.sort
            );
            let Some(checkpoint) = after.and_then(|item| text(item, CHECKPOINT)).map(SequenceNumber) else { continue };
            // A stream's sequence numbers count its changes, and a shard's checkpoint covers those of the shard alone.
            let covered =
                self.stream.records(&write.key.sort).into_iter().filter(|change| change.sequence <= checkpoint);
            for change in covered {
                let value = value_of(&change);
                assert!(done.values.contains(&value), "I5: checkpoint {checkpoint} passes {value}, which isn't done");
            }
        }
    }

    /// The faults end; then everything is caught up with, and every shard is in somebody's hands.
    async fn settle(&mut self) {
        self.workers.iter().flatten().for_each(|worker| worker.network.set_down(false));
        if self.workers.iter().all(Option::is_none) {
            self.start(0);
        }
        for _ in 0..400 {
            sleep(Duration::from_secs(2)).await;
            self.check();
            if self.done.lock().unwrap().values.len() as u64 == self.values && self.is_every_shard_owned() {
                return;
            }
        }
        let missing: Vec<_> = {
            let done = self.done.lock().unwrap();
            (0..self.values).filter(|value| !done.values.contains(value)).collect()
        };
        assert!(missing.is_empty(), "I1: never done: {missing:?}");
        panic!(
            "a shard has no owner: {:?}",
            self.workers.iter().flatten().map(|w| w.consumer.status()).collect::<Vec<_>>()
        );
    }

    fn is_every_shard_owned(&self) -> bool {
        let arn = self.stream.arn();
        let is_held = |shard: &String| self.table.item(&arn, shard).is_some_and(|item| item.get(TOKEN).is_some());
        self.stream.open_shards().iter().all(|shard| is_held(&shard.0))
    }
}

fn text(item: &Item, name: &str) -> Option<String> {
    match item.get(name) {
        Some(AttributeValue::S(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Does changes, some of them slowly, side by side, and some not at the first try.
async fn handle(mut pages: mpsc::Receiver<Vec<Delivery>>, mut dice: Dice, done: Arc<Mutex<Done>>) {
    while let Some(page) = pages.recv().await {
        let slow = dice.chance(0.2);
        for Delivery { change, ack } in page {
            let (fails, wait) = (dice.chance(0.05), dice.time(Duration::from_secs(2)));
            let done = Arc::clone(&done);
            let work = async move {
                if slow {
                    sleep(wait).await;
                }
                if fails {
                    ack.settle(Verdict::Retry("not now".to_owned()));
                } else {
                    done.lock().unwrap().note(&change);
                    ack.settle(Verdict::Done);
                }
            };
            if slow {
                tokio::spawn(work);
            } else {
                work.await;
            }
        }
    }
}

impl Worker {
    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    async fn crash(self) {
        self.network.set_down(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks {
            drop(task.await);
        }
    }
}

async fn scenario(simulation: Simulation, making: Making) {
    let mut world = World::new(simulation, making);
    world.start(0);
    for _ in 0..world.dice.number(10..=40) {
        world.step().await;
    }
    world.settle().await;
    assert!(world.queue.bodies().is_empty(), "nothing fails so often");
    // Slow work of a crashed worker may still be going on; everybody else has nothing left to do.
    for worker in world.workers.iter_mut().filter_map(Option::take) {
        worker.stop().await;
    }
    world.check();
}

#[test]
fn i1_i5_i6_i7_every_change_is_done_in_order_whatever_happens() {
    for_each_seed("streams", SEEDS, |simulation| scenario(simulation, Making::default()));
}

#[test]
fn a_seed_repeats_its_run_to_the_last_write() {
    let trace = |seed: u64| {
        let trace = Arc::new(Mutex::new(Vec::new()));
        let run = |simulation: Simulation| {
            let trace = Arc::clone(&trace);
            async move {
                if simulation.seed != seed {
                    return;
                }
                let mut world = World::new(simulation, Making::default());
                world.start(0);
                world.start(1);
                for _ in 0..25 {
                    world.step().await;
                    let items = world.table.partition(&world.stream.arn());
                    let texts: Vec<_> =
                        items.iter().map(|item| format!("{:?}", item.iter().collect::<BTreeMap<_, _>>())).collect();
                    trace.lock().unwrap().push((world.clock.now(), texts));
                }
            }
        };
        assert!(find_failure(seed + 1, run).is_none());
        Arc::try_unwrap(trace).unwrap().into_inner().unwrap()
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}

/// The first seed that finds what was planted, and what it says.
fn found(making: Making) -> String {
    let failure = find_failure(SEEDS, |simulation| scenario(simulation, making));
    let failure = failure.expect("no seed finds what was planted");
    println!("seed {} finds it: {}", failure.seed, failure.message);
    failure.message
}

fn planted(rules: Rules) -> String {
    found(Making { rules, ..Making::default() })
}

/// Up to 1,000 changes of each shard that rolls over would have been lost.
#[test]
fn f1_planted_dropping_the_last_page_of_a_closed_shard_is_found() {
    let page = |page: crate::cloud::change_stream::RecordPage| match page.next {
        None => (Vec::new(), None),
        next => (page.changes, next),
    };
    let message = planted(Rules { page, ..Rules::default() });
    assert!(message.contains("never done") || message.contains("isn't done"), "{message}");
}

/// Older images would have been written over newer ones.
#[test]
fn f2_planted_reading_a_child_before_its_parent_is_found() {
    let plan = |facts: &assignment::Facts<'_>| {
        let mut plan = assignment::plan(facts);
        plan.take.extend(plan.waiting.keys().cloned());
        plan
    };
    let message = planted(Rules { plan, ..Rules::default() });
    assert!(message.contains("out of order"), "{message}");
}

/// What was written to a child before it was found would have been lost at each rollover.
#[test]
fn f8_planted_latest_on_children_is_found() {
    let child = |parent: &crate::cloud::change_stream::ShardId| ShardItem {
        start: ShardStart::Latest,
        parents: vec![parent.clone()],
        ..ShardItem::default()
    };
    let message = planted(Rules { child, ..Rules::default() });
    assert!(message.contains("never done") || message.contains("isn't done"), "{message}");
}

/// A worker that was stopped for longer than its lease would have moved the checkpoint of the shard's new owner.
#[test]
fn f18_planted_committing_without_the_token_is_found() {
    let message = found(Making { fence: |_| Condition::All(Vec::new()), late: 0.3, ..Making::default() });
    assert!(message.contains("another than its owner"), "{message}");
}

/// What was still in work at a crash would have been lost.
#[test]
fn f30_planted_a_checkpoint_past_an_unacked_change_is_found() {
    let message = planted(Rules { checkpoint: Frontier::newest_acked, ..Rules::default() });
    assert!(message.contains("isn't done") || message.contains("never done"), "{message}");
}

#[test]
fn the_numbers_of_the_fake_go_up() {
    assert!(sequence(999) < sequence(1000));
}
