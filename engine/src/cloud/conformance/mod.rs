//! What any implementation of the seam owes, as suites that anyone can run against theirs.
//!
//! Each behaviour is a small function of its own against the traits only; each `run_all` runs a trait's. The suites
//! make names of their own, so they can run again on the same resources, and they assume no more than the contract:
//! what may be stale is polled for a bounded time. They panic where a behaviour is not as owed.
//!
//! [`resources`] declares what they need: the local cloud makes it when it is opened with it; elsewhere make the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a suite fails by panicking")]

pub mod change_stream;
pub mod event_bus;
pub mod queue;
pub mod stage;
pub mod table;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Cloud,
    resources::{BusSpec, DeadLetterSpec, IndexSpec, KeyType, QueueSpec, Resources, RuleSpec, TableSpec, TargetSpec},
};
pub use change_stream::StreamControl;

/// The table with string keys, an index and a stream.
pub const ITEMS: &str = "items";
/// The table with a numeric sort key.
pub const NUMBERS: &str = "numbers";
/// The index of [`ITEMS`]: by `color`, then `shape`.
pub const INDEX: &str = "color-index";
/// The queue whose messages become dead letters after two receives.
pub const WORK: &str = "work";
/// The queue of dead letters.
pub const DEAD: &str = "work-dead";
/// The queue that a rule of [`BUS`] feeds.
pub const EVENTS: &str = "events";
/// The bus.
pub const BUS: &str = "bus";
/// The source of the events that the bus's rule takes.
pub const SOURCE: &str = "penstock.conformance";

/// What the suites need.
pub fn resources() -> Resources {
    let table = |sort_type| TableSpec {
        name: None,
        partition_key: "pk".into(),
        sort_key: "sk".into(),
        sort_type,
        indexes: Default::default(),
        ttl: Some("expires".into()),
        stream: true,
    };
    let mut items = table(KeyType::String);
    items.indexes.insert(INDEX.into(), IndexSpec { hash: "color".into(), range: "shape".into() });
    let numbers = TableSpec { stream: false, ttl: None, ..table(KeyType::Number) };
    let mut resources = Resources::default();
    resources.tables.extend([(ITEMS.into(), items), (NUMBERS.into(), numbers)]);
    let dead_letter = Some(DeadLetterSpec { queue: DEAD.into(), max_receives: 2 });
    resources.queues.extend([
        (WORK.into(), QueueSpec { dead_letter, ..QueueSpec::default() }),
        (DEAD.into(), QueueSpec::default()),
        (EVENTS.into(), QueueSpec::default()),
    ]);
    let rule = RuleSpec {
        pattern: json!({ "source": [SOURCE], "detail": { "wanted": [true] } }),
        targets: vec![TargetSpec::Queue(EVENTS.into())],
    };
    resources.buses.insert(BUS.into(), BusSpec { rules: [("wanted".to_owned(), rule)].into() });
    resources
}

/// Runs all suites against a cloud that has [`resources`].
pub async fn run_all(cloud: &dyn Cloud, control: Option<&dyn StreamControl>) {
    let items = cloud.table(ITEMS).await.unwrap();
    table::run_all(&*items).await;
    table::run_all_numeric(&*cloud.table(NUMBERS).await.unwrap()).await;
    let stream = cloud.change_stream(ITEMS).await.unwrap();
    change_stream::run_all(&*items, &*stream, control).await;
    let (work, dead) = (cloud.queue(WORK).await.unwrap(), cloud.queue(DEAD).await.unwrap());
    queue::run_all(&*work, &*dead).await;
    let (bus, events) = (cloud.event_bus(BUS).await.unwrap(), cloud.queue(EVENTS).await.unwrap());
    event_bus::run_all(&*bus, &*events).await;
}

/// A name that nobody used before.
fn fresh(label: &str) -> String {
    format!("{label}-{:016x}", rand::random::<u64>())
}

/// Asks until there is an answer, for a bounded time.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let (began, mut pause) = (Instant::now(), Duration::from_millis(5));
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(1));
    }
}
