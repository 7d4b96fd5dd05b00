//! Graphs of small operators: verdicts, retries, containment, order of the stop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    ack::{Ack, Verdict},
    cloud::{Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Queue, Table, resources::Naming},
    graph::{Build, Input, Retry, Role, Running, Use},
    operator::{Body, Kind, MAIN_OUTPUT, Operator, Source},
    streams::Common,
    time::Clock,
};

/// What the operators of one test did, and what they are to do wrong.
#[derive(Default)]
struct World {
    /// Verdicts on the source's records, by their number.
    verdicts: Mutex<BTreeMap<u64, Verdict>>,
    /// Values that sinks have taken, by sink.
    taken: Mutex<BTreeMap<String, Vec<u64>>>,
    /// How often each sink was built.
    built: AtomicUsize,
    /// Tries of the value that fails or panics.
    tries: AtomicUsize,
    /// How many values the source emits.
    values: u64,
    /// How a sink called `faulty` treats the value 3.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    FailTwice,
    FailForEver,
    Refuse,
    PanicOnce,
    Hang,
}

type Worlds = Mutex<BTreeMap<u64, Arc<World>>>;

fn worlds() -> &'static Worlds {
    static WORLDS: std::sync::OnceLock<Worlds> = std::sync::OnceLock::new();
    WORLDS.get_or_init(Worlds::default)
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct CountTo {
    world: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Take {
    world: u64,
}

fn world(id: u64) -> Arc<World> {
    Arc::clone(&worlds().lock().unwrap()[&id])
}

#[async_trait]
impl Build for CountTo {
    const NAME: &'static str = "count_to";
    const ABOUT: &'static str = "Emits numbers.";
    const ROLE: Role = Role::Source;

    fn input() -> Option<Kind> {
        None
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Value("number"))]
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    async fn build(self, _: Context) -> Result<Built, OperatorError> {
        Ok(Built::Source(Box::new(Counter(world(self.world)))))
    }
}

struct Counter(Arc<World>);

#[async_trait]
impl Source for Counter {
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError> {
        let (sender, mut verdicts) = mpsc::unbounded_channel();
        for number in 0..self.0.values {
            out.emit_to(MAIN_OUTPUT, Body::Value(Arc::new(json!(number))), Ack::new(number, sender.clone())).await;
        }
        out.flush().await;
        drop(sender);
        while let Some((number, verdict)) = verdicts.recv().await {
            self.0.verdicts.lock().unwrap().insert(number, verdict);
        }
        stop.cancelled().await;
        Ok(())
    }
}

#[async_trait]
impl Build for Take {
    const NAME: &'static str = "take";
    const ABOUT: &'static str = "Takes numbers.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Value("number"))
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let world = world(self.world);
        world.built.fetch_add(1, Ordering::SeqCst);
        Ok(Built::Operator(Box::new(Taker { world, id: context.id })))
    }
}

struct Taker {
    world: Arc<World>,
    id: String,
}

#[async_trait]
impl Operator for Taker {
    async fn on_record(&mut self, record: &Record, _: &mut Outputs) -> Result<(), OperatorError> {
        let Body::Value(value) = &record.body else { panic!("not a value") };
        let number = value.as_u64().unwrap();
        if self.id == "faulty" && number == 3 {
            let tries = self.world.tries.fetch_add(1, Ordering::SeqCst) + 1;
            match self.world.fault {
                Some(Fault::FailTwice) if tries <= 2 => return Err(OperatorError::transient("not yet")),
                Some(Fault::FailForEver) => return Err(OperatorError::transient("never")),
                Some(Fault::Refuse) => return Err(OperatorError::permanent("can't be right")),
                Some(Fault::PanicOnce) if tries == 1 => panic!("on purpose"),
                Some(Fault::Hang) => std::future::pending().await,
                _ => {}
            }
        }
        self.world.taken.lock().unwrap().entry(self.id.clone()).or_default().push(number);
        Ok(())
    }

    async fn on_command(&mut self, command: &Command) -> Result<Value, OperatorError> {
        Ok(json!({ "heard": command.name }))
    }
}

/// A cloud that has nothing: these operators need none.
struct Nothing;

fn nothing<T>() -> Result<T, CloudError> {
    Err(CloudError::new(ErrorKind::NotFound, "look", "there is nothing"))
}

#[async_trait]
impl Cloud for Nothing {
    async fn table(&self, _: &str) -> Result<Arc<dyn Table>, CloudError> {
        nothing()
    }

    async fn change_stream(&self, _: &str) -> Result<Arc<dyn ChangeStream>, CloudError> {
        nothing()
    }

    async fn queue(&self, _: &str) -> Result<Arc<dyn Queue>, CloudError> {
        nothing()
    }

    async fn event_bus(&self, _: &str) -> Result<Arc<dyn EventBus>, CloudError> {
        nothing()
    }

    async fn bucket(&self, _: &str) -> Result<Bucket, CloudError> {
        nothing()
    }
}

/// Runs `numbers → plain, faulty` until every number has its verdict.
async fn run(values: u64, fault: Option<Fault>) -> (Arc<World>, Service) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let id = NEXT.fetch_add(1, Ordering::SeqCst) as u64;
    let world = Arc::new(World { values, fault, ..World::default() });
    worlds().lock().unwrap().insert(id, Arc::clone(&world));
    let node = |name: &str, type_name: &str, inputs: Vec<Input>| Node {
        id: name.to_owned(),
        type_name: type_name.to_owned(),
        inputs,
        options: json!({ "world": id }),
        running: Running { retry: Retry { max_attempts: 4, ..Retry::default() }, ..Running::default() },
    };
    let from_numbers = || vec![Input::parse("numbers")];
    let graph = Graph {
        nodes: vec![
            node("numbers", "count_to", Vec::new()),
            node("plain", "take", from_numbers()),
            node("faulty", "take", from_numbers()),
        ],
    };
    let mut registry = Registry::default();
    registry.add::<CountTo>().add::<Take>();
    let context = Context {
        id: String::new(),
        naming: Naming { pipeline: "p".to_owned(), env: "e".to_owned(), account: "a".to_owned() },
        cloud: Arc::new(Nothing),
        clock: Clock::system(),
        worker: "w".to_owned(),
        sole_process: true,
        streams: Common::default(),
        stop: CancellationToken::new(),
    };
    let service = Service::start(&graph, Arc::new(registry), context).await.unwrap();
    (world, service)
}

/// Lets paused time run until `holds`.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that");
}

async fn all_settled(world: &World) {
    until(|| world.verdicts.lock().unwrap().len() as u64 == world.values).await;
}

#[tokio::test(start_paused = true)]
async fn every_record_reaches_every_reader_in_order_and_gets_one_verdict() {
    let (world, service) = run(2000, None).await;
    all_settled(&world).await;
    assert!(service.stop(Duration::from_secs(5)).await);
    let numbers: Vec<u64> = (0..2000).collect();
    let taken = world.taken.lock().unwrap();
    assert_eq!((&taken["plain"], &taken["faulty"]), (&numbers, &numbers));
    assert!(world.verdicts.lock().unwrap().values().all(|verdict| *verdict == Verdict::Done));
}

#[tokio::test(start_paused = true)]
async fn a_failed_record_is_tried_again_alone() {
    let (world, service) = run(10, Some(Fault::FailTwice)).await;
    all_settled(&world).await;
    assert!(service.stop(Duration::from_secs(5)).await);
    assert_eq!(world.tries.load(Ordering::SeqCst), 3);
    assert_eq!(world.taken.lock().unwrap()["faulty"].len(), 10, "the others were not taken twice");
    assert!(world.verdicts.lock().unwrap().values().all(|verdict| *verdict == Verdict::Done));
}

#[tokio::test(start_paused = true)]
async fn what_one_reader_gives_up_is_no_success_of_the_others() {
    for (fault, verdict) in [
        (Fault::FailForEver, Verdict::Retry("never".to_owned())),
        (Fault::Refuse, Verdict::Dead("can't be right".to_owned())),
    ] {
        let (world, service) = run(10, Some(fault)).await;
        all_settled(&world).await;
        let states = service.states();
        assert!(matches!(states.snapshot()["faulty"], State::Failing { .. }));
        assert!(service.stop(Duration::from_secs(5)).await);
        let verdicts = world.verdicts.lock().unwrap();
        assert_eq!(verdicts[&3], verdict, "plain took it, faulty did not");
        assert_eq!(verdicts.values().filter(|verdict| **verdict == Verdict::Done).count(), 9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_contained_and_the_operator_built_anew() {
    let (world, service) = run(10, Some(Fault::PanicOnce)).await;
    all_settled(&world).await;
    assert!(service.stop(Duration::from_secs(5)).await);
    assert_eq!(world.built.load(Ordering::SeqCst), 3, "two sinks, and one of them again");
    assert!(world.verdicts.lock().unwrap().values().all(|verdict| *verdict == Verdict::Done));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_too_long_drops_what_hangs_and_its_records_have_no_good_verdict() {
    let (world, service) = run(10, Some(Fault::Hang)).await;
    until(|| world.tries.load(Ordering::SeqCst) > 0).await;
    assert!(!service.stop(Duration::from_secs(5)).await);
    let verdicts = world.verdicts.lock().unwrap();
    assert!(verdicts.get(&3).is_none_or(|verdict| *verdict != Verdict::Done));
}

#[tokio::test(start_paused = true)]
async fn commands_reach_their_operator_and_unknown_ones_are_told() {
    let (_, service) = run(1, None).await;
    let command = Command { name: "flush".to_owned(), arguments: Value::Null };
    assert_eq!(service.command("plain", command.clone()).await.unwrap(), json!({ "heard": "flush" }));
    let error = service.command("plane", command).await.unwrap_err().to_string();
    assert_eq!(error, "there is no operator `plane` here; there are: faulty, numbers, plain");
    assert!(service.stop(Duration::from_secs(5)).await);
}
