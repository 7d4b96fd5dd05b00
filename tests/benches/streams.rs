//! The consumer of change streams under load: how fast it is, what idle shards cost, and whether it keeps its promises when
//! its processes are stopped, dropped and frozen.
//!
//! ```text
//! cargo bench -p penstock-tests --bench streams -- throughput
//! cargo bench -p penstock-tests --bench streams -- idle
//! cargo bench -p penstock-tests --bench streams -- soak --secs 300
//! ```
//!
//! Stream and table of leases are in memory, so that what is measured is the consumer and nothing else. With `worker` it is a
//! consumer of real tables, for `tests/aws/load.py`, which runs several of them as processes and sends them signals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::{Parser, Subcommand};
use penstock_engine::{
    ack::Verdict,
    cloud::{
        AttributeValue,
        aws::{AwsAccount, AwsOptions},
        change_stream::ShardId,
    },
    leases::{LeaseOptions, Leases, OWNER},
    simulation::{FakeStream, FakeTable, Network, value_of},
    streams::{ChangeStreamOptions, Common, Consumer, Delivery},
};
use rand::Rng;
use tokio::{runtime::Builder, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// Loads the consumer of change streams.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Changes a second on one core, from the stream to a sink that does nothing, with acks and checkpoints.
    Throughput {
        /// How many changes.
        #[arg(long, default_value_t = 2_000_000)]
        changes: u64,
        /// Over how many shards.
        #[arg(long, default_value_t = 8)]
        shards: u32,
        /// Over how many items.
        #[arg(long, default_value_t = 100_000)]
        items: u64,
    },
    /// CPU and memory of shards in which nothing happens.
    Idle {
        /// How many shards.
        #[arg(long, default_value_t = 1000)]
        shards: u32,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        secs: u64,
    },
    /// Three workers, rollovers, stops, drops and freezes at random; and what must hold all the same.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 300)]
        secs: u64,
        /// Changes a second.
        #[arg(long, default_value_t = 20_000)]
        rate: u64,
        /// Open shards.
        #[arg(long, default_value_t = 32)]
        shards: u32,
    },
    /// Consumes the streams of tables on AWS until SIGTERM, and notes each change in a file before it is acked.
    Worker {
        /// Its name among the others.
        #[arg(long)]
        name: String,
        /// The table of leases, whose keys are strings.
        #[arg(long)]
        leases: String,
        /// How long a lease lives, in seconds.
        #[arg(long)]
        lease_secs: u64,
        /// Where to note `nanoseconds table item value`.
        #[arg(long)]
        log: PathBuf,
        /// The tables.
        #[arg(required = true)]
        tables: Vec<String>,
    },
}

fn main() {
    match Arguments::parse().command {
        Command::Throughput { changes, shards, items } => throughput(changes, shards, items),
        Command::Idle { shards, secs } => idle(shards, secs),
        Command::Soak { secs, rate, shards } => soak(Duration::from_secs(secs), rate, shards),
        Command::Worker { name, leases, lease_secs, log, tables } => {
            Builder::new_multi_thread().enable_all().build().unwrap().block_on(worker(
                &name,
                &leases,
                Duration::from_secs(lease_secs),
                &log,
                &tables,
            ));
        }
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn split(stream: &FakeStream, shards: u32) {
    stream.set_listing_page(100);
    let first = stream.open_shards().remove(0);
    stream.split(&first, shards);
}

fn throughput(changes: u64, shards: u32, items: u64) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (took, used, checkpointed) = runtime.block_on(async {
        let (stream, table) = (FakeStream::new(), FakeTable::new());
        split(&stream, shards);
        (0..changes).for_each(|value| stream.put(&format!("item-{}", value % items), value));
        let leases = Leases::new(table.host().0, "worker", LeaseOptions::default());
        let consumer =
            Consumer::builder(Arc::new(stream.clone()), leases, ChangeStreamOptions::new("t")).build().unwrap();
        let (sender, mut pages) = mpsc::channel::<Vec<Delivery>>(2);
        let stop = CancellationToken::new();
        let sink = async {
            let (mut done, mut began) = (0, None);
            while let Some(page) = pages.recv().await {
                let began = began.get_or_insert_with(|| (Instant::now(), cpu()));
                done += page.len() as u64;
                page.into_iter().for_each(|delivery| delivery.ack.settle(Verdict::Done));
                if done == changes {
                    let took = (began.0.elapsed(), cpu() - began.1);
                    stop.cancel();
                    return took;
                }
            }
            panic!("only {done} of {changes} changes came");
        };
        let ((took, used), ()) = tokio::join!(sink, consumer.run(sender, stop.clone()));
        let items = table.partition(&stream.arn());
        (took, used, items.iter().filter(|item| item.get("checkpoint").is_some()).count())
    });
    println!(
        "{changes} changes of {items} items in {shards} shards: {:.2} s, {:.0} changes/s; {:.2} s of CPU, so {:.0} changes/s of a \
         core; {checkpointed} shards checkpointed",
        took.as_secs_f64(),
        changes as f64 / took.as_secs_f64(),
        used.as_secs_f64(),
        changes as f64 / used.as_secs_f64(),
    );
}

fn idle(shards: u32, secs: u64) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (stream, table) = (FakeStream::new(), FakeTable::new());
        split(&stream, shards);
        let before = resident();
        let leases = Leases::new(table.host().0, "worker", LeaseOptions::default());
        let consumer =
            Consumer::builder(Arc::new(stream.clone()), leases, ChangeStreamOptions::new("t")).build().unwrap();
        let (sender, _pages) = mpsc::channel::<Vec<Delivery>>(2);
        let stop = CancellationToken::new();
        let measure = async {
            while consumer.status().iter().filter(|status| status.still_for_secs.is_some()).count() < shards as usize {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (began, used, reads) = (Instant::now(), cpu(), stream.calls("records"));
            tokio::time::sleep(Duration::from_secs(secs)).await;
            let (took, used) = (began.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
            let memory = resident().saturating_sub(before);
            println!(
                "{shards} idle shards: {:.1} % of a core, {:.0} reads/s, {:.1} KB of memory for each (fakes included)",
                100.0 * used / took,
                (stream.calls("records") - reads) as f64 / took,
                memory as f64 / 1e3 / f64::from(shards),
            );
            stop.cancel();
        };
        tokio::join!(measure, consumer.run(sender, stop.clone()));
    });
}

const LEASE: Duration = Duration::from_secs(3);

/// What the sinks of all workers saw.
#[derive(Default)]
struct Seen {
    /// The newest value of each item that was done for the first time, and when it was done.
    newest: HashMap<String, u64>,
    done: Vec<bool>,
    first: u64,
    again: u64,
    /// Repetitions with no fault before them.
    unexcused: u64,
    last_fault: Option<Instant>,
}

impl Seen {
    fn note(&mut self, key: &str, value: u64) {
        let place = value as usize;
        if self.done.len() <= place {
            self.done.resize(place + 1, false);
        }
        if self.done[place] {
            self.again += 1;
            let excused = self.last_fault.is_some_and(|fault| fault.elapsed() < LEASE * 6);
            self.unexcused += u64::from(!excused);
            return;
        }
        self.done[place] = true;
        self.first += 1;
        match self.newest.get_mut(key) {
            Some(newest) => {
                assert!(*newest < value, "{value} of {key} was done after {newest}");
                *newest = value;
            }
            None => {
                self.newest.insert(key.to_owned(), value);
            }
        }
    }
}

/// A worker on a thread of its own, which can be frozen like a process.
struct Process {
    name: String,
    network: Network,
    stop: CancellationToken,
    freeze: Arc<AtomicU64>,
    /// Told to end without a word.
    drop: CancellationToken,
    thread: thread::JoinHandle<()>,
}

impl Process {
    fn start(number: u32, stream: &FakeStream, table: &FakeTable, seen: &Arc<Mutex<Seen>>) -> Self {
        let (table, network) = table.host();
        let (name, stream, seen) = (format!("worker-{number}"), stream.clone(), Arc::clone(seen));
        let (stop, drop, freeze) = (CancellationToken::new(), CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (name, stop, drop, freeze) = (name.clone(), stop.clone(), drop.clone(), Arc::clone(&freeze));
            move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    // Everything of this worker runs on this thread: while it sleeps, the worker is frozen.
                    tokio::spawn(async move {
                        loop {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            thread::sleep(Duration::from_millis(freeze.swap(0, Ordering::SeqCst)));
                        }
                    });
                    let leases = Leases::new(table, name, LeaseOptions { length: LEASE, sole_process: false });
                    let options = ChangeStreamOptions { lease_length: LEASE, ..ChangeStreamOptions::new("t") };
                    let consumer = Consumer::builder(Arc::new(stream), leases, options).build().unwrap();
                    let (sender, mut pages) = mpsc::channel::<Vec<Delivery>>(2);
                    let sink = async {
                        while let Some(page) = pages.recv().await {
                            let mut seen = seen.lock().unwrap();
                            for delivery in page {
                                let change = &delivery.change;
                                seen.note(&change.key.partition, value_of(change));
                                delivery.ack.settle(Verdict::Done);
                            }
                        }
                    };
                    tokio::select! {
                        _ = async { tokio::join!(sink, consumer.run(sender, stop)) } => {}
                        () = drop.cancelled() => {}
                    }
                });
                runtime.shutdown_background();
            }
        });
        Self { name, network, stop, freeze, drop, thread }
    }
}

/// Who holds which open shard.
fn owners(stream: &FakeStream, table: &FakeTable) -> BTreeMap<ShardId, Option<String>> {
    let arn = stream.arn();
    let owner = |shard: &ShardId| match table.item(&arn, &shard.0)?.get(OWNER)? {
        AttributeValue::S(owner) => Some(owner.clone()),
        _ => None,
    };
    stream.open_shards().into_iter().map(|shard| (shard.clone(), owner(&shard))).collect()
}

/// How long until none of the open shards is this worker's, or nobody's.
fn takeover(name: &str, stream: &FakeStream, table: &FakeTable) -> Duration {
    let began = Instant::now();
    let is_left = |owner: &Option<String>| owner.as_deref().is_none_or(|owner| owner == name);
    // A shard that has only just been made is on its way, and no measure.
    let watched: Vec<ShardId> = owners(stream, table)
        .into_iter()
        .filter(|(_, owner)| owner.as_deref() == Some(name))
        .map(|(id, _)| id)
        .collect();
    loop {
        let now = owners(stream, table);
        if !watched.iter().any(|shard| now.get(shard).is_some_and(is_left)) {
            return began.elapsed();
        }
        assert!(began.elapsed() < LEASE * 20, "{name}'s shards are taken by nobody: {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn soak(length: Duration, rate: u64, shards: u32) {
    let (stream, table, seen) = (FakeStream::new(), FakeTable::new(), Arc::new(Mutex::new(Seen::default())));
    split(&stream, shards);
    let mut processes: Vec<Process> = (0..3).map(|number| Process::start(number, &stream, &table, &seen)).collect();
    let (offered, over) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let offering = thread::spawn({
        let (stream, offered, over) = (stream.clone(), Arc::clone(&offered), over.clone());
        move || offer(&stream, rate, &offered, &over)
    });
    let rolling = thread::spawn({
        let (stream, table, over) = (stream.clone(), table.clone(), over.clone());
        move || roll(&stream, &table, &over)
    });
    thread::sleep(LEASE * 2);
    let (began, mut rng, mut number) = (Instant::now(), rand::rng(), 3);
    let (mut stops, mut crashes, mut freezes) = (Vec::new(), Vec::new(), 0);
    while began.elapsed() < length {
        let chosen = rng.random_range(0..processes.len());
        match rng.random_range(0..3) {
            0 => {
                let process = processes.remove(chosen);
                process.stop.cancel();
                process.thread.join().unwrap();
                stops.push(takeover(&process.name, &stream, &table));
            }
            1 => {
                let process = processes.remove(chosen);
                seen.lock().unwrap().last_fault = Some(Instant::now());
                process.network.set_down(true);
                process.drop.cancel();
                process.thread.join().unwrap();
                crashes.push(takeover(&process.name, &stream, &table));
            }
            _ => {
                let millis = LEASE.as_millis() as u64 * rng.random_range(10..30) / 10;
                seen.lock().unwrap().last_fault = Some(Instant::now());
                processes[chosen].freeze.store(millis, Ordering::SeqCst);
                freezes += 1;
                thread::sleep(Duration::from_millis(millis));
                seen.lock().unwrap().last_fault = Some(Instant::now());
            }
        }
        while processes.len() < 3 {
            processes.push(Process::start(number, &stream, &table, &seen));
            number += 1;
        }
        thread::sleep(Duration::from_millis(rng.random_range(500..4000)));
    }
    over.cancel();
    offering.join().unwrap();
    let rollovers = rolling.join().unwrap();
    let offered = offered.load(Ordering::SeqCst);
    let until = Instant::now() + LEASE * 20;
    while seen.lock().unwrap().first < offered {
        assert!(
            Instant::now() < until,
            "{} of {offered} changes were never done",
            offered - seen.lock().unwrap().first
        );
        thread::sleep(Duration::from_millis(50));
    }
    for process in processes {
        process.stop.cancel();
        process.thread.join().unwrap();
    }
    let seen = seen.lock().unwrap();
    let worst = |times: &[Duration]| times.iter().max().copied().unwrap_or_default().as_secs_f64();
    println!(
        "{offered} changes in {:.0} s, {rollovers} rollovers, {} stops, {} drops, {freezes} freezes: none lost, each item in \
         order; {} came again, {} of them without a fault before",
        began.elapsed().as_secs_f64(),
        stops.len(),
        crashes.len(),
        seen.again,
        seen.unexcused,
    );
    println!(
        "takeover: at worst {:.2} s after a stop, {:.2} s after a drop; the lease lives for {} s",
        worst(&stops),
        worst(&crashes),
        LEASE.as_secs()
    );
    assert_eq!(seen.unexcused, 0, "changes came again though nothing had failed");
    assert!(worst(&stops) < 1.0, "a stop was followed by a slow takeover");
    assert!(worst(&crashes) < 2.0 * LEASE.as_secs_f64(), "a drop was followed by a slow takeover");
}

/// Offers changes at a steady rate.
fn offer(stream: &FakeStream, rate: u64, offered: &AtomicU64, over: &CancellationToken) {
    let began = Instant::now();
    let mut value = 0;
    while !over.is_cancelled() {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while value < due {
            stream.put(&format!("item-{}", value % 5003), value);
            value += 1;
        }
        offered.store(value, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Rolls a shard over again and again, so that each is some seconds old; and trims away what was read to its end.
fn roll(stream: &FakeStream, table: &FakeTable, over: &CancellationToken) -> u64 {
    let (mut rng, mut rollovers) = (rand::rng(), 0);
    while !over.is_cancelled() {
        let open = stream.open_shards();
        stream.split(&open[rng.random_range(0..open.len())], 1);
        rollovers += 1;
        for item in table.partition(&stream.arn()) {
            if let (Some(_), Some(AttributeValue::S(shard))) = (item.get("ended"), item.get("id")) {
                stream.forget(&ShardId(shard.clone()));
            }
        }
        thread::sleep(Duration::from_millis(300));
    }
    rollovers
}

async fn worker(name: &str, leases: &str, lease_length: Duration, log: &Path, tables: &[String]) {
    let account = AwsAccount::connect(&AwsOptions::default()).await;
    let options = LeaseOptions { length: lease_length, sole_process: false };
    let leases = Leases::new(account.table(leases).await.unwrap(), name, options);
    let (stop, common) = (CancellationToken::new(), Common::default());
    let mut running = tokio::task::JoinSet::new();
    for table in tables {
        let stream = account.change_stream(table).await.unwrap();
        let options = ChangeStreamOptions { lease_length, ..ChangeStreamOptions::new(table) };
        let consumer = Consumer::builder(stream, leases.clone(), options).common(common.clone()).build().unwrap();
        let mut log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let (sender, mut pages) = mpsc::channel::<Vec<Delivery>>(2);
        let (stop, table) = (stop.clone(), table.clone());
        running.spawn(async move {
            let sink = async {
                while let Some(page) = pages.recv().await {
                    let mut lines = String::new();
                    for Delivery { change, .. } in &page {
                        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
                        writeln!(lines, "{at} {table} {} {}", change.key.partition, value_of(change)).unwrap();
                    }
                    // One write: a kill leaves the page noted as a whole or not at all.
                    log.write_all(lines.as_bytes()).unwrap();
                    page.into_iter().for_each(|delivery| delivery.ack.settle(Verdict::Done));
                }
            };
            tokio::join!(sink, consumer.run(sender, stop));
        });
    }
    println!("started");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    terminate.recv().await;
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}
